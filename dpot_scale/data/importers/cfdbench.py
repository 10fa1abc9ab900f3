"""CFDBench: flow in a cavity, a tube, over a dam and past a cylinder, unpacked or in zip files.

One folder per case holds `case.json` and `u.npy`, `v.npy` (T, y, x), of unequal length. They become
segments of 20 frames with a mask channel, 1 in the fluid and 0 in what is solid. The cases of
cavity, cylinder and tube are one dataset, as in the paper; those of the dam are another.

Sizes and time steps differ from case to case: they are parameters of the trajectories.
"""

import io
import json
import os
import random
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from dpot_scale.data.importers.cfdbench_masks import fluid_mask, reference_frames
from dpot_scale.data.importers.source import Source
from dpot_scale.data.shards import TIME, View, ViewedArray
from dpot_scale.data.store import Split
from dpot_scale.errors import DataError

CASE = "case.json"
ARRAYS = ("u.npy", "v.npy")
SEGMENT = 20  # frames
REFERENCE_GRID = 64
MASK = "mask"
SUBSETS = ("prop", "bc", "geo")  # in the reference's order


@dataclass(frozen=True)
class _Problem:
    keys: frozenset[str]  # in case.json
    velocity: str  # the key of the velocity that drives the flow
    frame_interval: float  # seconds
    share: Callable[[float], int]  # how the reference rounds the numbers of cases


PROBLEMS = {
    "cavity": _Problem(frozenset({"vel_top"}), "vel_top", 0.1, round),
    "cylinder": _Problem(frozenset({"vel_in", "radius"}), "vel_in", 0.001, int),
    "tube": _Problem(frozenset({"vel_in"}), "vel_in", 0.01, int),
    "dam": _Problem(frozenset({"velocity", "barrier_height"}), "velocity", 0.1, round),
}
NUMBERS = ("density", "viscosity", "height", "width", "radius", "barrier_height", "barrier_width")
CORNER = ("x_min", "x_max", "y_min", "y_max")


@dataclass(frozen=True)
class _Case:
    """One case, in a folder or in a zip file."""

    path: Path  # the folder or the zip file
    folder: PurePosixPath  # of the case, for its number and subset; in a zip file also to read it
    values: Mapping[str, Any]  # of case.json
    shape: tuple[int, ...]  # (T, y, x)
    value_bytes: int

    @property
    def problem(self) -> str:
        return next(name for name, kind in PROBLEMS.items() if kind.keys <= self.values.keys())

    @property
    def is_packed(self) -> bool:
        return not self.path.is_dir()

    def open(self, name: str) -> IO[bytes]:
        return _open(self.path, self.folder, name)


def recognise(path: Path, *, paper: bool) -> list[Source]:
    """Return the cases that a case.json or a zip file leads to.

    Raises:
        DataError: a case is damaged or incomplete, or a zip file is.
    """
    if path.name == CASE:
        return [_source(_case(path.parent, PurePosixPath(path.parent.as_posix())), paper=paper)]
    if not zipfile.is_zipfile(path):
        return []
    return [_source(_case(path, folder), paper=paper) for folder in _packed_cases(path)]


def _packed_cases(path: Path) -> list[PurePosixPath]:
    with zipfile.ZipFile(path) as archive:
        members = [PurePosixPath(name) for name in archive.namelist()]
    for member in members:
        if member.is_absolute() or ".." in member.parts:
            raise DataError(
                f"{path} has a member {str(member)!r} that points outside of its folder; it is no "
                "file of CFDBench"
            )
    return [member.parent for member in members if member.name == CASE]


def _open(path: Path, folder: PurePosixPath, name: str) -> IO[bytes]:
    if path.is_dir():
        return (path / name).open("rb")
    with zipfile.ZipFile(path) as archive:
        return archive.open(str(folder / name))  # keeps the file open by itself


def _case(path: Path, folder: PurePosixPath) -> _Case:
    """Return a case from its case.json and the headers of its arrays."""
    place = path if path.is_dir() else path / folder
    try:
        with _open(path, folder, CASE) as file:
            values = json.load(file)
        headers = [_header(path, folder, name) for name in ARRAYS]
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"the CFDBench case {place} is damaged or incomplete ({error}); download it again"
        ) from error
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
    return _Case(path, folder, values, shape, kind.itemsize)


def _header(path: Path, folder: PurePosixPath, name: str) -> tuple[tuple[int, ...], Any]:
    """Return the shape and type of a .npy file without reading its values."""
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
    return shape, kind


def _source(case: _Case, *, paper: bool) -> Source:
    is_dam = case.problem == "dam"
    paper = paper and not is_dam  # which the reference does not use
    frames = case.shape[0]
    if frames < (1 if paper else SEGMENT):
        place = case.path / case.folder if case.is_packed else case.path
        raise DataError(f"the CFDBench case {place} has {frames} frames; needed: {SEGMENT}")
    starts = _starts(frames, paper=paper)
    name = "cfdbench_dam" if is_dam else "cfdbench"
    return Source(
        path=case.path,
        member=str(case.folder) if case.is_packed else "",
        format=f"CFDBench {case.problem}",
        candidates=(name,),
        equation="incompressible Navier-Stokes over a dam",
        channels=("u", "v", MASK),
        grid=(REFERENCE_GRID,) * 2 if paper else case.shape[1:],
        domain_length=(1.0, 1.0),
        frame_interval=1.0,
        boundary="walls, inlet and outlet of each case; lengths and times in `parameters`",
        trajectories=len(starts),
        frames=SEGMENT,
        read=partial(_read, case, starts, paper),
        value_bytes=case.value_bytes,
        parameters=_parameters(case, starts),
        spatial_axes=("y", "x"),
        constant=(MASK,),
        views=() if case.is_packed or paper else _views(case, starts),
        collection=name,
        arrange=partial(_arrange, paper=paper),
    )


def _starts(frames: int, *, paper: bool) -> list[int]:
    """Return where segments begin; the last one ends with the last frame.

    The reference completes the last one with copies of the last frame instead.
    """
    starts = list(range(0, frames, SEGMENT))
    return starts if paper else [min(start, frames - SEGMENT) for start in starts]


def _read(case: _Case, starts: list[int], paper: bool, rows: slice, frames: slice) -> NDArray[Any]:
    """Read segments as (N, T, 3, y, x)."""
    u, v = (_array(case, name) for name in ARRAYS)
    first, last = starts[rows.start], min(starts[rows.stop - 1] + SEGMENT, case.shape[0])
    fields_Tcyx = np.stack([u[first:last], v[first:last]], axis=1)
    if paper:
        fields_Tcyx = reference_frames(case.problem, case.values, fields_Tcyx, REFERENCE_GRID)
    else:
        mask = np.broadcast_to(
            fluid_mask(case.problem, case.values, case.shape[1:]),
            (last - first, 1, *case.shape[1:]),
        )
        fields_Tcyx = np.concatenate([fields_Tcyx, mask.astype(fields_Tcyx.dtype)], axis=1)
    index = np.array(starts[rows])[:, None] + np.arange(SEGMENT)[frames] - first
    segments: NDArray[Any] = fields_Tcyx[np.minimum(index, last - first - 1)]
    return segments


def _array(case: _Case, name: str) -> NDArray[Any]:
    array: NDArray[Any]
    if not case.is_packed:
        array = np.load(case.path / name, mmap_mode="r", allow_pickle=False)
        return array
    with closing(case.open(name)) as file:
        array = np.load(io.BytesIO(file.read()), allow_pickle=False)
    return array


def _parameters(case: _Case, starts: list[int]) -> dict[str, NDArray[Any]]:
    """Return what a segment's case is; lengths that a case does not have are 0."""
    kind, values = PROBLEMS[case.problem], dict(case.values)
    if CORNER[0] in values:
        x_min, x_max, y_min, y_max = (values[key] for key in CORNER)
        values |= {"width": x_max - x_min, "height": y_max - y_min}
    numbers = {key: float(values.get(key, 0.0)) for key in (*NUMBERS, "x_min", "y_min")}
    numbers |= {"velocity": float(values[kind.velocity]), "frame_interval": kind.frame_interval}
    count = len(starts)
    return {
        "problem": np.full(count, case.problem.encode()),
        "subset": np.full(count, _subset(case).encode()),
        "case": np.full(count, _number(case)),
        "first_frame": np.array(starts),
        **{key: np.full(count, number) for key, number in numbers.items()},
    }


def _subset(case: _Case) -> str:
    """Return prop, bc or geo, from the folders of the case or the name of the zip file."""
    parts = [*(case.path.with_suffix("").parts if case.is_packed else ()), *case.folder.parts]
    return next((part for part in reversed(parts) if part in SUBSETS), "")


def _number(case: _Case) -> int:
    digits = "".join(filter(str.isdigit, case.folder.name))
    return int(digits) if digits else 0


def _views(case: _Case, starts: list[int]) -> tuple[View, ...]:
    return tuple(
        View(
            file=f"{case.path.absolute()}{os.sep}",
            arrays=tuple(ViewedArray(name, (TIME, "y", "x")) for name in ARRAYS),
            spatial_axes=("y", "x"),
            trajectories=1,
            frames=SEGMENT,
            first_frame=start,
        )
        for start in starts
    )


def _arrange(sources: Sequence[Source], *, paper: bool) -> list[Source]:
    """Return the cases in the reference's order, each with its split.

    The cases of each problem are shuffled with the reference's seed. The tenth that it puts aside
    for development, and uses nowhere, goes to the training.
    """
    arranged = []
    for problem in PROBLEMS:
        cases = {_key(source): source for source in reversed(sources) if _key(source)[0] == problem}
        keys = sorted(cases, key=lambda key: (SUBSETS.index(key[1]) if key[1] else -1, key[2]))
        random.Random(0).shuffle(keys)
        share = PROBLEMS[problem].share
        train, dev = share(0.8 * len(keys)), share(0.1 * len(keys))
        for position, key in enumerate(keys):
            if position < train + (0 if paper else dev):
                arranged.append(_in_split(cases[key], "train"))
            elif position >= train + dev:
                arranged.append(_in_split(cases[key], "test"))
    return arranged


def _in_split(source: Source, split: Split) -> Source:
    return replace(source, split=split)


def _key(source: Source) -> tuple[str, str, int]:
    """Return what tells a case from others; a zip file beside its unpacked folder has the same."""
    values = source.parameters
    return (
        values["problem"][0].decode(),
        values["subset"][0].decode(),
        int(values["case"][0]),
    )
