"""What does it cost to save a checkpoint for good, and to load it; how long does training wait?

One process saves checkpoints of a model in turn with and without flushing its files, and loads the
newest. The same is done with DeepSpeed's own files, as earlier versions did. Medians are printed,
with the part of a save that hashes.

    python benchmarks/checkpoint_cost.py [--sizes debug Ti] [--saves 7] [--folder .] [--ours-alone]
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
from dpot_scale.checkpoints.store import CheckpointStore, Sharded
from dpot_scale.config.batch import BatchConfig
from dpot_scale.config.load import load_run
from dpot_scale.config.run import CheckpointConfig, RunConfig
from dpot_scale.engine.engine import Engine, Rates
from dpot_scale.engine.runtime import World, start_world
from dpot_scale.engine.start import start_engine
from dpot_scale.engine.state import StoredState

ONE_WINDOW = BatchConfig(global_batch=1, micro_batch=1)
FLUSH = store_module.flush_to_disk


def main() -> None:
    """Print a row per size."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", nargs="+", default=["debug", "Ti"])
    parser.add_argument("--strategy", default="zero3_bf16")
    parser.add_argument("--saves", type=int, default=7, help="of each kind")
    parser.add_argument("--folder", type=Path, default=Path(), help="on the disk to measure")
    parser.add_argument("--ours-alone", action="store_true", help="not DeepSpeed's files")
    args = parser.parse_args()
    world = start_world()
    print(
        "| size | files | MB | save s, unflushed | flushed | SHA-256 s | load s | wait s, copied |"
    )
    print("|---|---|--:|--:|--:|--:|--:|--:|")
    for size in args.sizes:
        config = load_run(
            "paper_ti",
            [f"model.size={size}", f"engine.deepspeed={args.strategy}", "optim.kind=adam"],
        )
        engine = trained(config.model_copy(update={"batch": ONE_WINDOW}), world)
        kinds: list[tuple[str, Sharded]] = [("ours", engine), ("DeepSpeed's", Older(engine))]
        for files, sharded in kinds[:1] if args.ours_alone else kinds:
            with tempfile.TemporaryDirectory(dir=args.folder) as folder:
                figures = row(sharded, world, Path(folder), args.saves)
            print(f"| {size} | {files} | {figures} |", flush=True)


class Older:
    """An engine that leaves its files to DeepSpeed, as earlier versions did."""

    def __init__(self, engine: Engine) -> None:
        self.save_shards, self.load_shards = engine.save_shards, engine.load_shards

    def snapshot(self) -> None:
        """Leave it to DeepSpeed."""

    def load_state(self, stored: StoredState) -> None:
        """Do not call it."""
        raise AssertionError(stored)


def trained(config: RunConfig, world: World) -> Engine:
    """Return an engine after a step: the moments exist from now on."""
    engine, model = start_engine(config, world), config.model
    (rows, columns), history = model.space, model.history
    frames = torch.randn(1, history, model.channels, rows, columns, device=world.device)
    engine.backward(engine(frames).frames.square().mean())
    engine.step(Rates(lr=1e-3, betas=(0.9, 0.9), muon_lr=0.02))
    return engine


def row(engine: Sharded, world: World, folder: Path, saves: int) -> str:
    """Return the figures of a model."""
    store = CheckpointStore(folder, config=CheckpointConfig(), identity="x", world=world)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for step in range(1, 2 * saves + 3):
        flushed = step % 2 == 0
        store_module.flush_to_disk = FLUSH if flushed else lambda _: None  # type: ignore[assignment]
        state = TrainState(step=step)
        taken = timed(lambda state=state: store.save(engine, state))  # type: ignore[misc]
        if step > 2:  # the first of each kind warm up
            seconds[flushed].append(taken)
    newest = committed(folder)[0]
    size = sum(census.bytes for census in newest.marker.files.values())
    hashing = timed(lambda: verify(newest))
    loading = [timed(lambda: store.restore(engine)) for _ in range(3)]
    figures = [size / 1e6, *map(statistics.median, seconds.values()), hashing]
    figures += [statistics.median(loading), waits(engine, world, folder / "copied", saves)]
    return " | ".join(f"{figure:,.3f}" for figure in figures)


def waits(engine: Sharded, world: World, folder: Path, saves: int) -> float:
    """Return for how long training waits where a thread writes a copy."""
    config = CheckpointConfig(copy_gib=100)
    store = CheckpointStore(folder, config=config, identity="x", world=world)
    seconds = []
    for step in range(1, saves + 2):
        seconds.append(timed(lambda step=step: store.save(engine, TrainState(step=step))))  # type: ignore[misc]
        store.finish()
    return statistics.median(seconds[1:])


def timed(act: Callable[[], object]) -> float:
    """Return how many seconds it takes."""
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
