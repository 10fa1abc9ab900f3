"""One training, from its config to its result: what the entry and the workers of a sweep call.

Neither Ray nor an MLflow server is needed.
"""

import socket
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, closing, suppress
from functools import partial
from pathlib import Path

from dpot_scale.checkpoints.checkpoint import TrainState
from dpot_scale.checkpoints.store import CheckpointStore
from dpot_scale.config.places import CHECKPOINTS
from dpot_scale.config.run import RunConfig
from dpot_scale.data.channels import TrainingData, training_data
from dpot_scale.data.conditions import require_conditions
from dpot_scale.data.datasets import open_datasets, require_training
from dpot_scale.data.grids import grid_rules
from dpot_scale.data.store.dataset import DatasetStore
from dpot_scale.engine.collectives import from_main, on_every_rank, on_main, raise_on_all
from dpot_scale.engine.engine import Engine
from dpot_scale.engine.peers import lost_peers_named
from dpot_scale.engine.runtime import World, announced_world_size, start_world, trains_on_gpu
from dpot_scale.errors import UserError, short_memory_named, speaks_for_all
from dpot_scale.files import flush_to_disk
from dpot_scale.runs import numbers
from dpot_scale.runs.agreement import require_agreement_of_ranks
from dpot_scale.runs.endings import (
    LESS_MEMORY,
    TrainingStoppedError,
    diverged,
    stopped,
    stopped_words,
)
from dpot_scale.runs.folder import finished_before
from dpot_scale.runs.lock import only_run_in
from dpot_scale.runs.micro_batch import settle_micro_batch
from dpot_scale.runs.outcome import header, keep, require_same_layout, write_configs
from dpot_scale.runs.pulse import Pulse
from dpot_scale.runs.resolved import ResolvedRun, Run, require_trainable, resolve
from dpot_scale.runs.result import TrainingResult
from dpot_scale.runs.rollbacks import Rollbacks, all_described, describe
from dpot_scale.runs.session import Session
from dpot_scale.runs.start import has_begun, look_for_files, require_source
from dpot_scale.runs.tracked import last_words, mlflow_run_of, run_artifacts
from dpot_scale.terminal import print_line, under_way
from dpot_scale.tracking import names
from dpot_scale.tracking.mlflow_run import MlflowRun, record_life
from dpot_scale.tracking.spool import SPOOL
from dpot_scale.tracking.tracker import Tracker
from dpot_scale.training.console import Console
from dpot_scale.training.loop import Trainer
from dpot_scale.training.quarantine import Quarantine
from dpot_scale.training.saving import Saved
from dpot_scale.training.watch import Stop, Verdict, never, sigterm_interrupts


def run_training(
    run: Run,
    *,
    opens_mlflow_run: bool = True,
    told_to_stop: Callable[[], bool] = never,
    preempted: Callable[[], bool] = never,
) -> TrainingResult:
    """Train a run to its end, from its newest checkpoint if it has one.

    Every rank calls this, under any launcher. The run directory then holds the config, metrics,
    checkpoints, figures, the weights in fp32 and the result. A finished run returns at once.

    Args:
        run: The run, as `identify` returns it.
        opens_mlflow_run: Whether the main rank opens and closes the MLflow run, if
            `tracking.mlflow_uri` is set. If not, a driver does, and the metrics go to its run.
        told_to_stop: Asked after each step: whether the run is to save and end, as a signal to a
            rank would make it; one rank that says so is enough.
        preempted: Asked in the same way: whether the machine is about to be taken away.

    Raises:
        ConfigError, DataError, CheckpointError: the user can mend it.
        TrainingStoppedError: it was told to stop, by a signal, by `told_to_stop` or `preempted`, or
            `limits.wall_clock` was over.
        MachineError: it cannot read its data now, which may be intact.
        ShortMemoryError: its device or machine has too little memory.
        LostPeerError: another rank ended, or did not answer in `limits.collective` minutes.
        KeyboardInterrupt: SIGTERM came where no steps are made; with a sentence.
        TrainingDivergedError: it diverged, once more than `limits.rollbacks` allows.
    """
    wall_clock = run.config.limits.wall_clock
    ends = None if wall_clock is None else time.monotonic() + 60 * wall_clock
    finished = finished_before(run)
    if finished is not None:
        return finished
    # Finds what is wrong with the config before hours are spent on generating its data.
    resolved = resolve(run, world_size=announced_world_size(), on_gpu=trains_on_gpu())
    require_trainable(resolved)
    stores, problem = _open_stores(run.config)
    patience = run.config.limits.patience
    sentence = stopped_words(Stop.SIGTERM, "while it started or ended", run.config)
    memory = short_memory_named(f"run {run.config.name}", LESS_MEMORY)
    with sigterm_interrupts(sentence), lost_peers_named(patience), memory:
        with under_way("starting DeepSpeed and its ranks"):
            world = start_world(run.config.seed, patience)
            raise_on_all(problem, world)
        directory = run.config.directory
        with only_run_in(directory, world):
            # Ranks whose launcher was killed may have come to the end meanwhile.
            finished = from_main(lambda: finished_before(run), world, directory)
            if finished is not None:
                return finished
            require_agreement_of_ranks(run, world)
            with Pulse(directory, world, run.config.limits.hang) as pulse:
                with pulse.waits.paused(), under_way("finding the micro-batch"):
                    settled = settle_micro_batch(resolved, world, print_line)
                return _train(
                    settled, world, stores, opens_mlflow_run, told_to_stop, preempted, ends, pulse
                )


def _train(
    run: ResolvedRun,
    world: World,
    stores: Mapping[str, DatasetStore],
    opens_mlflow_run: bool,
    told_to_stop: Callable[[], bool],
    preempted: Callable[[], bool],
    ends: float | None,
    pulse: Pulse,
) -> TrainingResult:
    """Build what the loop needs, run it, and keep what it produced."""
    started = time.perf_counter()
    config = run.config
    on_main(lambda: require_same_layout(run), world, config.directory)
    data = training_data(stores, config.data)
    checkpoints = _open_checkpoints(run, world, data)
    rollbacks = Rollbacks(config, world)
    with under_way("making the model and its engine"):
        quarantine = Quarantine(config, world)
        session = Session(run, world, stores, data, checkpoints, quarantine, rollbacks.skipped)
    console = Console(is_main=world.is_main, total_steps=config.steps, compiles=pulse.compiles)
    # Not before the checkpoints have accepted the config: a refused one leaves no trace.
    on_main(lambda: write_configs(run), world, config.directory)
    opens = opens_mlflow_run and world.is_main
    with (
        closing(checkpoints),  # last of all: no other rank waits for the archive
        _mlflow_life(run, opens=opens) as life,
        lost_peers_named(config.limits.patience),
        pulse,
    ):
        tracker = _open_tracker(config, world)
        pulse.last_words = partial(last_words, config, tracker, life, opens_mlflow_run)
        about = header(run, _grid_rules(config, stores), session.begun.table)
        console.start(about, first_step=session.begun.state.step)
        tracker.log(numbers.size(run, stores), step=0)
        try:
            make = partial(
                Trainer,
                config=config,
                world=world,
                tracker=tracker,
                console=console,
                train_flops_per_window=run.train_flops_per_window,
                told_to_stop=told_to_stop,
                preempted=preempted,
                ends=ends,
                waits=pulse.waits,
            )
            state = _fit(make, session, checkpoints, rollbacks)
            seconds = _record_end(session, tracker, console, state, started)
            on_main(lambda: _settle(tracker, config), world, config.directory / SPOOL)
        finally:
            session.close()
            checkpoints.settle()
            tracker.close()
            console.close()
        with under_way("writing weights and figures"):
            unread = len(quarantine)
            return keep(run, world, session.engine, session.monitor, data, seconds, unread)


def _record_end(
    session: Session, tracker: Tracker, console: Console, state: TrainState, started: float
) -> float:
    """Record the last scores and the seconds that all took; return these. Collective."""
    # Of data with a valid split, only that one was scored so far; nothing was, if the attempt
    # before ended between the last checkpoint and the result.
    console.at(state.step, "evaluates")
    if scores := session.monitor.report():
        tracker.log(scores, step=state.step)
    seconds = time.perf_counter() - started
    tracker.log(numbers.end(session.monitor, seconds), step=0)
    return seconds


def _settle(tracker: Tracker, config: RunConfig) -> None:
    """Make sure that all that was recorded is on the disk: the result follows from it."""
    tracker.settle()
    _flush_record(config.directory / SPOOL)


def _flush_record(spool: Path) -> None:
    with suppress(FileNotFoundError):  # a record that somebody has removed is worth no training
        flush_to_disk(spool)


def _open_checkpoints(run: ResolvedRun, world: World, data: TrainingData) -> CheckpointStore:
    config = run.config
    checkpoints = CheckpointStore(
        config.directory / CHECKPOINTS,
        config=config.checkpoint,
        identity=run.source.identity,
        world=world,
        model=config.model.dimensions(),
        data=data,
        contents=run.source.contents.record(),
    )
    checkpoints.catch_up()
    return checkpoints


def _fit(
    make: Callable[..., Trainer],
    session: Session,
    checkpoints: CheckpointStore,
    rollbacks: Rollbacks,
) -> TrainState:
    """Train to the last step; go back to the newest commit where the run diverges. Collective.

    Args:
        make: Makes the loop, from what a rollback replaces.
        session: What it trains with.
        checkpoints: The commits of the run.
        rollbacks: Those that were made, and whether another one may be.

    Raises:
        TrainingStoppedError: it was told to stop.
        TrainingDivergedError: it diverged once more than it may.
    """
    while True:
        trainer = make(
            engine=session.engine,
            stream=session.stream,
            quarantine=session.quarantine,
            evaluate=session.monitor,
            save=partial(_save, checkpoints, session.engine),
            save_has_failed=lambda: checkpoints.has_failed,
            past=session.past,
        )
        verdict, state = trainer.fit(session.begun.state)
        config, console, trouble = trainer.config, trainer.console, trainer.trouble
        if verdict is Verdict.DIVERGED:
            checkpoints.settle()  # it goes back to an older one where the newest save has failed
        else:
            checkpoints.finish()
        if verdict is Verdict.FINISHED:
            return state
        if verdict is Verdict.STOPPED:
            how = f"at step {state.step} of {config.steps} and saved"
            raise stopped(trainer.stop, how, config)
        assert trouble is not None
        rollback = rollbacks.of(trouble)
        windows = describe(rollback, session.mixture)
        if not rollbacks.are_left:
            before = all_described(rollbacks.made, session.mixture)
            raise diverged(trouble, f"in {windows}{before}", state, config)
        rollbacks.add(rollback)
        if trainer.stop:
            raise stopped(trainer.stop, "before it went back to its last checkpoint", config)
        del trainer  # holds the engine
        session.begin_again(rollbacks.skipped)
        console.say(
            f"went back from step {rollback.step} to step {session.begun.state.step}: "
            f"{trouble.words}; skips {windows}"
        )


def _save(checkpoints: CheckpointStore, engine: Engine, state: TrainState, must: bool) -> Saved:
    """Commit a checkpoint, or begin to; return what is known of it and of the archive.

    What must be saved is committed when this returns. What came of the save before it, which a
    thread may still make, is of no matter then: it is replaced, unless it was of the same state.
    """
    spool = checkpoints.directory.parent / SPOOL
    on_main(lambda: _flush_record(spool), checkpoints.world, spool)  # its steps are not made again
    if must:
        checkpoints.settle()
    if not must or checkpoints.newest != state.step:
        checkpoints.save(engine, state)
    if must:
        checkpoints.finish()
    seconds = checkpoints.take_upload_seconds()
    return Saved(checkpoints.newest, {} if seconds is None else {names.UPLOAD_SECONDS: seconds})


def _mlflow_life(run: ResolvedRun, *, opens: bool) -> AbstractContextManager[MlflowRun]:
    """Return the context in which the MLflow run is open, if that is up to this process."""
    config = run.config
    return record_life(
        mlflow_run_of(config, run.source.contents),
        opens=opens,
        stops=(TrainingStoppedError,),
        artifacts=partial(run_artifacts, config.directory),
    )


def _open_tracker(config: RunConfig, world: World) -> Tracker:
    def open_spool() -> Tracker:
        return Tracker(config.directory, config.tracking, is_main=world.is_main)

    return on_every_rank(open_spool, world, config.directory / SPOOL)


def _open_stores(config: RunConfig) -> tuple[dict[str, DatasetStore], UserError | None]:
    """Return the datasets, or why this rank, if not all, cannot have them or its first weights."""
    try:
        require_source(config)
        stores = open_datasets(config.data, config.model, progress=print_line)
        require_training(stores)
        look_for_files(config, stores)
        if not has_begun(config):  # else a file that is missing must not end it
            require_conditions(stores, config.model)
    except UserError as error:
        if announced_world_size() == 1:
            raise
        if not speaks_for_all():  # the main rank may find nothing wrong on its machine
            error = type(error)(f"on {socket.gethostname()}: {error}")
        return {}, error
    return stores, None


def _grid_rules(config: RunConfig, stores: Mapping[str, DatasetStore]) -> str:
    grids = {name: store.info.grid for name, store in stores.items()}
    return grid_rules(grids, config.model, config.data)
