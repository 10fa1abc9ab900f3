"""How much memory does the import of a large file take?

Writes files in the published layouts, of noise, into a temporary folder and imports each one in a
process of its own. Peak memory is what the system counts for that process (VmHWM): it includes the
interpreter and pages of mapped files.

    python benchmarks/import_memory.py [--gb 6] [--folder DIR] [--layouts LAYOUT...]
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

FLOW_FRAMES, FLOW_GRID = 21, 128
FNO_FRAMES, FNO_GRID, FNO_CHUNK = 50, 64, (5, 16, 16, 250)  # of (T, y, x, N)
GB = 1e9
# Ends with its peak memory in KiB. What wait4 reports would include that of the process before.
IMPORT = """
import re, sys
from pathlib import Path
from dpot_scale.prepare import main

code = main(sys.argv[1:])
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
sys.exit(code)
"""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gb", type=float, default=6, help="size of the largest files")
    parser.add_argument("--folder", type=Path, help="of the temporary files, twice that size")
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    options = parser.parse_args()
    print("| layout | GB | trajectories | seconds | MB/s | peak MiB |")
    print("|---|--:|--:|--:|--:|--:|")
    for layout in options.layouts:
        write, share, arguments = LAYOUTS[layout]
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            file = Path(folder) / "download"
            trajectories = write(file, options.gb * share * GB)
            size = file.stat().st_size / GB
            seconds, peak = import_file(file, Path(folder) / "data", arguments)
        rate = size * 1e3 / seconds
        row = f"| {layout} | {size:.2f} | {trajectories} | {seconds:.0f} | {rate:.0f} | {peak} |"
        print(row, flush=True)


def import_file(file: Path, root: Path, arguments: list[str]) -> tuple[float, int]:
    """Return the seconds and the peak memory in MiB of an import."""
    command = [sys.executable, "-c", IMPORT, "import", str(file), "--out", str(root), *arguments]
    started = time.perf_counter()
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return time.perf_counter() - started, int(ended.stdout.split()[-1]) // 1024


def write_flow(path: Path, size: float, dtype: type = np.float32) -> int:
    """Write PDEBench's compressible flow: four contiguous fields (N, T, x, y)."""
    shape = (FLOW_FRAMES, FLOW_GRID, FLOW_GRID)
    trajectories = int(size / (4 * np.prod(shape) * np.dtype(dtype).itemsize))
    block = np.random.default_rng(0).standard_normal((16, *shape)).astype(dtype)
    with h5py.File(path, "w") as file:
        for name in ("Vx", "Vy", "density", "pressure"):
            field = file.create_dataset(name, (trajectories, *shape), dtype)
            for first in range(0, trajectories, len(block)):
                rows = slice(first, min(first + len(block), trajectories))
                field[rows] = block[: rows.stop - rows.start] + first
        cells = (np.arange(FLOW_GRID) + 0.5) / FLOW_GRID
        file["x-coordinate"] = file["y-coordinate"] = cells
        file["t-coordinate"] = np.arange(FLOW_FRAMES + 1) * 0.05
        file.attrs.update(M=1.0, eta=0.1, zeta=0.1)
    return trajectories


def write_double_flow(path: Path, size: float) -> int:
    """Write the same in double precision."""
    return write_flow(path, size, np.float64)


def write_flow_3d(path: Path, size: float) -> int:
    """Write compressible flow in 3D: a trajectory has 880 MB."""
    shape = (FLOW_FRAMES, FLOW_GRID, FLOW_GRID, FLOW_GRID)
    trajectories = max(2, int(size / (5 * np.prod(shape) * 4)))
    frame = np.random.default_rng(0).standard_normal(shape[1:], np.float32)
    with h5py.File(path, "w") as file:
        for name in ("Vx", "Vy", "Vz", "density", "pressure"):
            field = file.create_dataset(name, (trajectories, *shape), np.float32)
            for row, time_index in np.ndindex(trajectories, FLOW_FRAMES):
                field[row, time_index] = frame + row
        for axis in "xyz":
            file[f"{axis}-coordinate"] = (np.arange(FLOW_GRID) + 0.5) / FLOW_GRID
        file["t-coordinate"] = np.arange(FLOW_FRAMES + 1) * 0.05
        file.attrs.update(M=1.0, eta=1e-8, zeta=1e-8)
    return trajectories


def write_matlab(path: Path, size: float) -> int:
    """Write FNO's MATLAB v7.3: u (T, y, x, N) in compressed chunks, trajectories fastest."""
    shape = (FNO_FRAMES, FNO_GRID, FNO_GRID)
    trajectories = int(size / (4 * np.prod(shape)))
    noise = np.random.default_rng(0).standard_normal((*shape, FNO_CHUNK[-1]), np.float32)
    block = np.round(noise, 2)  # compressible, as smooth fields are
    with h5py.File(path, "w", userblock_size=512) as file:
        field = file.create_dataset(
            "u", (*shape, trajectories), np.float32, chunks=FNO_CHUNK, compression=1
        )
        field.attrs["MATLAB_class"] = np.bytes_(b"single")
        for first in range(0, trajectories, block.shape[-1]):
            rows = slice(first, min(first + block.shape[-1], trajectories))
            field[..., rows] = block[..., : rows.stop - rows.start]
        file["t"] = np.arange(1.0, FNO_FRAMES + 1)[:, None]
    return trajectories


def write_numpy(path: Path, size: float) -> int:
    """Write FNO's u (N, x, y, T) as .npy."""
    shape = (FNO_GRID, FNO_GRID, FNO_FRAMES)
    trajectories = int(size / (4 * np.prod(shape)))
    block = np.random.default_rng(0).standard_normal((100, *shape), np.float32)
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (trajectories, *shape)}
        np.lib.format.write_array_header_1_0(file, header)
        for first in range(0, trajectories, len(block)):
            block[: min(len(block), trajectories - first)].tofile(file)
    return trajectories


Write = Callable[[Path, float], int]
# How to write it, its share of the size, what the command line needs.
LAYOUTS: dict[str, tuple[Write, float, list[str]]] = {
    "PDEBench flow, contiguous": (write_flow, 1.0, []),
    "PDEBench flow, --link": (write_flow, 1.0, ["--link"]),
    "PDEBench flow, float64": (write_double_flow, 0.5, []),
    "PDEBench flow, 3D": (write_flow_3d, 0.5, []),
    "FNO .mat v7.3, gzip": (write_matlab, 0.5, ["--name", "ns2d_fno_1e-3"]),
    "FNO .npy": (write_numpy, 0.5, ["--name", "ns2d_fno_1e-3"]),
}


if __name__ == "__main__":
    main()
