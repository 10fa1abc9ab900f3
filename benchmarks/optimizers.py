"""What do the options of the recipe cost: the CPU seconds of a step, and the memory of a rank?

Each row is one rank of one thread, which trains on random windows in processes of its own, as a
high-water mark never falls. They are forked when all is imported, so GiB leave out the pages of
libraries that no step uses: compare rows with each other, as the estimate counts those pages. The
rows take turns, so that whatever else the machine does slows them all; the fastest step counts.

    OMP_NUM_THREADS=1 python benchmarks/optimizers.py [--sizes Ti] [--strategies zero0_fp32 ...]
"""

import argparse
import time
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import multiprocessing

from dpot_scale.config.batch import BatchConfig
from dpot_scale.config.data import DataConfig
from dpot_scale.config.engine import EngineConfig
from dpot_scale.config.optim import OptimConfig
from dpot_scale.config.run import RunConfig
from dpot_scale.config.strategy import read_strategy
from dpot_scale.engine.engine import Rates
from dpot_scale.engine.memory import GIB, estimate_memory
from dpot_scale.engine.runtime import start_world
from dpot_scale.engine.start import start_engine
from dpot_scale.models.dpot.config import DPOTConfig
from dpot_scale.runs import run  # noqa: F401 - what a training has loaded takes memory, too
from dpot_scale.training.meter import peak_memory_gib

RATES = Rates(lr=1e-3, betas=(0.9, 0.9), muon_lr=0.02)
# Name -> options of the model, and the optimizer.
ROWS: dict[str, tuple[dict[str, Any], str]] = {
    "as published": ({}, "adam"),
    "Muon": ({}, "muon"),
    "4 skipped frames": ({"skip_frames": 4}, "adam"),
    "residual": ({"target": "residual"}, "adam"),
    "as improved": ({"skip_frames": 4, "target": "residual", "normalize": True}, "muon"),
}


class Cost(NamedTuple):
    """What one process has measured."""

    step_seconds: float  # of CPU, the fastest
    gib: float  # peak resident memory
    estimate_gib: float


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["Ti"])
    parser.add_argument("--strategies", nargs="+", default=["zero0_fp32", "zero1_bf16"])
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print("| size | strategy | options | step s | ratio | GiB | estimate |")
    print("|---|---|---|--:|--:|--:|--:|", flush=True)
    for size, strategy in product(asked.sizes, asked.strategies):
        found: dict[str, list[Cost]] = {name: [] for name in ROWS}
        for _ in range(asked.rounds):
            for name in ROWS:
                config = run_config(size, strategy, name, asked.windows, asked.steps)
                with multiprocessing.get_context("fork").Pool(1) as fresh:
                    found[name].append(fresh.apply(measure, (config,)))
        plain = min(cost.step_seconds for cost in found["as published"])
        for name, costs in found.items():
            fastest = min(cost.step_seconds for cost in costs)
            gib, estimate = max(cost.gib for cost in costs), costs[0].estimate_gib
            print(
                f"| {size} | {strategy} | {name} | {fastest:.2f} | {fastest / plain:.2f} "
                f"| {gib:.2f} | {estimate:.2f} |",
                flush=True,
            )


def run_config(size: str, strategy: str, name: str, windows: int, steps: int) -> RunConfig:
    """Return a run of some steps with the options of a row."""
    of_model, optimizer = ROWS[name]
    return RunConfig(
        name="optimizers",
        windows=windows * steps,
        model=DPOTConfig.model_validate({"size": size, **of_model}),
        data=DataConfig(weights={"unused": 1}),
        optim=OptimConfig.model_validate({"kind": optimizer}),
        batch=BatchConfig(global_batch=windows, micro_batch=windows),
        engine=EngineConfig(deepspeed=read_strategy(strategy)),
    )


def measure(config: RunConfig) -> Cost:
    """Train in this process."""
    world = start_world()
    engine = start_engine(config, world)
    model, batch = config.model, config.batch.settled_micro_batch
    frames_BTCxy = torch.randn(batch, model.history, model.channels, model.grid, model.grid)
    seconds = []
    for _ in range(config.steps):
        started = time.process_time()
        engine.backward(engine(frames_BTCxy).frames.square().mean())
        engine.step(RATES).grad_norm.item()
        seconds.append(time.process_time() - started)
    memory = estimate_memory(model, config.engine, config.optim, world_size=1, micro_batch=batch)
    return Cost(min(seconds), peak_memory_gib(world), memory.total / GIB)


if __name__ == "__main__":
    main()
