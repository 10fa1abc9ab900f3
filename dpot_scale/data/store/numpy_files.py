"""Arrays of .npy files, of which parts are read."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.lib.array_utils import byte_bounds
from numpy.typing import NDArray

from dpot_scale.files import check_regular

# Bytes that are read at once, with what lies between those that are wanted.
AT_ONCE = 2**20

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class NumpyFile:
    """An array of a .npy file.

    The mapping only says where a part lies; its bytes are read from the file. Where storage fails
    or the file was cut, the system ends a process that reads mapped memory.
    """

    path: Path
    mapped: np.memmap[Any, np.dtype[Any]]

    @classmethod
    def of(cls, path: Path) -> Self:
        """Open one; only its header is read.

        Raises:
            OSError, ValueError: it cannot be read, or is not what it should be.
        """
        check_regular(path)
        return cls(path, np.lib.format.open_memmap(path, "r"))

    @property
    def shape(self) -> tuple[int, ...]:
        """The points along each axis."""
        shape: tuple[int, ...] = self.mapped.shape
        return shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of a value."""
        return self.mapped.dtype

    def __getitem__(self, index: tuple[slice | int, ...]) -> Array:
        """Read a part, of which slices have the step 1.

        Raises:
            OSError: it cannot be read, or the file is too short.
        """
        part = self.mapped[(*index, ...)]
        in_file = np.argsort(part.strides)[::-1]  # the axes as they lie in the file
        found = np.empty_like(part, subok=False)  # which lies as the part does
        with self.path.open("rb", buffering=0) as file:
            self._read(file.fileno(), part.transpose(in_file), found.transpose(in_file))
        return found

    def _read(self, file: int, part: Array, out: Array) -> None:
        if part.size == 0:
            return
        low, high = byte_bounds(part)
        if high - low > max(AT_ONCE, part.nbytes):
            for one in range(len(part)):
                self._read(file, part[one, ...], out[one, ...])
            return
        start = self.mapped.offset + low - self.mapped.ctypes.data
        if part.flags.c_contiguous and out.flags.c_contiguous:
            _fill(file, start, out.reshape(-1).view(np.uint8))
        else:
            content = np.empty(high - low, np.uint8)
            _fill(file, start, content)
            out[...] = np.ndarray(part.shape, part.dtype, content, 0, part.strides)


def _fill(file: int, start: int, content: Array) -> None:
    """Read bytes of a file from `start` on."""
    filled = 0
    while filled < len(content):
        got = os.preadv(file, [content[filled:].data], start + filled)
        if got == 0:
            raise OSError(f"it ends at {start + filled:,} bytes")
        filled += got
