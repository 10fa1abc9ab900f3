"""The disk of the datasets of benchmarks/soak.py, which can be away, and be damaged."""

import os
import subprocess
from pathlib import Path

import h5py
import numpy as np

IMAGE_MIB = 16
SHARD = Path("swe_pdb_generated/train/shard-00000.h5")
TRAJECTORY, FRAME = 3, 6  # what is damaged: it lies in 5 of the 8 windows of a trajectory


class DataDisk:
    """A disk in a file. A disk whose file is cut reads as a broken one does: with EIO.

    Args:
        place: The folder of the datasets, which the disk takes the place of.
    """

    def __init__(self, place: Path) -> None:
        self._place, self._image = place, place.with_suffix(".ext4")
        with h5py.File(place / SHARD) as shard:
            frame = np.asarray(shard["fields"][TRAJECTORY, FRAME])
        self._image.write_bytes(b"")
        os.truncate(self._image, IMAGE_MIB * 2**20)
        subprocess.run(["mkfs.ext4", "-q", "-d", place, self._image], check=True)
        self._content = self._image.read_bytes()
        self._damaged = self._content.replace(
            frame.tobytes(), np.full_like(frame, np.nan).tobytes(), 1
        )
        assert self._damaged != self._content
        subprocess.run(["mount", "-o", "loop,ro", self._image, place], check=True)
        self._files = [os.open(path, os.O_RDONLY) for path in place.rglob("*.h5")]

    def take_away(self) -> None:
        """Let nothing be read."""
        os.truncate(self._image, 0)
        self._forget()

    def damage(self) -> None:
        """Put NaN in the place of a frame."""
        self._put(self._damaged)

    def mend(self) -> None:
        """Let all be as it was."""
        self._put(self._content)

    def _put(self, content: bytes) -> None:
        with self._image.open("r+b") as file:
            file.write(content)
        self._forget()

    def _forget(self) -> None:
        """Let the system read anew what it has in memory of the files."""
        for file in self._files:
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
