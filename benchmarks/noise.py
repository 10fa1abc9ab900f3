"""What the noise of a micro-batch costs, beside the training step that it belongs to.

    python benchmarks/noise.py [--size Ti] [--windows 8] [--threads 1]

`generators` is a torch generator for each window, `hashed` is `dpot_scale.training.noise`.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from dpot_scale.config.batch import BatchConfig
from dpot_scale.config.data import DataConfig
from dpot_scale.config.engine import EngineConfig
from dpot_scale.config.run import RunConfig
from dpot_scale.config.strategy import read_strategy
from dpot_scale.engine.runtime import start_world
from dpot_scale.engine.start import start_engine
from dpot_scale.models.dpot.config import DPOTConfig
from dpot_scale.runs.micro_batch import random_batches
from dpot_scale.training.loop import train_step
from dpot_scale.training.noise import Noise
from dpot_scale.training.schedule import Schedule

REPEATS = 20


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", default="Ti")
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    world = start_world()
    torch.set_num_threads(options.threads)
    windows, model = options.windows, DPOTConfig.model_validate({"size": options.size})
    shape = (model.history, model.channels, *[model.grid] * model.space_dims)
    noise, positions = Noise(0, world.device), range(windows)

    def generators() -> None:
        room = torch.empty((windows, *shape), device=world.device)
        for normal, position in zip(room, positions, strict=True):
            normal.normal_(generator=torch.Generator(world.device).manual_seed(position))

    config = RunConfig(
        name="benchmark",
        windows=windows,
        model=model,
        data=DataConfig(weights={"unused": 1}),
        batch=BatchConfig(global_batch=windows, micro_batch=windows),
        engine=EngineConfig(deepspeed=read_strategy("zero0_fp32")),
    )
    engine, batches = start_engine(config, world), random_batches(config, world)
    rates = Schedule.of(config).at(0)

    def step() -> None:
        train_step(engine, lambda: batches[0], config, world, rates, noise)

    whole = seconds(step, repeats=5)
    print(f"{windows} windows of {shape}, {options.threads} threads, a step of {whole:.2f} s\n")
    print("| noise | ms | of a step |\n|---|--:|--:|")
    ways = {"generators": generators, "hashed": lambda: noise.draw(positions, 0, shape)}
    for name, draw in ways.items():
        taken = seconds(draw, repeats=REPEATS)
        print(f"| {name} | {1e3 * taken:.1f} | {taken / whole:.2%} |")


def seconds(act: Callable[[], object], *, repeats: int) -> float:
    """Return the median time of a call, after one that warms up."""
    act()
    taken = []
    for _ in range(repeats):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        started = time.perf_counter()
        act()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


if __name__ == "__main__":
    main()
