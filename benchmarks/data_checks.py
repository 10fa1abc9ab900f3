"""What does it cost to find windows that cannot be read, while all can be?

CPU time of the thread that reads a micro-batch of 8 windows of 11 frames, with all that finds bad
windows, and without one part of it at a time. They take turns in one process; the first two are the
same, so their ratio is the noise.

    python benchmarks/data_checks.py [--grid 32] [--rounds 100]
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

from dpot_scale.config.batch import BatchConfig
from dpot_scale.config.data import DataConfig
from dpot_scale.data.info import DatasetInfo
from dpot_scale.data.store.dataset import DatasetStore, open_store
from dpot_scale.data.store.open_files import OpenFiles
from dpot_scale.data.store.writer import StoreWriter
from dpot_scale.data.stream.assembly import Assembler, Window
from dpot_scale.data.stream.mixture import WeightedMixture
from dpot_scale.data.stream.reader import BatchStream, Share, training_windows
from dpot_scale.data.stream.stand_ins import StandIns
from dpot_scale.models.dpot.config import DPOTConfig

NAME = "noise"
FRAMES, WINDOWS = 11, 8  # of a window, of a batch
BATCHES = 20  # of a turn


def not_looked_up(self: StandIns, positions: range) -> list[Window]:
    """Return the windows at positions, as if none was ever replaced."""
    return [self._window_at(position) for position in positions]


WITHOUT = {
    "nothing": lambda: patch.object(StandIns, "windows", StandIns.windows),
    "nothing, again": lambda: patch.object(StandIns, "windows", StandIns.windows),
    "the lookup of what was replaced": lambda: patch.object(StandIns, "windows", not_looked_up),
    "the sum that shows NaN": lambda: patch.object(torch.Tensor, "sum", lambda _: 0.0),
    "the size of the open file": lambda: patch.object(OpenFiles, "check_uncut", lambda *_: None),
}


def main() -> None:
    """Print the time of a micro-batch without each part."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--grid", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=100)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        read = reader_of(written(Path(folder), args.grid), args.grid)
        read()
        times: dict[str, list[float]] = {name: [] for name in WITHOUT}
        names = list(WITHOUT)
        for number in range(args.rounds):
            first = number % len(names)
            for name in names[first:] + names[:first]:
                with WITHOUT[name]():
                    times[name].append(seconds(read) / BATCHES)
    print(f"\n| grid {args.grid}, without | fastest, us | median, us | median of the ratios |")
    print("|---|--:|--:|--:|")
    for name, found in times.items():
        ratio = statistics.median(b / a for a, b in zip(times["nothing"], found, strict=True))
        middle = statistics.median(found)
        print(f"| {name} | {1e6 * min(found):.0f} | {1e6 * middle:.0f} | {ratio:.3f} |")


def written(root: Path, grid: int) -> DatasetStore:
    """Write 50 trajectories of noise."""
    info = DatasetInfo(
        name=NAME,
        equation="none",
        channels=("h",),
        scored=(True,),
        spatial_axes=("x", "y"),
        grid=(grid, grid),
        domain_length=(1.0, 1.0),
        frame_interval=1.0,
        boundary="periodic",
        origin="generated",
        source="random numbers",
    )
    rng = np.random.default_rng(0)
    with StoreWriter(root, info) as writer:
        for split, trajectories in (("train", 50), ("test", 1)):
            shape = (trajectories, 2 * FRAMES, 1, grid, grid)
            writer.append(split, rng.random(shape, dtype=np.float32))
    return open_store(root, NAME)


def reader_of(store: DatasetStore, grid: int) -> Callable[[], None]:
    """Return a function that reads micro-batches of a dataset, the same at each call."""
    stores = {NAME: store}
    data = DataConfig(weights={NAME: 1.0})
    share = Share(BatchConfig(global_batch=WINDOWS, micro_batch=WINDOWS))
    assembler = Assembler(DPOTConfig(grid=grid, channels=1), data, torch.device("cpu"))
    mixture = WeightedMixture(training_windows(stores, FRAMES), data.weights, 0)
    stream = BatchStream(stores, mixture, share, assembler, FRAMES)
    room = stream._room()

    def read() -> None:
        for step in range(BATCHES):
            stream._batch(share.positions(step, 0), room)

    return read


def seconds(act: Callable[[], None]) -> float:
    """Return the CPU time of this thread that something takes."""
    began = time.thread_time()
    act()
    return time.thread_time() - began


if __name__ == "__main__":
    main()
