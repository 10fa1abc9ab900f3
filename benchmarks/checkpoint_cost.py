"""What does it cost to put a checkpoint on the disk for good before its marker is written?

One process saves checkpoints of a model in turn with and without flushing its files; the medians
are printed, with the part of a save that hashes.

    python benchmarks/checkpoint_cost.py [--sizes debug Ti] [--saves 7] [--folder .]
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from dpot_scale.checkpoints import store as store_module
from dpot_scale.checkpoints.checkpoint import TrainState, committed, verify
from dpot_scale.checkpoints.store import CheckpointStore
from dpot_scale.config.batch import BatchConfig
from dpot_scale.config.load import load_run
from dpot_scale.config.run import CheckpointConfig, RunConfig
from dpot_scale.engine.engine import Rates
from dpot_scale.engine.runtime import World, start_world
from dpot_scale.engine.zero import ZeroEngine

ONE_WINDOW = BatchConfig(global_batch=1, micro_batch=1)
FLUSH = store_module.flush_to_disk


def main() -> None:
    """Print a row per size."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", nargs="+", default=["debug", "Ti"])
    parser.add_argument("--strategy", default="zero3_bf16")
    parser.add_argument("--saves", type=int, default=7, help="of each kind")
    parser.add_argument("--folder", type=Path, default=Path(), help="on the disk to measure")
    args = parser.parse_args()
    world = start_world()
    print("| size | MB | save s, not flushed | save s, flushed | of which SHA-256 s |")
    print("|---|--:|--:|--:|--:|")
    for size in args.sizes:
        config = load_run("paper_ti", [f"model.size={size}", f"engine.deepspeed={args.strategy}"])
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            print(f"| {size} | {row(config, world, Path(folder), args.saves)} |", flush=True)


def row(config: RunConfig, world: World, folder: Path, saves: int) -> str:
    """Return the figures of a model."""
    engine = ZeroEngine(config.model_copy(update={"batch": ONE_WINDOW}), world)
    model = config.model
    frames = torch.randn(1, model.history, model.channels, model.grid, model.grid)
    engine.backward(engine(frames).frames.square().mean())
    engine.step(Rates(lr=1e-3, betas=(0.9, 0.9), muon_lr=0.02))  # the moments exist from now on
    store = CheckpointStore(folder, config=CheckpointConfig(), identity="x", world=world)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for step in range(1, 2 * saves + 3):
        flushed = step % 2 == 0
        store_module.flush_to_disk = FLUSH if flushed else lambda _: None  # type: ignore[assignment]
        state = TrainState(step=step, windows_seen=step)
        taken = timed(lambda state=state: store.save(engine, state))  # type: ignore[misc]
        if step > 2:  # the first of each kind warm up
            seconds[flushed].append(taken)
    newest = committed(folder)[0]
    size = sum(census.bytes for census in newest.marker.files.values())
    hashing = timed(lambda: verify(newest))
    figures = [f"{size / 1e6:,.1f}", *(f"{statistics.median(s):.3f}" for s in seconds.values())]
    return " | ".join([*figures, f"{hashing:.3f}"])


def timed(act: Callable[[], object]) -> float:
    """Return how many seconds it takes."""
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
