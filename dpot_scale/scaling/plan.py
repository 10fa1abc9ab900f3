"""The sweep as a pure plan: every trial with its price, before anything is spent.

No torch, DeepSpeed, Ray or MLflow here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from dpot_scale.config.identity import Contents
from dpot_scale.config.run import RunConfig
from dpot_scale.config.sentences import nearest
from dpot_scale.config.sweep import SweepConfig
from dpot_scale.engine.memory import GIB, MIB
from dpot_scale.errors import ConfigError
from dpot_scale.runs.resolved import ResolvedRun, Run, require_trainable, resolve
from dpot_scale.scaling.cost import (
    DEVICES,
    UNNAMED_CPU,
    UNNAMED_GPU,
    DeviceName,
    StepCost,
    assumed_speed,
    step_cost,
)
from dpot_scale.scaling.design import FactorValue, Point, constant_steps, points_of
from dpot_scale.scaling.identified import Identified
from dpot_scale.scaling.rates import probe_points, read_rates, require_one_family, with_rate
from dpot_scale.scaling.speeds import known_speeds, measured_speed

# Seconds for Ray to start the workers of a trial and for those to import torch and DeepSpeed, to
# evaluate and to save (measured on two cores); no more than that on a cluster.
TRIAL_OVERHEAD_SECONDS = 20.0
# Resident memory of a Ray worker that mirrors to MLflow beyond that of a rank of `deepspeed` that
# does not (measured on CPU, Ray 2.60, MLflow 3.17: 68 MiB and 60 MiB).
RAY_WORKER = 128 * MIB


# What a trial is for: a point of the laws; one that waits for the rates of a probe, from which its
# config and its id follow; or one of the probe.
Role = Literal["point", "unprobed", "probe"]


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
    train_flops: float  # of the model and of the optimizer's updates
    worker_gib: float  # estimated peak memory of one worker, where they are fewest
    together_gib: float  # of all workers, of as many as need most
    seconds: float  # estimated, with the most workers
    sending_seconds: float = 0.0  # of the messages between workers, which computing may hide
    host_seconds: float = 0.0  # of launching kernels on GPUs, which computing may hide
    role: Role = "point"
    update_flops: float = 0.0  # of `train_flops`, those of the updates

    @property
    def model_flops(self) -> float:
        """The training FLOPs of the model alone."""
        return self.train_flops - self.update_flops

    @property
    def own_flops(self) -> float:
        """The training FLOPs of the steps that it does not share with a trunk."""
        shared = self.after.step / self.run.steps if self.after is not None else 0.0
        return (1 - shared) * self.train_flops

    def tags(self) -> dict[str, str]:
        """Return by what it is found in MLflow."""
        factors = {f"factor.{name}": str(value) for name, value in self.factors.items()}
        return {**factors, "trial": self.id, "size": self.label}


def plan(sweep: SweepConfig, device: DeviceName | None = None) -> tuple[Trial, ...]:
    """Return the trials of a sweep: those of its probe, if any, and all others, the cheapest first.

    Args:
        sweep: The sweep.
        device: What prices the workers; None for this machine, as fast as trials were here.

    Raises:
        ConfigError: a point of the design is not possible, two points are the same run, a batch
            does not divide among the least or the most workers, or the strategy lacks something.
        DataError: the index of a dataset cannot be read.
        RecordError: the rates that a probe found cannot be read.
    """
    sweep = on_device(sweep, device)
    prices = _Prices(sweep, device)
    points = points_of(sweep)
    if sweep.rules.probe is None:
        return _in_order(_plan_points(sweep, prices, points, "point"))
    of_probe = probe_points(sweep, sweep.rules.probe)
    require_one_family(of_probe, points)
    small = _plan_points(sweep, prices, of_probe, "probe")
    rates = read_rates(sweep.directory)
    if rates is not None and not rates.are_of([trial.id for trial in small]):
        rates = None  # of another probe
    if rates is not None:
        points = [
            replace(point, run=with_rate(point.run, rates.rate(point.run.model), sweep.run.optim))
            for point in points
        ]
    role: Role = "unprobed" if rates is None else "point"
    return _in_order(small) + _in_order(_plan_points(sweep, prices, points, role))


def _in_order(trials: Sequence[Trial]) -> tuple[Trial, ...]:
    """Return trials by the FLOPs of their models."""
    return tuple(sorted(trials, key=lambda trial: trial.model_flops))


def _plan_points(
    sweep: SweepConfig, prices: "_Prices", points: Sequence[Point], role: Role
) -> list[Trial]:
    known = Identified(sweep)
    runs = [known.run(point, is_settled=role != "unprobed") for point in points]
    trials = [
        _plan_trial(prices, point, run, _after(known, point, run))
        for point, run in zip(points, runs, strict=True)
    ]
    return [replace(trial, role=role) for trial in trials]


def _after(known: Identified, point: Point, run: Run) -> After | None:
    """Return where the trunk of a branch and the branch part."""
    if point.trunk_windows is None:
        return None
    trunk = known.name_of(run.config.model_copy(update={"windows": point.trunk_windows}), run)
    return After(trial=trunk, step=constant_steps(run.config))


def named(trials: Sequence[Trial], names: Sequence[str]) -> tuple[Trial, ...]:
    """Return the trials of these names, or all where none is named.

    Branches come with their trunks, and what waits for a probe with its trials.

    Raises:
        ConfigError: there is no trial of such a name.
    """
    known = {trial.id: trial for trial in trials}
    for name in names:
        if name not in known:
            raise ConfigError(f"there is no trial {name!r}{nearest(name, known)}")
    wanted = set(names or known)
    wanted |= {t.after.trial for t in trials if t.id in wanted and t.after is not None}
    if any(t.id in wanted and t.role == "unprobed" for t in trials):
        wanted |= {t.id for t in trials if t.role == "probe"}
    return tuple(trial for trial in trials if trial.id in wanted)


def on_device(sweep: SweepConfig, device: DeviceName | None) -> SweepConfig:
    """Return a sweep whose workers are of the kind of a device that is named."""
    if device is None:
        return sweep
    gpus = int(DEVICES[device].is_gpu)
    resources = sweep.resources.model_copy(update={"gpus_per_worker": gpus})
    return sweep.model_copy(update={"resources": resources})


def worker_gib(run: ResolvedRun) -> float:
    """Return the estimated peak memory of one worker; on a GPU only that of the GPU."""
    return (run.memory.total + (0 if run.on_gpu else RAY_WORKER)) / GIB


class _Prices:
    """What a run costs on the workers of a sweep."""

    def __init__(self, sweep: SweepConfig, device: DeviceName | None) -> None:
        self._resources, self._device = sweep.resources, device
        self._speeds = known_speeds(sweep.run.output, sweep.resources) if device is None else []

    @property
    def are_settled(self) -> bool:
        """Whether the kind of the workers is: `auto` awaits a cluster, which may have GPUs."""
        return self._resources.gpus_per_worker != "auto"

    def most_and_least(self, run: Run) -> tuple[ResolvedRun, ResolvedRun]:
        """Return a run on the most workers, which price it, and on the least, where it must fit."""
        most, least = self._resources.most_workers, self._resources.least_workers
        on_most = self._resolve(run, most)
        return on_most, on_most if most == least else self._resolve(run, least)

    def _resolve(self, run: Run, workers: int) -> ResolvedRun:
        """Return a run on so many workers.

        A micro-batch that is yet to be found is priced as the largest that fits a GPU by the
        estimate, and as the least on CPUs, whose messages cost nothing here.
        """
        on_gpu = self._resources.gpus_per_worker == 1  # auto is settled when the cluster is known
        found = resolve(run, world_size=workers, on_gpu=on_gpu)
        share = run.config.batch.global_batch // workers
        if run.config.batch.micro_batch != "auto" or not on_gpu:
            return found
        room = DEVICES[self._device or UNNAMED_GPU].gib
        for size in (n for n in range(share, 1, -1) if share % n == 0):
            larger = resolve(run, world_size=workers, on_gpu=True, micro_batch=size)
            if room is not None and worker_gib(larger) <= room:
                return larger
        return found

    def step(self, run: ResolvedRun) -> StepCost:
        """Return what a step of a run costs."""
        if self._device is not None:
            return step_cost(run, self._device, assumed_speed(run, self._device))
        speed = measured_speed(run, self._speeds)
        if speed is not None:  # messages and the host are in what was measured
            return step_cost(run, UNNAMED_CPU, speed)
        kind = UNNAMED_GPU if run.on_gpu else UNNAMED_CPU
        assumed = self._resources.assumed_flops_per_second
        return step_cost(run, kind, assumed or assumed_speed(run, kind))


def _plan_trial(prices: _Prices, point: Point, run: Run, after: After | None) -> Trial:
    """Return a trial; a mistake in it is said to be its own."""
    try:
        # Raises what would otherwise stop the trial after its workers have started.
        resolved, on_least = prices.most_and_least(run)
        if prices.are_settled:
            require_trainable(resolved)
    except ConfigError as error:
        raise ConfigError(f"trial {point.label}: {error}") from error
    config = resolved.config
    steps = config.steps - (after.step if after else 0)
    cost = prices.step(resolved)
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
        update_flops=resolved.all_update_flops,
        worker_gib=worker_gib(on_least),
        together_gib=max(one.world_size * worker_gib(one) for one in (resolved, on_least)),
        seconds=steps * cost.seconds + TRIAL_OVERHEAD_SECONDS,
        sending_seconds=steps * cost.sending,
        host_seconds=steps * cost.host,
    )
