"""Whether the trials of a plan fit into the memory they get, and the nearest plan that does."""

import os
from collections.abc import Iterator, Sequence
from itertools import product

from dpot_scale.config.run import RunConfig
from dpot_scale.config.strategy import read_strategy
from dpot_scale.config.sweep import SweepConfig
from dpot_scale.engine.memory import GIB
from dpot_scale.errors import ConfigError
from dpot_scale.runs.resolved import Run, resolve
from dpot_scale.scaling.cost import DEVICES, DeviceName
from dpot_scale.scaling.plan import Trial, worker_gib

MOST_WORKERS = 4096


def require_fit(sweep: SweepConfig, trials: Sequence[Trial], device: DeviceName | None) -> None:
    """Make sure that each trial fits into the memory of its workers.

    Args:
        sweep: The sweep, its kind of workers settled.
        trials: Its plan.
        device: What the workers are; None for those of this machine.

    Raises:
        ConfigError: one does not; the sentence proposes the nearest plan in which all do.
    """
    room = _room(sweep, device)
    too_large = [trial for trial in trials if room is not None and trial.worker_gib > room]
    if room is None or not too_large:
        return
    worst = max(too_large, key=lambda trial: trial.worker_gib)
    place = device or f"each of {sweep.resources.workers} workers on this machine"
    proposal = next(_proposals(sweep, too_large, device), None)
    advice = (
        f"the nearest plan that fits: {proposal}"
        if proposal
        else "no sharding, micro-batch or recomputation makes it fit; choose smaller models"
    )
    raise ConfigError(
        f"trial {worst.id} needs {worst.worker_gib:.1f} GiB per worker, and {place} has "
        f"{room:.1f}; {advice}"
    )


def _room(sweep: SweepConfig, device: DeviceName | None) -> float | None:
    """Return the GiB of one worker; None where nothing says how much its GPU has."""
    if device is not None and DEVICES[device].gib is not None:
        return DEVICES[device].gib
    if sweep.resources.gpus_per_worker == 1:
        return None
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
    return machine / sweep.resources.workers


def _proposals(
    sweep: SweepConfig, trials: Sequence[Trial], device: DeviceName | None
) -> Iterator[str]:
    """Yield overrides with which all trials fit, those that change least first.

    None of them changes what a trial computes, so no id changes.
    """
    workers = sweep.resources.workers
    while workers <= MOST_WORKERS:
        resources = sweep.resources.model_copy(update={"workers": workers})
        other = sweep.model_copy(update={"resources": resources})
        room = _room(other, device)
        assert room is not None
        more = {} if workers == sweep.resources.workers else {"resources.workers": workers}
        for settings in _settings(sweep.run, workers):
            if all(_gib(other, trial, settings) <= room for trial in trials):
                of_run = {f"run.{key}": value for key, value in settings.items()}
                yield " ".join(f"{key}={value}" for key, value in {**more, **of_run}.items())
        workers *= 2


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


def _gib(sweep: SweepConfig, trial: Trial, settings: dict[str, str | int]) -> float:
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
    on_gpu = sweep.resources.gpus_per_worker == 1
    try:
        planned = Run(config=config, contents=trial.contents, identity="")
        resolved = resolve(planned, world_size=sweep.resources.workers, on_gpu=on_gpu)
    except ConfigError:
        return float("inf")
    return worker_gib(resolved)
