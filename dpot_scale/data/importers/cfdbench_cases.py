"""Cases of CFDBench: folders, or parts of zip files, with `case.json`, `u.npy` and `v.npy`."""

import io
import json
import math
import zipfile
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from dpot_scale.downloads import check_download
from dpot_scale.errors import DataError
from dpot_scale.files import check_regular

CASE = "case.json"
ARRAYS = ("u.npy", "v.npy")


@dataclass(frozen=True)
class Problem:
    """One of the four flows."""

    keys: frozenset[str]  # in case.json
    velocity: str  # the key of the velocity that drives the flow
    frame_interval: float  # seconds
    share: Callable[[float], int]  # how the reference rounds the numbers of cases
    first: Mapping[str, int]  # number of the cases of a subset, in ascending order


def _first(prop: int, geo: int) -> Mapping[str, int]:
    return {"bc": 0, "prop": prop, "geo": geo}


PROBLEMS = {
    "cavity": Problem(frozenset({"vel_top"}), "vel_top", 0.1, round, _first(50, 134)),
    "cylinder": Problem(frozenset({"vel_in", "radius"}), "vel_in", 0.001, int, _first(50, 165)),
    "tube": Problem(frozenset({"vel_in"}), "vel_in", 0.01, int, _first(50, 150)),
    "dam": Problem(
        frozenset({"velocity", "barrier_height"}), "velocity", 0.1, round, _first(70, 170)
    ),
}


@dataclass(frozen=True)
class Case:
    """One case, in a folder or in a zip file."""

    path: Path  # the folder or the zip file
    folder: PurePosixPath  # of the case, for its number and subset; in a zip file also to read it
    values: Mapping[str, Any]  # of case.json
    shape: tuple[int, ...]  # (T, y, x)
    value_bytes: int

    @property
    def problem(self) -> str:
        """Return which flow the case is, judged by the keys of its case.json."""
        return next(name for name, kind in PROBLEMS.items() if kind.keys <= self.values.keys())

    @property
    def is_packed(self) -> bool:
        """Return whether the case is in a zip file."""
        return not self.path.is_dir()

    def open(self, name: str) -> IO[bytes]:
        """Open a file of the case."""
        return _open(self.path, self.folder, name)


def packed_cases(path: Path) -> list[PurePosixPath]:
    """Return the folders of the cases in a zip file.

    Raises:
        DataError: a member of it points outside.
    """
    with zipfile.ZipFile(path) as archive:
        members = [PurePosixPath(name) for name in archive.namelist()]
    for member in members:
        if member.is_absolute() or ".." in member.parts:
            raise DataError(
                f"{path} has a member {str(member)!r} that points outside of its folder; it is no "
                "file of CFDBench"
            )
    return [member.parent for member in members if member.name == CASE]


def place_of(path: Path, folder: PurePosixPath) -> Path:
    """Return where a case is, for messages."""
    return path if path.is_dir() else path / folder


def _open(path: Path, folder: PurePosixPath, name: str) -> IO[bytes]:
    if path.is_dir():
        check_regular(path / name)
        return (path / name).open("rb")
    with zipfile.ZipFile(path) as archive:
        return archive.open(str(folder / name))  # keeps the file open by itself


def _size(path: Path, folder: PurePosixPath, name: str) -> int:
    if path.is_dir():
        return (path / name).stat().st_size
    with zipfile.ZipFile(path) as archive:
        return archive.getinfo(str(folder / name)).file_size


def read_case(path: Path, folder: PurePosixPath) -> Case:
    """Return a case from its case.json and the headers of its arrays.

    Raises:
        DataError: it is of no known flow, or u and v do not fit together.
        OSError, KeyError, ValueError, BadZipFile, zlib.error: it is damaged or incomplete.
    """
    place = place_of(path, folder)
    with _open(path, folder, CASE) as file:
        values = json.load(file)
    headers = [_header(path, folder, name) for name in ARRAYS]
    if not isinstance(values, dict) or not any(
        kind.keys <= values.keys() for kind in PROBLEMS.values()
    ):
        raise DataError(f"{place / CASE} describes no problem of CFDBench")
    (shape, kind), (other, _) = headers
    if shape != other or len(shape) != 3 or kind.kind != "f":
        raise DataError(
            f"the CFDBench case {place} has u and v of shapes {shape} and {other} in {kind}; "
            "expected floating-point numbers (T, y, x), equally many"
        )
    return Case(path, folder, values, shape, kind.itemsize)


def _header(path: Path, folder: PurePosixPath, name: str) -> tuple[tuple[int, ...], Any]:
    """Return the shape and type of a .npy file without reading its values."""
    if (path / name).is_file():  # no pipe, and no member of a zip file
        check_download(path / name)
    with _open(path, folder, name) as file:
        version = np.lib.format.read_magic(file)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read is None:
            raise ValueError(f"{name} is of an unknown version")
        shape, in_fortran_order, kind = read(file)
    if in_fortran_order:
        raise ValueError(f"{name} is in Fortran order")
    if math.prod(shape) * kind.itemsize > _size(path, folder, name):
        raise ValueError(f"{name} is shorter than an array of shape {shape}")
    return shape, kind


def read_array(case: Case, name: str) -> NDArray[Any]:
    """Return u or v (T, y, x), mapped into memory where it is a file of its own."""
    array: NDArray[Any]
    if not case.is_packed:
        check_regular(case.path / name)
        array = np.load(case.path / name, mmap_mode="r", allow_pickle=False)
        return array
    with closing(case.open(name)) as file:
        array = np.load(io.BytesIO(file.read()), allow_pickle=False)
    return array
