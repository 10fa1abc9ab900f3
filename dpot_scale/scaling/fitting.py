"""Whether the trials of a plan fit into the memory they get, and the nearest plan that does."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import inf

from dpot_scale.config.run import RunConfig
from dpot_scale.config.strategy import read_strategy
from dpot_scale.config.sweep import ResourcesConfig, SweepConfig
from dpot_scale.engine.memory import GIB
from dpot_scale.errors import ConfigError
from dpot_scale.runs.resolved import Run, resolve
from dpot_scale.scaling.cost import DEVICES, DeviceName
from dpot_scale.scaling.plan import Trial, worker_gib

MOST_WORKERS = 4096
# What the estimate may say too much: it was up to 6 % above what was measured
# (benchmarks/memory_2026-11.md). What is proposed fits by the estimate itself.
MARGIN = 1.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """A machine of a cluster, as far as workers fit on it."""

    cpus: float
    gpus: float
    gib: float | None  # memory; None: not known
    gpu_gib: float | None  # of each GPU; None: not known

    def workers(self, resources: ResourcesConfig) -> int:
        """Return how many workers have cores and GPUs here."""
        cores = int(self.cpus // resources.cpus_per_worker)
        return min(cores, int(self.gpus)) if resources.gpus_per_worker == 1 else cores

    def room_for(self, resources: ResourcesConfig) -> list[float]:
        """Return the GiB for each worker if there are one, two and so on of them here."""
        of_gpus = resources.gpus_per_worker == 1
        whole = self.gpu_gib if of_gpus else self.gib
        numbers = range(1, self.workers(resources) + 1)
        return [inf if whole is None else whole / (1 if of_gpus else number) for number in numbers]


# Nobody has looked at a cluster.
NO_NODES: Sequence[Node] = ()


def require_fit(
    sweep: SweepConfig,
    trials: Sequence[Trial],
    device: DeviceName | None,
    nodes: Sequence[Node] = NO_NODES,
) -> None:
    """Make sure that each trial fits into the memory of its workers.

    Args:
        sweep: The sweep, its kind of workers settled.
        trials: Its plan.
        device: What the workers are; None for those of this machine or of a cluster.
        nodes: Those of the cluster; empty for this machine.

    Raises:
        ConfigError: one does not, on the least workers or on the most that there may be; the
            sentence proposes the nearest plan in which all do.
    """
    for workers in _ends(sweep.resources, nodes):
        _require_fit_on(workers, sweep, trials, device, nodes)


def _ends(resources: ResourcesConfig, nodes: Sequence[Node]) -> list[int]:
    """Return the least workers, and the most if there are so many on the nodes."""
    least, most = resources.least_workers, resources.most_workers
    there = sum(node.workers(resources) for node in nodes) if nodes else most
    return [least] if least == most or there < most else [least, most]


def _require_fit_on(
    workers: int,
    sweep: SweepConfig,
    trials: Sequence[Trial],
    device: DeviceName | None,
    nodes: Sequence[Node],
) -> None:
    """Make sure that each trial fits into the memory of so many workers."""
    room = _room(sweep.resources.on(workers), device, nodes)
    needs = {trial.id: _need(sweep, trial, device, workers) for trial in trials}
    too_large = [trial for trial in trials if needs[trial.id] > MARGIN * room]
    if not too_large:
        return
    worst = max(too_large, key=lambda trial: needs[trial.id])
    where = "of the cluster" if nodes else "on this machine"
    place = device or f"each of {workers} workers {where}"
    proposal = next(_proposals(sweep, too_large, device, nodes), None)
    advice = (
        f"the nearest plan that fits: {proposal}"
        if proposal
        else "no sharding, micro-batch or recomputation makes it fit; choose smaller models"
    )
    raise ConfigError(
        f"trial {worst.id} needs {needs[worst.id]:.1f} GiB per worker, and {place} has "
        f"{room:.1f}; {advice}"
    )


def hold_together(
    nodes: Sequence[Node], resources: ResourcesConfig, trials: Sequence[Trial]
) -> bool:
    """Return whether nodes have the memory for trials at a time, as far as that is known.

    One alone is another question. GPUs are not shared, so neither is their memory.
    """
    known = [node.gib for node in nodes if node.gib is not None]
    if resources.gpus_per_worker == 1 or len(trials) < 2 or not known or len(known) < len(nodes):
        return True
    return sum(trial.together_gib for trial in trials) <= MARGIN * sum(known)


def _need(sweep: SweepConfig, trial: Trial, device: DeviceName | None, workers: int) -> float:
    """Return the GiB that each of so many workers of a trial needs at least.

    A micro-batch that a run finds itself is as small as it must be.
    """
    is_auto = trial.run.batch.micro_batch == "auto" and device is None
    if workers == sweep.resources.least_workers and not is_auto:
        return trial.worker_gib
    return _gib(sweep.resources.on(workers), trial, {"batch.micro_batch": 1} if is_auto else {})


def machine_gib() -> float:
    """Return the memory of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB


def _room(resources: ResourcesConfig, device: DeviceName | None, nodes: Sequence[Node]) -> float:
    """Return the GiB of each worker: all that can be, where nothing says how much its GPU has.

    On a cluster this is the most for which the nodes hold all workers of a trial.
    """
    workers = resources.least_workers
    if device is not None and (gib := DEVICES[device].gib) is not None:
        return gib
    if nodes:
        # Each place on a node has less than the one before, so the best ones can be had together.
        places = sorted((gib for node in nodes for gib in node.room_for(resources)), reverse=True)
        return places[workers - 1] if len(places) >= workers else 0.0
    return inf if resources.gpus_per_worker == 1 else machine_gib() / workers


def _proposals(
    sweep: SweepConfig,
    trials: Sequence[Trial],
    device: DeviceName | None,
    nodes: Sequence[Node],
) -> Iterator[str]:
    """Yield overrides with which all trials fit, those that change least first.

    None of them changes what a trial computes, so no id changes.
    """
    given = sweep.resources
    least, most = given.least_workers, given.most_workers
    while least <= MOST_WORKERS:
        resources = given.on((least, most) if least < most else least)
        rooms = {n: _room(resources.on(n), device, nodes) for n in _ends(resources, nodes)}
        written = f"[{least},{most}]" if least < most else least
        more = {} if resources == given else {"resources.workers": written}
        for settings in _settings(sweep.run, most):
            needs = ((_gib(given.on(n), trial, settings), n) for n in rooms for trial in trials)
            if all(gib <= rooms[n] for gib, n in needs):
                of_run = {f"run.{key}": value for key, value in settings.items()}
                yield " ".join(f"{key}={value}" for key, value in {**more, **of_run}.items())
        least *= 2
        most = max(least, most)


def _settings(run: RunConfig, workers: int) -> Iterator[dict[str, str | int]]:
    """Yield settings of a run that need less and less memory."""
    share = max(1, run.batch.global_batch // workers)
    given = share if run.batch.micro_batch == "auto" else run.batch.micro_batch
    sizes = [n for n in range(min(given, share), 0, -1) if share % n == 0]
    strategy = run.engine.deepspeed
    below_3 = strategy.stage < 3 and run.engine.kind == "deepspeed" and not run.engine.compile
    keeps = run.engine.activation_checkpointing != "full"
    choices = product((False, True)[: 1 + below_3], (False, True)[: 1 + keeps], sizes)
    for shard, recompute, size in choices:
        settings: dict[str, str | int] = {}
        if size != run.batch.micro_batch:
            settings["batch.micro_batch"] = size
        if recompute:
            settings["engine.activation_checkpointing"] = "full"
        if shard:
            settings["engine.deepspeed"] = f"zero3_{strategy.dtype}"
        yield settings


def _gib(resources: ResourcesConfig, trial: Trial, settings: dict[str, str | int]) -> float:
    """Return the memory of a worker of a trial with other settings; infinity if they cannot be."""
    run = trial.run
    batch, engine = run.batch, run.engine
    if "batch.micro_batch" in settings:
        batch = batch.model_copy(update={"micro_batch": settings["batch.micro_batch"]})
    if "engine.activation_checkpointing" in settings:
        engine = engine.model_copy(update={"activation_checkpointing": "full"})
    if "engine.deepspeed" in settings:
        strategy = read_strategy(str(settings["engine.deepspeed"]))
        engine = engine.model_copy(update={"deepspeed": strategy})
    config = run.model_copy(update={"batch": batch, "engine": engine})
    on_gpu = resources.gpus_per_worker == 1
    try:
        planned = Run(config=config, contents=trial.contents, identity="")
        resolved = resolve(planned, world_size=resources.least_workers, on_gpu=on_gpu)
    except ConfigError:
        return float("inf")
    return worker_gib(resolved)
