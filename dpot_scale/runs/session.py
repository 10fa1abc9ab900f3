"""What trains a run in this process, from a commit on: made anew when the run is rolled back."""

import gc
from collections.abc import Mapping
from functools import partial

from dpot_scale.checkpoints.store import CheckpointStore
from dpot_scale.config.run import EvaluationConfig
from dpot_scale.data.channels import TrainingData
from dpot_scale.data.store.dataset import DatasetStore
from dpot_scale.data.stream.assembly import Assembler
from dpot_scale.data.stream.groups import open_groups
from dpot_scale.data.stream.mixture import Mixture
from dpot_scale.data.stream.reader import BatchStream, Share, training_windows
from dpot_scale.data.stream.spans import Span
from dpot_scale.engine.collectives import from_main
from dpot_scale.engine.engine import Engine
from dpot_scale.engine.runtime import World
from dpot_scale.engine.start import start_engine
from dpot_scale.evaluation.monitor import Monitor
from dpot_scale.runs.resolved import ResolvedRun
from dpot_scale.runs.start import Begun, first_state
from dpot_scale.tracking.spool import SPOOL
from dpot_scale.training.meter import Measured
from dpot_scale.training.quarantine import Quarantine
from dpot_scale.training.spikes import recorded_steps


class Session:
    """The engine at the newest commit, and what is read and scored with it.

    Args:
        run: The run.
        world: The ranks.
        stores: Its datasets.
        data: What it knows of them.
        checkpoints: Its checkpoints.
        quarantine: The windows that it could not read.
        skipped: The positions of the stream that it skips.

    Raises:
        CheckpointError, ConfigError: what the run starts from cannot be used.
    """

    engine: Engine
    monitor: Monitor
    stream: BatchStream
    begun: Begun
    past: list[Measured]  # of the steps before

    def __init__(
        self,
        run: ResolvedRun,
        world: World,
        stores: Mapping[str, DatasetStore],
        data: TrainingData,
        checkpoints: CheckpointStore,
        quarantine: Quarantine,
        skipped: tuple[Span, ...],
    ) -> None:
        self._run = run
        self._world = world
        self._stores = stores
        self._data = data
        self._checkpoints = checkpoints
        self.quarantine = quarantine
        self._begin(skipped)

    @property
    def mixture(self) -> Mixture:
        """Which window is at which position of the stream."""
        return self.stream.mixture

    def begin_again(self, skipped: tuple[Span, ...]) -> None:
        """Go back to the newest commit, or to the start of the run if there is none. Collective.

        With a new engine, as another attempt has one: nothing of what went wrong is left in it.
        """
        self.close()
        del self.engine, self.monitor, self.stream  # before there is another one
        gc.collect()  # engines are cycles
        self._begin(skipped)

    def close(self) -> None:
        """End the thread that reads windows."""
        self.stream.close()

    def _begin(self, skipped: tuple[Span, ...]) -> None:
        run, world, config = self._run, self._world, self._run.config
        self.engine = start_engine(config, world, run.deepspeed)
        self.begun = first_state(config, self.engine, self._checkpoints, self._data)
        self.monitor = Monitor(
            self.engine, self._stores, _evaluation(run), config.model, config.data, world
        )
        self.stream = self._open_stream(skipped)
        spool = config.directory / SPOOL
        find_past = partial(recorded_steps, spool, self.begun.state.step)
        self.past = from_main(find_past, world, spool)

    def _open_stream(self, skipped: tuple[Span, ...]) -> BatchStream:
        config, stores = self._run.config, self._stores
        windows = training_windows(
            stores, config.window_frames, config.data.strides, config.data.most_trajectories
        )
        assembler = Assembler(config.model, config.data, self._world.device)
        mixture = open_groups(
            windows,
            {name: assembler.space_of(store) for name, store in stores.items()},
            config.data,
            global_batch=config.batch.global_batch,
            seed=config.seed,
        )
        share = Share(config.batch, self._world.rank, self._world.world_size, skipped)
        known = self.quarantine.stand_ins
        return BatchStream(stores, mixture, share, assembler, config.window_frames, known)


def _evaluation(run: ResolvedRun) -> EvaluationConfig:
    """Return how to evaluate: with no more windows at a time than were found to fit."""
    evaluation = run.config.evaluation
    if run.source.config.batch.micro_batch == "auto":
        most = min(evaluation.batch, run.config.batch.settled_micro_batch)
        return evaluation.model_copy(update={"batch": most})
    return evaluation
