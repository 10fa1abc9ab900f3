"""What is the first bottleneck on 8, 64 and 512 H100s? By formula, from measured rates.

python benchmarks/large_clusters.py [--storage 10]

For DPOT-L, DPOT-H and a model of 3B parameters, and for presets at their own batches, it prints
what each step waits for: computing, messages, the host that launches kernels, windows from the
shared storage; and which settings move the first of these, one after the other. All but the
storage are the functions that `sweep plan` prices by, and so is memory.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from math import inf
from typing import NamedTuple

from dpot_scale.config.batch import BatchConfig
from dpot_scale.config.identity import Contents, identity
from dpot_scale.config.load import load_run, load_sweep
from dpot_scale.config.run import RunConfig
from dpot_scale.config.strategy import read_strategy
from dpot_scale.engine.memory import GIB
from dpot_scale.models.families import count_parameters
from dpot_scale.runs.resolved import Run, resolve
from dpot_scale.scaling.cost import DEVICES, DeviceName, assumed_speed, step_cost, window_bytes
from dpot_scale.scaling.plan import plan

DEVICE: DeviceName = "h100"
MODELS = {
    "L": "{size: L}",
    "H": "{size: H}",
    "3B": "{size: H, width: 3072, depth: 37, heads: 16}",
}
GPUS = (8, 64, 512)
MICRO_BATCH = 64  # at which L, compiled, reaches 35 % of the peak and more
MOVES = 3  # settings that are shown, at most
NO_CONTENTS = Contents(datasets={})  # a step costs the same whatever the values of its windows
CHECKPOINT_BYTES = 12  # per parameter: weights and Adam's two moments in fp32 (scaling_cost)


@dataclass(frozen=True)
class Cluster:
    """What the cluster has besides its GPUs."""

    storage: float  # bytes/s that all nodes together read or write
    has_local_data: bool = False  # whether each node reads windows from a disk of its own


class Row(NamedTuple):
    """A run on a cluster: the seconds of a step that each resource takes."""

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

    @property
    def speed(self) -> float:
        """Windows per second."""
        return self.windows / self.step

    @property
    def fits(self) -> bool:
        """Whether a GPU has the memory."""
        room = DEVICES[DEVICE].gib
        return room is not None and self.memory_gib <= room


def row(run: RunConfig, gpus: int, cluster: Cluster) -> Row:
    """Return where a step of a run goes on so many GPUs."""
    nameless = Run(config=run, contents=NO_CONTENTS, identity="")
    resolved = resolve(nameless, world_size=gpus, on_gpu=True)
    cost = step_cost(resolved, DEVICE, assumed_speed(resolved, DEVICE))
    windows = run.batch.global_batch
    seconds = {
        "computing": cost.computing,
        "sending": cost.sending,
        "host": cost.host,
        "reading": 0 if cluster.has_local_data else windows * window_bytes(run) / cluster.storage,
    }
    steps_between = 60 * run.checkpoint.minutes / max(seconds.values())
    seconds["saving"] = save_seconds(resolved.parameters.total, cluster) / steps_between
    memory = resolved.memory.total / GIB
    return Row(run.engine.deepspeed.name, memory, seconds, windows)


def moves(run: RunConfig, gpus: int, cluster: Cluster) -> Iterator[tuple[str, Row]]:
    """Give the setting that helps where a run waits first, and the row with it; then the next."""
    now = row(run, gpus, cluster)
    for words, other, there in _settings(run, gpus, cluster, now.first):
        found = row(other, gpus, there)
        if found.fits and found.speed > now.speed:
            yield words, found
            yield from moves(other, gpus, there)
            return


def _settings(
    run: RunConfig, gpus: int, cluster: Cluster, first: str
) -> Iterator[tuple[str, RunConfig, Cluster]]:
    """Give what may help, the least change first: its words, the run and the cluster with it."""
    is_fp32 = run.engine.deepspeed.dtype == "fp32"
    half = ("engine", "deepspeed", read_strategy("zero1_bf16"))
    messages = [
        ("batch", "micro_batch", run.batch.global_batch // gpus),
        ("engine", "deepspeed", read_strategy("zero0_fp32")) if is_fp32 else half,
    ]
    compiled = ("engine", "compile", True)
    changes: Mapping[str, Sequence[tuple[str, str, object]]] = {
        "computing": [("engine", "activation_checkpointing", "none"), compiled, half],
        "sending": messages,
        "host": [*messages, compiled],
        "saving": [("checkpoint", "minutes", 4 * run.checkpoint.minutes)],
        "reading": [],
    }
    for section, key, value in changes[first]:
        words, other = changed(run, section, key, value)
        is_another = identity(run, NO_CONTENTS) != identity(other, NO_CONTENTS)
        yield f"{words} (another run)" if is_another else words, other, cluster
    if first == "reading":
        yield "data.root on a disk of each node", run, replace(cluster, has_local_data=True)
    if first in {"sending", "host"}:
        yield from _larger_batch(run, gpus, cluster, first)


def _larger_batch(
    run: RunConfig, gpus: int, cluster: Cluster, first: str
) -> Iterator[tuple[str, RunConfig, Cluster]]:
    """Give the batch, twice as large or four times or more, at which a step waits for another."""
    windows = 2 * run.batch.global_batch
    while windows <= MICRO_BATCH * gpus:
        batch = BatchConfig(global_batch=windows, micro_batch=windows // gpus)
        larger = run.model_copy(update={"batch": batch})
        if row(larger, gpus, cluster).first != first:
            words = f"{{global_batch: {windows}, micro_batch: {batch.micro_batch}}}"
            yield f"batch={words} (another run)", larger, cluster
            return
        windows *= 2


def changed(run: RunConfig, section: str, key: str, value: object) -> tuple[str, RunConfig]:
    """Return a setting as one writes it, and the run with it."""
    part = getattr(run, section).model_copy(update={key: value})
    words = str(getattr(value, "name", value)).replace("True", "true")
    return f"{section}.{key}={words}", run.model_copy(update={section: part})


def shared_by(run: RunConfig, gpus: int) -> RunConfig:
    """Return a run whose GPUs take no more windows at a time than each of them has."""
    micro_batch = min(run.batch.settled_micro_batch, run.batch.global_batch // gpus)
    return changed(run, "batch", "micro_batch", micro_batch)[1]


def busy_run(model: str, gpus: int) -> RunConfig:
    """Return a run of a model of `MODELS` with as many windows as keep each GPU busy."""
    windows = MICRO_BATCH * gpus
    settings = [
        f"model={MODELS[model]}",
        f"windows={windows}",
        f"batch={{global_batch: {windows}, micro_batch: {MICRO_BATCH}}}",
    ]
    engine = "{{deepspeed: {}, activation_checkpointing: none, compile: true}}".format
    runs = [
        load_run("paper_l", [*settings, f"engine={engine(name)}"])
        for name in ("zero1_bf16", "zero3_bf16")
    ]
    return next(run for run in runs if row(run, gpus, Cluster(inf)).fits)


def preset_runs() -> dict[str, tuple[RunConfig, tuple[int, ...]]]:
    """Return runs of presets at their own batches, and numbers of GPUs that share these."""
    (of_sweep,) = (trial.run for trial in plan(load_sweep("gpus"), DEVICE) if trial.label == "L")
    return {
        "L of gpus": (of_sweep, (16, 64, 512)),
        "paper_l": (load_run("paper_l"), (8, 40, 200)),
        "paper_h": (load_run("paper_h"), (8, 40, 200)),
    }


def parameters_of(model: str) -> int:
    """Return the number of parameters of a model."""
    return count_parameters(busy_run(model, GPUS[0]).model).total


def checkpoint_bytes(parameters: int) -> int:
    """Return the size of a checkpoint."""
    return CHECKPOINT_BYTES * parameters


def save_seconds(parameters: int, cluster: Cluster) -> float:
    """Return how long a checkpoint takes."""
    return checkpoint_bytes(parameters) / cluster.storage


def archive_seconds(parameters: int, cluster: Cluster) -> float:
    """Return how long its copy into an archive in the same storage takes, which is read there."""
    return 2 * checkpoint_bytes(parameters) / cluster.storage


def print_runs(cluster: Cluster) -> None:
    """Print a row for each run and number of GPUs: with windows for all, and of presets."""
    runs = [(name, busy_run(name, gpus), gpus) for name in MODELS for gpus in GPUS]
    _print_rows(runs, cluster)
    print()
    presets = preset_runs().items()
    _print_rows(
        [(name, shared_by(run, n), n) for name, (run, numbers) in presets for n in numbers], cluster
    )


def _print_rows(runs: Sequence[tuple[str, RunConfig, int]], cluster: Cluster) -> None:
    parts = ("computing", "sending", "host", "reading", "saving")
    print(f"| run | GPUs | windows | strategy | GiB | {' | '.join(f'{part} ms' for part in parts)} "
          "| step ms | read GB/s | windows/s | first "
          "| what moves it, one after the other |")  # fmt: skip
    print("|---|--:|--:|---|--:|" + "--:|" * (len(parts) + 3) + "---|---|")
    for name, run, gpus in runs:
        now = row(run, gpus, cluster)
        read = now.speed * window_bytes(run) / 1e9
        settings = [
            f"{words}: {there.speed:,.0f} windows/s, {there.first}"
            for words, there in islice(moves(run, gpus, cluster), MOVES)
        ]
        print(f"| {name} | {gpus} | {now.windows:,} | {now.strategy} | {now.memory_gib:.0f} "
              f"| {' | '.join(f'{1e3 * now.seconds[part]:.3g}' for part in parts)} "
              f"| {1e3 * now.step:.0f} | {read:.3g} | {now.speed:,.0f} | {now.first} "
              f"| {'; '.join(settings) or 'nothing: the GPUs are busy'} |")  # fmt: skip


def print_checkpoints(cluster: Cluster) -> None:
    """Print what a checkpoint of each model costs, on any number of GPUs."""
    print("\n| model | checkpoint GB | save s | archive s |\n|---|--:|--:|--:|")
    for name in MODELS:
        parameters = parameters_of(name)
        saved, archived = save_seconds(parameters, cluster), archive_seconds(parameters, cluster)
        size = checkpoint_bytes(parameters) / 1e9
        print(f"| {name} | {size:.1f} | {saved:.1f} | {archived:.1f} |")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--storage", type=float, default=10, help="GB/s in all; default 10")
    args = parser.parse_args()
    print_runs(Cluster(storage=1e9 * args.storage))
    print_checkpoints(Cluster(storage=1e9 * args.storage))


if __name__ == "__main__":
    main()
