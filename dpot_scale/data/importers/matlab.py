"""MATLAB v5 files, the container of FNO's older downloads. MATLAB v7.3 files are HDF5."""

from collections.abc import Callable
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, TypeVar

import scipy.io
from numpy.typing import NDArray

from dpot_scale.errors import DataError

SIGNATURE = b"MATLAB 5.0 MAT-file"
MOST_PACKED = 1032  # values that zlib packs into a byte of a file, at most

T = TypeVar("T")


def is_matlab_5(path: Path) -> bool:
    """Return whether a file begins as MATLAB v5 does."""
    with path.open("rb") as file:
        return file.read(len(SIGNATURE)) == SIGNATURE


def contents(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Return the shape and MATLAB class of each array.

    Raises:
        DataError: the file is damaged.
    """
    found: dict[str, tuple[tuple[int, ...], str]]
    found = {name: (shape, kind) for name, shape, kind in _read(path, scipy.io.whosmat)}
    most = MOST_PACKED * path.stat().st_size
    for name, (shape, _) in found.items():
        if min(shape, default=0) < 0 or prod(shape) > most:
            raise DataError(
                f"{path} is a damaged MATLAB file (its array {name} is said to be of {shape} "
                "values); download it again"
            )
    return found


def load(path: Path, name: str) -> NDArray[Any]:
    """Return an array, which MATLAB v5 only gives as a whole.

    Raises:
        DataError: the file is damaged.
    """
    arrays = _read(path, partial(scipy.io.loadmat, variable_names=[name]))
    if name not in arrays:
        raise DataError(f"{path} breaks off before its array {name}; download it again")
    array: NDArray[Any] = arrays[name]
    return array


def _read(path: Path, read: Callable[[Path], T]) -> T:
    """Call one of scipy's readers, which raise errors of any kind on a damaged file."""
    try:
        return read(path)
    except Exception as error:
        raise DataError(
            f"{path} is a truncated or damaged MATLAB file ({error}); download it again"
        ) from error
