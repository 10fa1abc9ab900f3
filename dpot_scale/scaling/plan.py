"""The sweep as a pure plan: every trial with its price, before anything is spent.

No torch, DeepSpeed, Ray or MLflow here.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dpot_scale.config.identity import Contents, changed_content, identity
from dpot_scale.config.load import load_run, validate
from dpot_scale.config.places import RUN_CONFIG, TRIALS
from dpot_scale.config.run import RunConfig
from dpot_scale.config.sweep import SweepConfig
from dpot_scale.engine.memory import GIB, MIB
from dpot_scale.errors import ConfigError
from dpot_scale.runs.contents import read_contents, recorded
from dpot_scale.runs.resolved import Run, resolve
from dpot_scale.terminal import duration, table

# Seconds for Ray to start the workers of a trial and for those to import torch and DeepSpeed, to
# evaluate and to save (measured on two cores); no more than that on a cluster.
TRIAL_OVERHEAD_SECONDS = 20.0
# Resident memory of a Ray worker that mirrors to MLflow beyond that of a rank of `deepspeed` that
# does not (measured on CPU, Ray 2.60, MLflow 3.17: 68 MiB and 60 MiB).
RAY_WORKER = 128 * MIB


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """A planned run and its price."""

    id: str  # model, windows and the beginning of its identity
    label: str  # of the model in the ladder
    run: RunConfig
    contents: Contents  # what it reads beside its config
    parameters: int
    block_parameters: int
    train_flops: float
    worker_gib: float  # estimated peak memory of one worker
    seconds: float  # estimated


def plan(sweep: SweepConfig) -> tuple[Trial, ...]:
    """Return the trials of a sweep, the cheapest first.

    Raises:
        ConfigError: a model does not divide, a batch does not divide among the workers, a number
            of windows does not fill batches, or the strategy lacks something.
        DataError: the index of a dataset cannot be read.
    """
    contents = read_contents(sweep.run, sweep.directory)
    trials = [
        _plan_trial(sweep, contents, label, windows)
        for windows in sweep.windows
        for label in sweep.ladder
    ]
    return tuple(sorted(trials, key=lambda trial: trial.train_flops))


def plan_table(sweep: SweepConfig, trials: Sequence[Trial]) -> str:
    """Return the plan as text: one line per trial, and the totals."""
    resources = sweep.resources
    rows = [
        (
            trial.id,
            trial.label,
            f"{trial.parameters:,}",
            f"{trial.run.windows:,}",
            f"{trial.run.steps:,}",
            f"{trial.train_flops:.2e}",
            f"{trial.worker_gib:.2f} GiB",
            duration(trial.seconds),
        )
        for trial in trials
    ]
    header = ("trial", "size", "parameters", "windows", "steps", "FLOPs", "memory/worker", "time")
    flops = sum(trial.train_flops for trial in trials)
    seconds = sum(trial.seconds for trial in trials)
    kind = {"auto": "", 0: "CPU ", 1: "GPU "}[resources.gpus_per_worker]
    unsettled = (
        "\nmemory is that of CPU workers; each gets a GPU where the cluster has enough "
        "(resources.gpus_per_worker=auto)"
    )
    return (
        f"sweep {sweep.name}: {len(trials)} trials of {resources.workers} {kind}workers each, "
        f"{trials[0].run.engine.deepspeed.name}\n\n"
        f"{table(header, rows, left=2)}\n\n"
        f"total {flops:.2e} FLOPs, about {duration(seconds)} one after another "
        f"(assuming {resources.assumed_flops_per_second:.1e} FLOP/s per worker)"
        f"{'' if kind else unsettled}"
    )


def _plan_trial(sweep: SweepConfig, contents: Contents, label: str, windows: int) -> Trial:
    """Return a trial; a mistake in it is said to be its own."""
    try:
        return _price_trial(sweep, contents, label, windows)
    except ConfigError as error:
        raise ConfigError(f"trial {label}: {error}") from error


def _price_trial(sweep: SweepConfig, contents: Contents, label: str, windows: int) -> Trial:
    run = _run(sweep, contents, label, windows)
    workers = sweep.resources.workers
    on_gpu = sweep.resources.gpus_per_worker == 1  # auto is settled when the cluster is known
    # Raises what would otherwise stop the trial after its workers have started. A micro-batch that
    # is yet to be found is priced as the least.
    resolved = resolve(run, world_size=workers, on_gpu=on_gpu)
    config = resolved.config
    speed = workers * sweep.resources.assumed_flops_per_second
    return Trial(
        id=config.name,
        label=label,
        run=run.config,
        contents=contents,
        parameters=resolved.parameters.total,
        block_parameters=resolved.parameters.blocks,
        train_flops=resolved.train_flops,
        # On a GPU only its own memory is priced.
        worker_gib=(resolved.memory.total + (0 if on_gpu else RAY_WORKER)) / GIB,
        seconds=windows * resolved.flops.computed / speed + TRIAL_OVERHEAD_SECONDS,
    )


def _run(sweep: SweepConfig, contents: Contents, label: str, windows: int) -> Run:
    """Return the run of one trial, named after what it is and placed inside the sweep."""
    values = sweep.run.model_dump() | {
        "model": sweep.ladder[label].model_dump(),
        "windows": windows,
        "output": trials_directory(sweep),
    }
    config = validate(RunConfig, values, f"sweep {sweep.name}")
    known = identity(config, contents)
    name = _find_begun(config, contents, known, f"{label}_w{windows}_")
    return Run(
        config=config.model_copy(update={"name": name or f"{label}_w{windows}_{known[:6]}"}),
        contents=contents,
        identity=known,
    )


def _find_begun(config: RunConfig, contents: Contents, known: str, prefix: str) -> str | None:
    """Return the name under which a trial was begun when identities were found otherwise.

    Args:
        config: The config of the trial.
        contents: What it reads.
        known: Its identity now.
        prefix: The beginning of its name, before the identity.
    """
    for begun in sorted(config.output.glob(f"{prefix}*/{RUN_CONFIG}")):
        if changed_content(recorded(begun.parent), contents.record()):
            continue
        with suppress(ConfigError):  # of a trial that no longer says what it is
            if identity(load_run(str(begun)), contents) == known:
                return begun.parent.name
    return None


def trials_directory(sweep: SweepConfig) -> Path:
    """Return the folder of the runs of a sweep."""
    return sweep.directory / TRIALS
