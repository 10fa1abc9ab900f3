"""NumPy's .npz: a zip file with one .npy for each array.

Arrays that are stored as they are, as `numpy.savez` does, are mapped into memory where they lie.
Compressed ones are read as a whole, once.
"""

import os
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from dpot_scale.errors import DataError

SUFFIX = ".npy"  # of the members
LOCAL_HEADER = 30  # bytes, before the name and the extra field, whose lengths are the last two
READ_HEADER = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


class ArrayLike(Protocol):
    """What may be sliced: an array, or one that is read when it is."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the number of points of each axis."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Return the type of a value."""
        ...

    def __getitem__(self, key: Any, /) -> Any:  # noqa: ANN401 - as that of NumPy
        """Return a part."""
        ...


def is_npz(path: Path) -> bool:
    """Return whether a file is a zip file of nothing but .npy."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    return bool(names) and all(name.endswith(SUFFIX) for name in names)


def members(path: Path) -> dict[str, ArrayLike]:
    """Return the arrays of a file by name, mapped or not yet read.

    Raises:
        DataError: a member holds no array of numbers.
    """
    with zipfile.ZipFile(path) as archive:
        return {
            info.filename.removesuffix(SUFFIX): _member(path, archive, info)
            for info in archive.infolist()
        }


class _Header(NamedTuple):
    shape: tuple[int, ...]
    is_fortran: bool
    dtype: np.dtype[Any]
    length: int  # in bytes


def _member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> ArrayLike:
    header = _header(path, archive, info)
    if info.compress_type != zipfile.ZIP_STORED:
        return _Packed(path, info.filename.removesuffix(SUFFIX), header.shape, header.dtype)
    if 0 in header.shape:  # nothing to map
        return np.empty(header.shape, header.dtype)
    mapped: NDArray[Any] = np.memmap(
        path,
        dtype=header.dtype,
        mode="r",
        offset=_content(path, info) + header.length,
        shape=header.shape,
        order="F" if header.is_fortran else "C",
    )
    return mapped


def _header(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Header:
    try:
        with archive.open(info) as member:
            read = READ_HEADER[npy.read_magic(member)]
            shape, is_fortran, dtype = read(member)
            header = _Header(shape, is_fortran, dtype, member.tell())
    except (ValueError, KeyError) as error:
        raise DataError(
            f"{path}: its member {info.filename} is damaged ({error}); write it again"
        ) from error
    if dtype.hasobject:
        raise DataError(
            f"{path}: its member {info.filename} holds objects instead of numbers; store arrays "
            "of numbers with numpy.savez"
        )
    return header


def _content(path: Path, info: zipfile.ZipInfo) -> int:
    """Return where the content of a member begins in the file."""
    with path.open("rb") as file:
        file.seek(info.header_offset)
        lengths = file.read(LOCAL_HEADER)[-4:]
    name, extra = (int.from_bytes(lengths[i : i + 2], "little") for i in (0, 2))
    return info.header_offset + LOCAL_HEADER + name + extra


@dataclass(frozen=True)
class _Packed:
    """A compressed array, which cannot be read in parts."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __getitem__(self, key: Any) -> Any:  # noqa: ANN401 - as that of NumPy
        stamp = self.path.stat()
        unpacked = _unpacked(self.path, stamp.st_size, stamp.st_mtime_ns)
        if self.name not in unpacked:
            self._check_fits_memory()
            with np.load(self.path, allow_pickle=False) as archive:
                unpacked[self.name] = archive[self.name]
        return unpacked[self.name][key]

    def _check_fits_memory(self) -> None:
        needed = int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if needed > memory / 2:
            raise DataError(
                f"{self.path}: its array {self.name} of {needed / 2**30:,.0f} GiB is compressed "
                f"and too large for the memory of {memory / 2**30:,.0f} GiB; `unzip` the file and "
                f"import {self.name}{SUFFIX}, which is read in pieces"
            )


@lru_cache(maxsize=1)  # of one file at a time
def _unpacked(path: Path, size: int, changed: int) -> dict[str, NDArray[Any]]:
    """Return where the arrays of a file, as it was when it was changed last, are kept."""
    del path, size, changed
    return {}
