"""The sweep as a pure plan: every trial with its price, before anything is spent.

No torch, DeepSpeed, Ray or MLflow here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dpot_scale.config.identity import Contents
from dpot_scale.config.run import RunConfig
from dpot_scale.config.sweep import SweepConfig
from dpot_scale.engine.memory import GIB, MIB
from dpot_scale.errors import ConfigError
from dpot_scale.runs.resolved import Run, resolve
from dpot_scale.scaling.design import FactorValue, Point, constant_steps, points_of
from dpot_scale.scaling.identified import Identified
from dpot_scale.scaling.rules import describe
from dpot_scale.terminal import duration, table

# Seconds for Ray to start the workers of a trial and for those to import torch and DeepSpeed, to
# evaluate and to save (measured on two cores); no more than that on a cluster.
TRIAL_OVERHEAD_SECONDS = 20.0
# Resident memory of a Ray worker that mirrors to MLflow beyond that of a rank of `deepspeed` that
# does not (measured on CPU, Ray 2.60, MLflow 3.17: 68 MiB and 60 MiB).
RAY_WORKER = 128 * MIB


@dataclass(frozen=True, kw_only=True, slots=True)
class After:
    """Where a trial begins that shares the first steps of another: a branch of a trunk."""

    trial: str  # the trunk
    step: int  # the last one that both have in common


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """A planned run and its price."""

    id: str  # label, windows and the beginning of its identity
    label: str  # what sets it apart beside its length
    factors: Mapping[str, FactorValue]  # the same by factor, with its length
    after: After | None  # None: it begins at step 0
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
        ConfigError: a point of the design is not possible, two points are the same run, a batch
            does not divide among the workers, or the strategy lacks something.
        DataError: the index of a dataset cannot be read.
    """
    known = Identified(sweep)
    points = points_of(sweep)
    runs = [known.run(point) for point in points]
    trials = [
        _plan_trial(sweep, point, run, _after(known, point, run))
        for point, run in zip(points, runs, strict=True)
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
    rules = "".join(f"\n{line}" for line in describe(sweep.rules))
    return (
        f"sweep {sweep.name}: {len(trials)} trials of {resources.workers} {kind}workers each, "
        f"{trials[0].run.engine.deepspeed.name}\n\n"
        f"{table(header, rows, left=2)}\n\n"
        f"total {flops:.2e} FLOPs, about {duration(seconds)} one after another "
        f"(assuming {resources.assumed_flops_per_second:.1e} FLOP/s per worker)"
        f"{'' if kind else unsettled}{rules}"
    )


def _after(known: Identified, point: Point, run: Run) -> After | None:
    """Return where the trunk of a branch and the branch part."""
    if point.trunk_windows is None:
        return None
    trunk = known.name_of(run.config.model_copy(update={"windows": point.trunk_windows}), run)
    return After(trial=trunk, step=constant_steps(run.config))


def _plan_trial(sweep: SweepConfig, point: Point, run: Run, after: After | None) -> Trial:
    """Return a trial; a mistake in it is said to be its own."""
    try:
        return _price_trial(sweep, point, run, after)
    except ConfigError as error:
        raise ConfigError(f"trial {point.label}: {error}") from error


def _price_trial(sweep: SweepConfig, point: Point, run: Run, after: After | None) -> Trial:
    workers = sweep.resources.workers
    on_gpu = sweep.resources.gpus_per_worker == 1  # auto is settled when the cluster is known
    # Raises what would otherwise stop the trial after its workers have started. A micro-batch that
    # is yet to be found is priced as the least.
    resolved = resolve(run, world_size=workers, on_gpu=on_gpu)
    config = resolved.config
    windows = config.windows - (after.step * config.batch.global_batch if after else 0)
    speed = workers * sweep.resources.assumed_flops_per_second
    return Trial(
        id=config.name,
        label=point.label,
        factors=point.factors,
        after=after,
        run=run.config,
        contents=run.contents,
        parameters=resolved.parameters.total,
        block_parameters=resolved.parameters.blocks,
        train_flops=resolved.train_flops,
        # On a GPU only its own memory is priced.
        worker_gib=(resolved.memory.total + (0 if on_gpu else RAY_WORKER)) / GIB,
        seconds=windows * resolved.flops.computed / speed + TRIAL_OVERHEAD_SECONDS,
    )
