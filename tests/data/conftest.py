"""Small stored datasets whose values say where they come from."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dpot_scale.data.info import DatasetInfo
from dpot_scale.data.store.dataset import DatasetStore, open_store
from dpot_scale.data.store.writer import StoreWriter

MakeStore = Callable[..., DatasetStore]

# What HDF5 reads with fails while a file exists.
AWAY = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <unistd.h>
#define FAILS(pread, to_type, size_type) \\
ssize_t pread(int file, to_type to, size_type size, off64_t place) { \\
    ssize_t (*reads)(int, to_type, size_type, off64_t) = dlsym(RTLD_NEXT, #pread); \\
    if (access(getenv("AWAY"), F_OK)) return reads(file, to, size, place); \\
    errno = EIO; \\
    return -1; \\
}
FAILS(pread, void *, size_t)
FAILS(pread64, void *, size_t)
FAILS(preadv, const struct iovec *, int)
FAILS(preadv64, const struct iovec *, int)
"""


def _describe(name: str, channels: tuple[str, ...] = ("h",), grid: int = 4) -> DatasetInfo:
    return DatasetInfo(
        name=name,
        equation="none",
        channels=channels,
        scored=(True,) * len(channels),
        spatial_axes=("x", "y"),
        grid=(grid, grid),
        domain_length=(1.0, 1.0),
        frame_interval=0.5,
        boundary="periodic",
        origin="generated",
        source="a test",
    )


def _coded(first: int, trajectories: int, frames: int, channels: int, grid: int) -> np.ndarray:
    """Values (N, T, C, x, y): 1000 * trajectory + 10 * frame + channel + a ramp below 1."""
    shape = (trajectories, frames, channels, grid, grid)
    n, t, c, x, y = np.indices(shape, dtype=np.float32)
    return 1000 * (n + first) + 10 * t + c + (x * grid + y) / grid**2


@pytest.fixture
def make_store(tmp_path: Path) -> MakeStore:
    """Write a dataset under tmp_path; its trajectories are numbered: train, test, valid."""

    def make(
        name: str = "coded",
        *,
        train: int = 3,
        valid: int = 0,
        test: int = 2,
        frames: int = 6,
        channels: tuple[str, ...] = ("h",),
        grid: int = 4,
        shard_bytes: int = 2**20,
    ) -> DatasetStore:
        info = _describe(name, channels, grid)
        with StoreWriter(tmp_path, info, shard_bytes=shard_bytes) as writer:
            writer.append("train", _coded(0, train, frames, len(channels), grid))
            writer.append("valid", _coded(train + test, valid, frames, len(channels), grid))
            writer.append("test", _coded(train, test, frames, len(channels), grid))
        return open_store(tmp_path, name)

    return make


@pytest.fixture
def describe() -> Callable[..., DatasetInfo]:
    return _describe


@pytest.fixture
def coded() -> Callable[..., np.ndarray]:
    return _coded


@pytest.fixture
def run_with_outages(tmp_path: Path) -> Callable[..., str]:
    """Run a program, with arguments, for which storage is away while the file $AWAY exists."""
    source, library = tmp_path / "away.c", tmp_path / "away.so"
    source.write_text(AWAY)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True)

    def run(program: str, *arguments: object) -> str:
        done = subprocess.run(
            [sys.executable, "-c", program, *map(str, arguments)],
            env=os.environ | {"LD_PRELOAD": str(library), "AWAY": str(tmp_path / "away")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
