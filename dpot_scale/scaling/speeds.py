"""How fast trials have trained on this machine, so that the next plan need not assume it.

`speeds.jsonl` lies in the folder of runs, beside the sweeps whose trials it tells of.
"""

import json
import math
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Literal

from dpot_scale.config.base import PositiveInt
from dpot_scale.config.identity import Contents
from dpot_scale.config.record import Record, read_record
from dpot_scale.config.run import RunConfig
from dpot_scale.config.strategy import Dtype
from dpot_scale.config.sweep import ResourcesConfig, SweepConfig
from dpot_scale.errors import DiskError, RecordError
from dpot_scale.files import cannot_write
from dpot_scale.runs.resolved import ResolvedRun, Run, resolve
from dpot_scale.runs.result import TrainingResult, read_result

SPEEDS = "speeds.jsonl"
NEWEST = 1000  # records that are looked at
NEAREST = 5  # records of models of the most similar sizes, whose median is taken


class Speed(Record):
    """How fast one trial trained."""

    format: PositiveInt = 2  # in which the FLOPs of Muon count
    machine: str
    device: Literal["cpu", "gpu"]
    family: str
    dtype: Dtype
    workers: int
    parameters: int
    flops_per_second: float  # of one worker, with recomputed blocks and updates


def speed_of(run: ResolvedRun, result: TrainingResult) -> Speed:
    """Return how fast a finished trial trained."""
    steps_per_second = result.windows_per_second / run.config.batch.global_batch
    return Speed(
        machine=socket.gethostname(),
        device="gpu" if run.on_gpu else "cpu",
        family=run.config.model.family,
        dtype=run.config.engine.deepspeed.dtype,
        workers=run.world_size,
        parameters=result.parameters,
        flops_per_second=steps_per_second * run.step_flops,
    )


def remember_trial(sweep: SweepConfig, config: RunConfig, contents: Contents) -> None:
    """Note how fast a trial was; if that cannot be written, it has finished all the same.

    Args:
        sweep: Its sweep, the kind of workers settled.
        config: The trial.
        contents: What it reads.
    """
    result = read_result(config.directory)
    if result is None:
        return
    run = Run(config=config, contents=contents, identity=result.identity)
    on_gpu = sweep.resources.gpus_per_worker == 1
    with suppress(DiskError):
        remember(sweep, speed_of(resolve(run, world_size=result.world_size, on_gpu=on_gpu), result))


def remember(sweep: SweepConfig, speed: Speed) -> None:
    """Add the speed of a trial to those of the folder of runs.

    Raises:
        DiskError: it cannot be written.
    """
    path = sweep.run.output / SPEEDS
    try:
        with path.open("a", encoding="utf-8") as file:
            # Begins with a line end, too: a crash may have cut the line before.
            file.write(f"\n{speed.model_dump_json()}\n")
    except OSError as error:
        raise cannot_write(path, error) from error


def known_speeds(folder: Path, resources: ResourcesConfig) -> list[Speed]:
    """Return the newest speeds of this machine, of trials with such resources.

    Args:
        folder: The folder of runs.
        resources: Of a trial, whose kind of workers need not be settled.
    """
    path = folder / SPEEDS
    if not path.exists():
        return []
    device = "gpu" if resources.gpus_per_worker == 1 else "cpu"
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines()[-2 * NEWEST :]:
        try:
            speed = read_record(Speed, json.loads(line), path, RecordError)
        except (ValueError, RecursionError, RecordError):
            continue  # cut by a crash, or of a newer version: the next trial measures again
        if speed.format < Speed.newest_format():
            continue  # its FLOPs are others
        here = speed.machine == socket.gethostname()
        if here and (speed.device, speed.workers) == (device, resources.most_workers):
            found.append(speed)
    return found


def speeds_like(run: RunConfig, speeds: Sequence[Speed]) -> list[Speed]:
    """Return the speeds of the family and the precision of a run."""
    like = (run.model.family, run.engine.deepspeed.dtype)
    return [speed for speed in speeds if (speed.family, speed.dtype) == like]


def measured_speed(run: ResolvedRun, speeds: Sequence[Speed]) -> float | None:
    """Return the FLOP/s of a worker by the trials most like a run; None if there are none."""
    like = speeds_like(run.config, speeds)
    size = math.log(run.parameters.total)
    like.sort(key=lambda speed: abs(math.log(speed.parameters) - size))
    return median([s.flops_per_second for s in like[:NEAREST]]) if like else None


def cores() -> int:
    """Return the CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))
