"""What it costs to read windows of .npy files instead of mapping them into memory.

    python benchmarks/numpy_files.py [--rounds N]

A window of eleven frames of one trajectory is taken out of files whose axes lie in different
orders, on a warm page cache. The rounds of both ways alternate.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from dpot_scale.data.store.numpy_files import NumpyFile

SHAPE = {"N": 20, "T": 30, "x": 64, "y": 64, "c": 2}
PARTS = {"N": slice(3, 4), "T": slice(5, 16)}
ORDERS = ("NTxyc", "TNxyc", "TxyNc", "cyxTN")
READS = 10


def main() -> None:
    """Print the median time of a window in each order, and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=21)
    rounds = parser.parse_args().rounds
    print("| axes | mapped, ms | read, ms | ratio, median | least | most |")
    print("|---|--:|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fields.npy"
        for order in ORDERS:
            shape = [SHAPE[axis] for axis in order]
            np.save(path, np.random.default_rng(0).normal(size=shape).astype(np.float32))
            window = tuple(PARTS.get(axis, slice(None)) for axis in order)
            times: list[tuple[float, float]] = [
                (timed(path, window, is_mapped=True), timed(path, window, is_mapped=False))
                for _ in range(rounds)
            ]
            mapped, read = (1e3 * statistics.median(column) for column in zip(*times, strict=True))
            ratios = [b / a for a, b in times]
            middle = statistics.median(ratios)
            print(
                f"| {order} | {mapped:.3f} | {read:.3f} | {middle:.2f} | {min(ratios):.2f} "
                f"| {max(ratios):.2f} |"
            )


def timed(path: Path, window: tuple[slice, ...], *, is_mapped: bool) -> float:
    """Return the seconds of a read."""
    begun = time.perf_counter()
    for _ in range(READS):
        if is_mapped:
            np.array(np.load(path, mmap_mode="r")[window])
        else:
            NumpyFile.of(path)[window]
    return (time.perf_counter() - begun) / READS


if __name__ == "__main__":
    main()
