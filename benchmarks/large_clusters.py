"""What is the first bottleneck on 8, 64 and 512 H100s? By formula, from measured rates.

python benchmarks/large_clusters.py [--storage 10] [--requests 200] [--workers-of-a-trial 8]

For DPOT-L, DPOT-H and a model of 3B parameters it prints what each step waits for at most:
computing, messages, the host that launches kernels, windows from the shared storage; and what a
checkpoint costs. For a sweep of 500 trials it prints what reaches the MLflow server, and how long
its plan takes here. Computing, messages and memory are the functions that `sweep plan` prices by.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from dpot_scale.config.load import load_run, load_sweep
from dpot_scale.config.optim import OptimConfig
from dpot_scale.config.places import resolve_sweep_paths
from dpot_scale.config.run import CheckpointConfig, EngineConfig
from dpot_scale.config.strategy import read_strategy
from dpot_scale.config.sweep import ResourcesConfig, SweepConfig
from dpot_scale.engine.memory import GIB, estimate_memory
from dpot_scale.evaluation.scores import DatasetScore
from dpot_scale.models.dpot.config import DPOTConfig
from dpot_scale.models.dpot.cost import count_flops, count_parameters
from dpot_scale.models.family import Recompute
from dpot_scale.runs.result import TrainingResult, save_result
from dpot_scale.scaling.cluster import Cluster as RayCluster
from dpot_scale.scaling.controller import Controller
from dpot_scale.scaling.cost import (
    DEVICES,
    UTILIZATION_COMPILED,
    sending_seconds,
    window_bytes,
)
from dpot_scale.scaling.plan import Trial, plan
from dpot_scale.tracking.mirror import MIRROR_INTERVAL_SECONDS
from dpot_scale.tracking.mlflow_run import MlflowRun

DEVICE = DEVICES["h100"]
MODELS = {
    "L": DPOTConfig(size="L"),
    "H": DPOTConfig(size="H"),
    "3B": DPOTConfig(size="H", width=3072, depth=37, heads=16),
}
GPUS = (8, 64, 512)
MICRO_BATCH = 64  # at which L, compiled, reaches 35 % of the peak and more
# Milliseconds of the host for a block and a step, compiled, measured with M on an H100
# (benchmarks/gpu_2026-11.md): under ZeRO-3 the host was the limit; under ZeRO-1 it was below this.
HOST_MS_OF_A_BLOCK = {"zero1_bf16": 3.4, "zero3_bf16": 7.5}
WINDOW_BYTES = window_bytes(load_run("paper_l"))  # of 10 frames and the next one, of 4 fields
CHECKPOINT_BYTES = 12  # per parameter: weights and Adam's two moments in fp32 (scaling_cost)
SETTINGS = {
    "computing": "nothing: the GPUs are busy",
    "sending": "engine.deepspeed=zero1_bf16, or more windows per GPU",
    "host": "engine.deepspeed=zero1_bf16, or more windows per GPU",
    "reading": "data.root on a disk of each node",
    "saving": "checkpoint.minutes",
}


class Row(NamedTuple):
    """A model on a cluster: the seconds of a step that each resource takes."""

    strategy: str
    memory_gib: float
    seconds: Mapping[str, float]
    windows: int

    @property
    def first(self) -> str:
        """The resource that a step waits for."""
        return max(self.seconds, key=lambda name: self.seconds[name])

    @property
    def step(self) -> float:
        """Seconds of a step: the slowest of what overlaps, and of saving, which does not."""
        overlapping = [value for name, value in self.seconds.items() if name != "saving"]
        return max(overlapping) + self.seconds["saving"]


@dataclass(frozen=True)
class Cluster:
    """What the cluster has besides its GPUs."""

    storage: float  # bytes/s that all nodes together read or write
    minutes: float = CheckpointConfig().minutes  # between checkpoints


def row(model: DPOTConfig, gpus: int, cluster: Cluster) -> Row:
    """Return where a step goes: under ZeRO-1 if the model fits so, else under ZeRO-3."""
    for name in ("zero1_bf16", "zero3_bf16"):
        memory = memory_gib(model, name, gpus)
        if memory <= DEVICE.gib:
            break
    strategy = read_strategy(name)
    parameters = count_parameters(model).total
    computing = MICRO_BATCH * count_flops(model, Recompute()).computed
    seconds = {
        "computing": computing / (UTILIZATION_COMPILED * DEVICE.peak["bf16"]),
        "sending": sending_seconds(parameters, strategy, DEVICE, world_size=gpus),
        "host": HOST_MS_OF_A_BLOCK[name] / 1e3 * model.depth,
        "reading": MICRO_BATCH * gpus * WINDOW_BYTES / cluster.storage,
    }
    steps_between = 60 * cluster.minutes / max(seconds.values())
    seconds["saving"] = save_seconds(model, cluster) / steps_between
    return Row(name, memory, seconds, MICRO_BATCH * gpus)


def memory_gib(model: DPOTConfig, strategy: str, gpus: int) -> float:
    """Return the memory of a GPU."""
    engine = EngineConfig(deepspeed=read_strategy(strategy), compile=True)
    estimate = estimate_memory(
        model, engine, OptimConfig(), world_size=gpus, micro_batch=MICRO_BATCH, on_gpu=True
    )
    return estimate.total / GIB


def checkpoint_bytes(model: DPOTConfig) -> int:
    """Return the size of a checkpoint."""
    return CHECKPOINT_BYTES * count_parameters(model).total


def save_seconds(model: DPOTConfig, cluster: Cluster) -> float:
    """Return how long a checkpoint takes."""
    return checkpoint_bytes(model) / cluster.storage


def archive_seconds(model: DPOTConfig, cluster: Cluster) -> float:
    """Return how long its copy into an archive in the same storage takes, which is read there."""
    return 2 * checkpoint_bytes(model) / cluster.storage


def print_models(cluster: Cluster) -> None:
    """Print a row for each model and number of GPUs."""
    names = ("computing", "sending", "host", "reading", "saving")
    print(f"| model | GPUs | strategy | GiB | {' | '.join(f'{name} ms' for name in names)} "
          "| windows/s | read GB/s | save s | first | what moves it |")  # fmt: skip
    print("|---|--:|---|--:|" + "--:|" * (len(names) + 3) + "---|---|")
    for name, model in MODELS.items():
        for gpus in GPUS:
            found = row(model, gpus, cluster)
            parts = " | ".join(f"{1e3 * found.seconds[part]:.3g}" for part in names)
            speed = found.windows / found.step
            print(f"| {name} | {gpus} | {found.strategy} | {found.memory_gib:.0f} | {parts} "
                  f"| {speed:,.0f} | {speed * WINDOW_BYTES / 1e9:.3g} "
                  f"| {save_seconds(model, cluster):.1f} | {found.first} "
                  f"| {SETTINGS[found.first]} |")  # fmt: skip


def print_checkpoints(cluster: Cluster) -> None:
    """Print what a checkpoint of each model costs, on any number of GPUs."""
    print("\n| model | checkpoint GB | save s | archive s |\n|---|--:|--:|--:|")
    for name, model in MODELS.items():
        size = checkpoint_bytes(model) / 1e9
        saved, archived = save_seconds(model, cluster), archive_seconds(model, cluster)
        print(f"| {name} | {size:.1f} | {saved:.1f} | {archived:.1f} |")


def print_sweep(seeds: int = 100) -> None:
    """Print what a sweep of 500 trials asks of its own driver."""
    sizes = {"ladder": {"parameters": [1e6, 2e6, 4e6, 8e6, 16e6]}}
    design = [sizes, {"seeds": list(range(seeds))}]
    settings = ["ladder=null", "windows=null", f"design={json.dumps(design)}"]
    quiet = ["run.tracking.mlflow_uri=null", "run.data.suite=null"]
    with tempfile.TemporaryDirectory() as folder:
        sweep = resolve_sweep_paths(load_sweep("quickstart", [*settings, *quiet]), Path(folder))
        sweep.directory.mkdir(parents=True)
        begun = time.process_time()
        trials = plan(sweep)
        planned = time.process_time()
        control(sweep, trials)
        controlled = time.process_time()
    print(f"\n{len(trials)} trials: planned in {planned - begun:.1f} CPU seconds; begun, noted and "
          f"ended, 64 at a time, in {controlled - planned:.1f}")  # fmt: skip


def print_requests(requests: float, workers: int) -> None:
    """Print what the trials of a sweep ask of the MLflow server."""
    for gpus in GPUS:
        together = gpus // workers
        rate = together / MIRROR_INTERVAL_SECONDS
        verdict = "fits" if rate <= requests else "too many: raise tracking.log_every"
        print(f"\n{gpus} GPUs train {together} trials of {workers} workers at a time: at most "
              f"{rate:.3g} requests/s to MLflow of {requests:g}: {verdict}")  # fmt: skip


class Instant:
    """A cluster on which every trial has ended when it begins."""

    def __init__(self) -> None:
        self.cluster = RayCluster(resources=ResourcesConfig(gpus_per_worker=0), trials=64)

    def wait_for_room(
        self,
        sizes: Sequence[int],
        give_up: Callable[[], bool],  # noqa: ARG002
        say: Callable[[str], None],  # noqa: ARG002
    ) -> int:
        """There is always room."""
        return sizes[0]

    def free_workers(self) -> int:
        """None is needed."""
        return 0

    def train(self, trial: Trial, attempt: int, workers: int) -> bool:  # noqa: ARG002
        """Write the result of a trial."""
        score = DatasetScore(rel_l2=0.1, one_step_rel_l2=0.1, persistence_rel_l2=0.2,
                             persistence_one_step_rel_l2=0.2)  # fmt: skip
        result = TrainingResult(
            name=trial.id, identity="0" * 12, datasets={}, world_size=1,
            parameters=trial.parameters, block_parameters=trial.block_parameters,
            windows=trial.run.windows, steps=trial.run.steps, seconds=1.0,
            train_flops=trial.train_flops, windows_per_second=1.0, peak_memory_gib=1.0,
            final_train_loss=0.1, evaluation={"pde": score},
        )  # fmt: skip
        save_result(trial.run.directory, result)
        return True

    def abandon(self) -> None:
        """Nothing runs."""


def control(sweep: SweepConfig, trials: list[Trial]) -> None:
    """Let the controller of a sweep see all its trials to their ends."""
    parent_run = MlflowRun(sweep.directory, sweep, sweep.run.tracking, name=sweep.name)
    launcher = Instant()
    Controller(
        sweep=sweep, trials=trials, parent_run=parent_run, launcher=launcher, say=lambda _: None
    ).run()


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--storage", type=float, default=10, help="GB/s in all; default 10")
    parser.add_argument("--requests", type=float, default=200, help="a second, of MLflow")
    parser.add_argument("--workers-of-a-trial", type=int, default=8)
    args = parser.parse_args()
    print_models(Cluster(storage=1e9 * args.storage))
    print_checkpoints(Cluster(storage=1e9 * args.storage))
    print_sweep()
    print_requests(args.requests, args.workers_of_a_trial)


if __name__ == "__main__":
    main()
