"""What does it cost to go on with another number of ranks: our way, and DeepSpeed's conversion?

Two ranks train a model for two steps under stage 3, save what they have in our files and in
DeepSpeed's, and train on. From each of the two, other ranks go on:

- ours: every rank reads its part of all files, memory-mapped, and sets masters and moments. That
  each file has its checksum and no code is part of it;
- DeepSpeed's: `deepspeed.checkpoint.ds_to_universal` converts the checkpoint first, then an engine
  that is made with `load_universal` loads the result.

A row says how long that takes, how much a conversion leaves on the disk and needs while it runs,
and how far the losses of the next steps are from those of the two ranks that trained on.

    python benchmarks/universal.py [--size S] [--precisions fp32 bf16] [--ranks 1 3] [--folder .]
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from compare_losses import machine

from dpot_scale.checkpoints.checkpoint import TrainState
from dpot_scale.checkpoints.store import CheckpointStore
from dpot_scale.config.batch import BatchConfig
from dpot_scale.config.load import load_run
from dpot_scale.config.run import CheckpointConfig, RunConfig
from dpot_scale.engine.collectives import mean_over_ranks
from dpot_scale.engine.engine import Engine, Rates
from dpot_scale.engine.runtime import World, start_world
from dpot_scale.engine.shards import SHARDS
from dpot_scale.engine.start import start_engine
from dpot_scale.engine.strategy import effective_deepspeed_config

BATCH = BatchConfig(global_batch=6, micro_batch=1)  # one, two and three ranks divide it
SAVED, LAST = 2, 8  # steps
RATES = Rates(lr=1e-4, betas=(0.9, 0.95), muon_lr=0.02)
# Folders of a case, and what its ranks are told to do: to train the whole, or to go on from one.
WHOLE, OURS, DEEPSPEED, UNIVERSAL = "whole", "ours", "deepspeed", "universal"


class Trained(NamedTuple):
    """What ranks did."""

    seconds: float  # to load, or to save in our files
    losses: list[float]  # of the steps after the saved one


class Converted(NamedTuple):
    """What a conversion cost."""

    seconds: float
    bytes_left: int
    most_bytes: int


class Case(NamedTuple):
    """A training of random frames, saved in a folder."""

    folder: Path
    size: str
    precision: str

    @property
    def config(self) -> RunConfig:
        """Return the run."""
        strategy = f"engine.deepspeed=zero3_{self.precision}"
        run = load_run("paper_ti", [f"model.size={self.size}", strategy, "optim.kind=adam"])
        return run.model_copy(update={"batch": BATCH})

    def on(self, ranks: int, task: str) -> Trained:
        """Let ranks do a task, and return what they did."""
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc-per-node={ranks}", __file__, "--task", task, *map(str, self)]
        done = subprocess.run(
            command,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise RuntimeError(done.stderr)
        return Trained(*json.loads((self.folder / "trained.json").read_text()))


def main() -> None:
    """Print a table of the ways, or do what a rank is told to."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--size", default="S")
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--ranks", nargs="+", type=int, default=[1, 3], help="that go on")
    parser.add_argument("--folder", type=Path, default=Path(), help="on the disk to measure")
    parser.add_argument("--task", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.task:
        task, folder, size, precision = args.task
        do(task, Case(Path(folder), size, precision))
        return
    print(machine())
    for precision in args.precisions:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            compare(Case(Path(folder).absolute(), args.size, precision), args.ranks)


def compare(case: Case, numbers_of_ranks: Sequence[int]) -> None:
    """Print the rows of a training."""
    whole = case.on(2, WHOLE)
    sizes = [bytes_in(case.folder / kind) / 1e6 for kind in (OURS, DEEPSPEED)]
    print(
        f"\n{case.size} in {case.precision}: {sizes[0]:,.0f} MB in our files, saved in "
        f"{whole.seconds:.2f} s, and {sizes[1]:,.0f} MB in DeepSpeed's"
    )
    cost = convert(case.folder / DEEPSPEED)
    print(
        f"to convert DeepSpeed's: {cost.seconds:.1f} s, leaves {cost.bytes_left / 1e6:,.0f} MB, "
        f"needs {cost.most_bytes / 1e6:,.0f} MB"
    )
    print("| ranks | way | load s | losses differ by |\n|---|---|--:|--:|")
    for ranks in numbers_of_ranks:
        for way in (OURS, UNIVERSAL):
            found = case.on(ranks, way)
            pairs = zip(found.losses, whole.losses, strict=True)
            difference = max(abs(one / other - 1) for one, other in pairs)
            row = f"| 2 -> {ranks} | {way} | {found.seconds:.2f} | {difference:.1e} |"
            print(row, flush=True)


def convert(folder: Path) -> Converted:
    """Convert DeepSpeed's files in a folder, beside them, and watch the disk.

    By one process to extract and one to merge.
    """
    before, most = bytes_in(folder), 0
    command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal"]
    command += ["--input_folder", str(folder / SHARDS)]
    command += ["--output_folder", str(folder / UNIVERSAL)]
    command += ["--num_extract_workers=1", "--num_merge_workers=1"]
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        while process.poll() is None:
            most = max(most, bytes_in(folder) - before)
            time.sleep(0.05)
        if process.returncode != 0:
            assert process.stderr is not None
            raise RuntimeError(process.stderr.read().decode())
    seconds = time.perf_counter() - started
    return Converted(seconds, bytes_in(folder / UNIVERSAL), most)


def bytes_in(folder: Path) -> int:
    """Return the size of all files in a folder, of which some may vanish."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += (Path(place) / name).stat().st_size
    return total


def do(task: str, case: Case) -> None:
    """Do what a rank of a case is told to; the first one writes down how it went."""
    world, config = start_world(), case.config
    settings = effective_deepspeed_config(config, world.world_size, on_gpu=False)
    if task == UNIVERSAL:
        settings["checkpoint"] = {"load_universal": True}
    engine = start_engine(config, world, settings)
    store = CheckpointStore(
        case.folder / OURS, config=CheckpointConfig(), identity="x", world=world
    )
    if task == WHOLE:
        train(engine, config, world, range(SAVED))
        engine.save_shards(case.folder / DEEPSPEED)
        seconds = timed(lambda: store.save(engine, TrainState(step=SAVED)))
    elif task == OURS:
        seconds = timed(lambda: store.restore(engine))
    else:
        loads = engine._engine.load_checkpoint  # type: ignore[attr-defined]
        seconds = timed(lambda: loads(str(case.folder / DEEPSPEED), tag=UNIVERSAL))
    losses = train(engine, config, world, range(SAVED, LAST))
    if world.is_main:
        (case.folder / "trained.json").write_text(json.dumps([seconds, losses]))


def train(engine: Engine, config: RunConfig, world: World, steps: range) -> list[float]:
    """Train on frames that their place in the stream decides; return the losses."""
    model, losses = config.model, []
    for step in steps:
        loss_sum = torch.zeros(())
        for micro_step in range(BATCH.accumulation_steps(world.world_size)):
            position = step * BATCH.global_batch + micro_step * world.world_size + world.rank
            generator = torch.Generator().manual_seed(position)
            shape = (1, model.history + model.horizon, model.channels, *model.space)
            frames_BTCs = torch.randn(shape, generator=generator)
            forecast_BTCs = engine(frames_BTCs[:, : model.history]).frames
            loss = (forecast_BTCs - frames_BTCs[:, model.history :]).square().mean()
            engine.backward(loss)
            loss_sum += loss.detach() / BATCH.accumulation_steps(world.world_size)
        engine.step(RATES)
        losses.append(float(mean_over_ranks(loss_sum, world)))
    return losses


def timed(act: Callable[[], object]) -> float:
    """Return how many seconds it takes."""
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
