"""One training, from its config to its result: what the entry and the workers of a sweep call.

Neither Ray nor an MLflow server is needed.
"""

import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median

from dpot_scale.checkpoints.checkpoint import TrainState
from dpot_scale.checkpoints.store import CheckpointStore
from dpot_scale.checkpoints.weights_file import stream_model
from dpot_scale.config.identity import run_hash
from dpot_scale.config.load import dump
from dpot_scale.config.places import CHECKPOINTS, RUN_CONFIG, WEIGHTS
from dpot_scale.config.run import EvaluationConfig, RunConfig
from dpot_scale.data.datasets import open_datasets
from dpot_scale.data.store.dataset import DatasetStore
from dpot_scale.data.stream.mixture import open_mixture
from dpot_scale.data.stream.reader import BatchStream, training_windows
from dpot_scale.engine.collectives import on_every_rank, on_main, raise_on_all
from dpot_scale.engine.engine import Engine
from dpot_scale.engine.memory import estimate_memory
from dpot_scale.engine.runtime import World, announced_world_size, start_world, trains_on_gpu
from dpot_scale.engine.strategy import effective_deepspeed_config, read_strategy
from dpot_scale.engine.zero import ZeroEngine
from dpot_scale.errors import ConfigError, UserError, speaks_for_all, this_command
from dpot_scale.evaluation.evaluator import DatasetEvaluation, Evaluator
from dpot_scale.evaluation.figures import save_figures
from dpot_scale.files import write_whole
from dpot_scale.models.dpot.cost import count_parameters, train_flops_per_window
from dpot_scale.models.dpot.sizes import Architecture, architecture
from dpot_scale.runs.folder import finished_before
from dpot_scale.runs.inputs import inputs_of, require_agreement_of_ranks, require_same_inputs
from dpot_scale.runs.lock import only_run_in
from dpot_scale.runs.micro_batch import settle_micro_batch
from dpot_scale.runs.result import TrainingResult, save_result
from dpot_scale.runs.start import first_state
from dpot_scale.terminal import aligned, print_line
from dpot_scale.tracking import names
from dpot_scale.tracking.mlflow_run import MlflowRun, Status
from dpot_scale.tracking.spool import SPOOL, read_metrics
from dpot_scale.tracking.tracker import Tracker
from dpot_scale.training.console import Console
from dpot_scale.training.health import StopReason, never
from dpot_scale.training.loop import Trainer
from dpot_scale.training.meter import peak_memory_gib

FIGURES = "figures"
DEEPSPEED_CONFIG = "deepspeed.json"  # as DeepSpeed got it


class TrainingStoppedError(UserError):
    """The run was told to end before its last step, and saved; starting it again continues it."""


class TrainingDivergedError(UserError):
    """The loss or the gradient is not finite, step after step."""


def run_training(
    config: RunConfig,
    *,
    opens_mlflow_run: bool = True,
    told_to_stop: Callable[[], bool] = never,
) -> TrainingResult:
    """Train a run to its end, from its newest checkpoint if it has one.

    Every rank calls this, under any launcher. The run directory then holds the config, metrics,
    checkpoints, figures, the weights in fp32 and the result. A finished run returns at once.

    Args:
        config: The run.
        opens_mlflow_run: Whether the main rank opens and closes the MLflow run, if
            `tracking.mlflow_uri` is set. If not, a driver does, and the metrics go to its run.
        told_to_stop: Asked after each step: whether the run is to save and end, as a signal to a
            rank would make it; one rank that says so is enough.

    Raises:
        ConfigError, DataError, CheckpointError: the user can mend it.
        TrainingStoppedError: it was told to stop, by a signal or by `told_to_stop`.
        TrainingDivergedError: the loss or the gradient is not finite, step after step.
    """
    finished = finished_before(config)
    if finished is not None:
        return finished
    _check(config)
    stores, problem = _open_stores(config)
    world = start_world(config.seed)
    raise_on_all(problem, world)
    inputs = inputs_of(config, stores)
    with only_run_in(config.directory, world):
        require_agreement_of_ranks(config, inputs, world)
        sized = settle_micro_batch(config, world, print_line)
        evaluation = config.evaluation
        if sized is not config:  # more windows than those may not fit
            most = min(evaluation.batch, sized.batch.settled_micro_batch)
            evaluation = evaluation.model_copy(update={"batch": most})
        return _train(sized, evaluation, world, stores, inputs, opens_mlflow_run, told_to_stop)


def _check(config: RunConfig) -> None:
    """Find what is wrong with a config before hours are spent on generating its data."""
    known = config if config.batch.micro_batch != "auto" else config.with_micro_batch(1)
    on_gpu = trains_on_gpu()
    effective_deepspeed_config(known, announced_world_size(), on_gpu=on_gpu)
    if read_strategy(config.engine.deepspeed).dtype == "fp16" and not on_gpu:
        raise ConfigError(
            f"engine.deepspeed={config.engine.deepspeed} computes in fp16, which DeepSpeed does on "
            "GPUs only; choose a bf16 or fp32 one"
        )


def _train(
    config: RunConfig,
    evaluation: EvaluationConfig,
    world: World,
    stores: Mapping[str, DatasetStore],
    inputs: Mapping[str, str],
    opens_mlflow_run: bool,
    told_to_stop: Callable[[], bool],
) -> TrainingResult:
    """Build what the loop needs, run it, and keep what it produced."""
    started = time.perf_counter()
    engine = ZeroEngine(config, world)
    checkpoints = CheckpointStore(
        config.directory / CHECKPOINTS,
        config=config.checkpoint,
        config_hash=run_hash(config),
        world=world,
        inputs=inputs,
    )
    state = first_state(config, engine, checkpoints)
    evaluator = Evaluator(engine, stores, evaluation, config.model, config.data, world)
    stream = _open_stream(config, world, stores)
    console = Console(is_main=world.is_main, total_steps=config.steps)
    # Not before the checkpoints have accepted the config: a refused one leaves no trace.
    require_same_inputs(config.directory, inputs, world)
    on_main(lambda: _write_configs(config, engine), world, config.directory)
    with _mlflow_run(config, opens=opens_mlflow_run and world.is_main):
        tracker = _open_tracker(config, world)
        trainer = Trainer(
            config=config,
            world=world,
            engine=engine,
            stream=stream,
            tracker=tracker,
            console=console,
            evaluate=evaluator,
            save=partial(checkpoints.save, engine),
            train_flops_per_window=_train_flops_per_window(config),
            told_to_stop=told_to_stop,
        )
        console.start(_header(config, world), first_step=state.step)
        if state.step == 0:  # so that runs can be plotted against their size
            parameters = count_parameters(architecture(config.model)).total
            _record({names.PARAMETERS: parameters}, TrainState(), config, world, tracker)
        try:
            stop, state = trainer.fit(state)
            _raise_unless_finished(stop, state, config, trainer.meter.skipped_in_a_row)
            if not evaluator.latest:  # the attempt before ended between last checkpoint and result
                _record(evaluator(), state, config, world, tracker)
        finally:
            stream.close()
            tracker.close()
            console.close()
        seconds = time.perf_counter() - started
        return _keep(config, world, engine, evaluator.latest, seconds)


@contextmanager
def _mlflow_run(config: RunConfig, *, opens: bool) -> Iterator[None]:
    """Open the MLflow run if that is up to this process, and close it with its status."""
    if not opens:
        yield
        return
    run = MlflowRun(config.directory, config, config.tracking, name=config.name)
    status: Status = "FAILED"
    try:
        run.open()
        yield
        status = "FINISHED"
    except (TrainingStoppedError, KeyboardInterrupt):
        status = "KILLED"
        raise
    finally:
        run.close(status, artifacts=run_artifacts(config.directory))


def _open_tracker(config: RunConfig, world: World) -> Tracker:
    def open_spool() -> Tracker:
        return Tracker(config.directory, config.tracking, is_main=world.is_main)

    return on_every_rank(open_spool, world, config.directory / SPOOL)


def _record(
    metrics: Mapping[str, float],
    state: TrainState,
    config: RunConfig,
    world: World,
    tracker: Tracker,
) -> None:
    on_every_rank(lambda: tracker.log(metrics, step=state.step), world, config.directory / SPOOL)


def _write_configs(config: RunConfig, engine: ZeroEngine) -> None:
    write_whole(config.directory / RUN_CONFIG, dump(config))
    text = json.dumps(engine.deepspeed_config, indent=2)
    write_whole(config.directory / DEEPSPEED_CONFIG, text)


def _open_stores(config: RunConfig) -> tuple[dict[str, DatasetStore], UserError | None]:
    """Return the datasets, or why this rank, if not all, cannot have them."""
    try:
        return open_datasets(config.data, config.model, progress=print_line), None
    except UserError as error:
        if announced_world_size() == 1:
            raise
        if not speaks_for_all():  # the main rank may find nothing wrong on its machine
            error = type(error)(f"on {socket.gethostname()}: {error}")
        return {}, error


def _open_stream(
    config: RunConfig, world: World, stores: Mapping[str, DatasetStore]
) -> BatchStream:
    frames = config.model.history + config.objective.unroll * config.model.horizon
    windows = training_windows(stores, frames, config.data.strides)
    return BatchStream(
        stores,
        open_mixture(windows, config.data, config.seed),
        model=config.model,
        data=config.data,
        batch=config.batch,
        frames=frames,
        rank=world.rank,
        world_size=world.world_size,
        device=world.device,
    )


def _train_flops_per_window(config: RunConfig) -> float:
    return train_flops_per_window(architecture(config.model), recompute=False)


def _header(config: RunConfig, world: World) -> str:
    """Return what a run is, in a few aligned lines."""
    arch = architecture(config.model)
    count = count_parameters(arch)
    batch = config.batch
    accumulation = batch.accumulation_steps(world.world_size)
    memory = estimate_memory(
        arch,
        config.engine,
        world_size=world.world_size,
        micro_batch=batch.settled_micro_batch,
        on_gpu=world.device.type == "cuda",
    )
    return aligned(
        [
            ("run", f"{config.name}  in {config.directory}"),
            (
                "model",
                f"{count.total:,} parameters, {count.blocks:,} of them in blocks",
            ),
            (
                "batch",
                f"{batch.global_batch} windows = {batch.micro_batch} per rank x "
                f"{world.world_size} ranks x {accumulation} accumulated",
            ),
            ("length", f"{config.windows:,} windows = {config.steps:,} steps"),
            (
                "engine",
                f"{config.engine.deepspeed} on {world.world_size} x {world.device.type}, "
                f"activation checkpointing {config.engine.activation_checkpointing}",
            ),
            ("memory", memory.describe()),
            ("data", ", ".join(f"{n} x {w:g}" for n, w in config.data.weights.items())),
        ]
    )


def _raise_unless_finished(
    stop: StopReason, state: TrainState, config: RunConfig, skipped: int
) -> None:
    if stop is StopReason.SIGNAL:
        raise TrainingStoppedError(
            f"run {config.name} was stopped at step {state.step} of {config.steps} and saved; "
            f"start it again to continue{_how_to_start()}"
        )
    if stop is StopReason.DIVERGED:
        steps = "its last step" if skipped == 1 else f"each of its last {skipped} steps"
        clipping = "a lower " if config.optim.gradient_clipping else ""
        raise TrainingDivergedError(
            f"run {config.name} diverged at step {state.step} of {config.steps}: in {steps} the "
            "loss or the gradient was not finite, so the weights were left as they were; start "
            f"another `name` with what may help: a lower optim.lr, {clipping}"
            "optim.gradient_clipping, or an engine.deepspeed of another precision"
        )


def _how_to_start() -> str:
    """Return the command of this process; nothing where a launcher wrote it."""
    return "" if "RANK" in os.environ else f": {this_command()}"


def _keep(
    config: RunConfig,
    world: World,
    engine: Engine,
    evaluations: Mapping[str, DatasetEvaluation],
    seconds: float,
) -> TrainingResult:
    """Write weights, figures and, last, the result that marks the run as finished. Collective."""
    arch = architecture(config.model)
    count = count_parameters(arch)
    _export(config, arch, world, engine)
    peak = peak_memory_gib(world)
    metrics = read_metrics(config.directory / SPOOL)
    losses = metrics[names.LOSS]
    result = TrainingResult(
        name=config.name,
        config_hash=run_hash(config),
        world_size=world.world_size,
        parameters=count.total,
        block_parameters=count.blocks,
        windows=config.windows,
        steps=config.steps,
        seconds=seconds,
        train_flops=config.windows * _train_flops_per_window(config),
        windows_per_second=median(metrics[names.WINDOWS_PER_SECOND].values()),
        peak_memory_gib=peak,
        final_train_loss=losses[max(losses)],
        evaluation={name: evaluation.score for name, evaluation in evaluations.items()},
    )
    figures = config.directory / FIGURES
    on_main(lambda: save_figures(figures, evaluations), world, figures)
    on_main(lambda: save_result(config.directory, result), world, config.directory)
    return result


def _export(config: RunConfig, arch: Architecture, world: World, engine: Engine) -> None:
    """Write the weights from the main rank. Collective."""
    parameters = engine.full_parameters()

    def write() -> None:
        try:
            if world.is_main:
                stream_model(config.directory / WEIGHTS, arch, parameters)
        finally:
            for _ in parameters:  # each is gathered by all ranks, also where the disk is full
                pass

    on_every_rank(write, world, config.directory)


def run_artifacts(directory: Path) -> dict[Path, str]:
    """Return the files that reviewers want beside the curves, and their folder in MLflow."""
    artifacts = dict.fromkeys(sorted((directory / FIGURES).glob("*.png")), FIGURES)
    deepspeed_config = directory / DEEPSPEED_CONFIG
    return artifacts | ({deepspeed_config: ""} if deepspeed_config.exists() else {})
