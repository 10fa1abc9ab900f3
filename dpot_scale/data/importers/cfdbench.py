"""CFDBench: flow in a cavity, a tube, over a dam and past a cylinder, unpacked or in zip files.

One folder per case holds `case.json` and `u.npy`, `v.npy` (T, y, x), of unequal length. They become
segments of 20 frames with a mask channel, 1 in the fluid and 0 in what is solid. The cases of
cavity, cylinder and tube are one dataset, as in the paper; those of the dam are another.

Sizes and time steps differ from case to case: they are parameters of the trajectories.
"""

import os
import random
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpot_scale.data.importers.cfdbench_cases import (
    ARRAYS,
    CASE,
    PROBLEMS,
    Case,
    packed_cases,
    place_of,
    read_array,
    read_case,
)
from dpot_scale.data.importers.cfdbench_masks import fluid_mask, reference_frames
from dpot_scale.data.importers.source import DAMAGE, Source, unusable
from dpot_scale.data.info import MASK
from dpot_scale.data.store.dataset import Split
from dpot_scale.data.store.shards import TIME, View, ViewedArray
from dpot_scale.errors import DataError

SEGMENT = 20  # frames
REFERENCE_GRID = 64
SUBSETS = ("prop", "bc", "geo")  # in the reference's order
NUMBERS = ("density", "viscosity", "height", "width", "radius", "barrier_height", "barrier_width")
CORNER = ("x_min", "x_max", "y_min", "y_max")


def recognise(path: Path, *, paper: bool) -> list[Source | DataError]:
    """Return the cases of a case.json or a zip file, and a DataError for each unusable one.

    Raises:
        DataError: a zip file has members that point outside of it.
    """
    if path.name == CASE:
        return [_recognise_case(path.parent, PurePosixPath(path.parent.as_posix()), paper=paper)]
    if not zipfile.is_zipfile(path):
        return []
    return [_recognise_case(path, folder, paper=paper) for folder in packed_cases(path)]


def _recognise_case(path: Path, folder: PurePosixPath, *, paper: bool) -> Source | DataError:
    try:
        return _source(read_case(path, folder), paper=paper)
    except DataError as error:
        return error
    except DAMAGE as error:
        case = f"the CFDBench case {place_of(path, folder)}"
        return unusable(case, error, "is damaged or incomplete")


def _source(case: Case, *, paper: bool) -> Source:
    is_dam = case.problem == "dam"
    paper = paper and not is_dam  # which the reference does not use
    frames = case.shape[0]
    if frames < (1 if paper else SEGMENT):
        place = place_of(case.path, case.folder)
        raise DataError(f"the CFDBench case {place} has {frames} frames; needed: {SEGMENT}")
    starts = _starts(frames, paper=paper)
    name = "cfdbench_dam" if is_dam else "cfdbench"
    return Source(
        path=case.path,
        member=str(case.folder) if case.is_packed else "",
        format=f"CFDBench {case.problem}",
        candidates=(name,),
        equation=f"incompressible Navier-Stokes {'over a dam' if is_dam else 'past obstacles'}",
        channels=("u", "v", MASK),
        grid=(REFERENCE_GRID,) * 2 if paper else case.shape[1:],
        domain_length=(1.0, 1.0),
        units=("m/s", "m/s", ""),  # the cases are in SI units
        frame_interval=1.0,
        boundary="walls, inlet and outlet of each case; lengths and times in `parameters`",
        trajectories=len(starts),
        frames=SEGMENT,
        read=partial(_read, case, starts, paper),
        value_bytes=case.value_bytes,
        parameters=_parameters(case, starts),
        spatial_axes=("y", "x"),
        constant=(MASK,),
        fluid_mask=MASK,
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


def _read(case: Case, starts: list[int], paper: bool, rows: slice, frames: slice) -> NDArray[Any]:
    """Read segments as (N, T, 3, y, x)."""
    u, v = (read_array(case, name) for name in ARRAYS)
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


def _parameters(case: Case, starts: list[int]) -> dict[str, NDArray[Any]]:
    """Return the parameters of a segment's case; a length that the case does not have is 0."""
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


def _subset(case: Case) -> str:
    """Return prop, bc or geo, from the name of a folder or zip file, or from the case's number."""
    parts = [*(case.path.with_suffix("").parts if case.is_packed else ()), *case.folder.parts]
    first = PROBLEMS[case.problem].first
    *_, by_number = (subset for subset, number in first.items() if number <= _number(case))
    return next((part for part in reversed(parts) if part in SUBSETS), by_number)


def _number(case: Case) -> int:
    digits = "".join(filter(str.isdigit, case.folder.name))
    return int(digits) if digits else 0


def _views(case: Case, starts: list[int]) -> tuple[View, ...]:
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
    for development, and uses nowhere, is the valid split.
    """
    arranged = []
    for problem in PROBLEMS:
        cases = {_key(source): source for source in reversed(sources) if _key(source)[0] == problem}
        keys = sorted(cases, key=lambda key: (SUBSETS.index(key[1]), key[2]))
        random.Random(0).shuffle(keys)
        share = PROBLEMS[problem].share
        train, dev = share(0.8 * len(keys)), share(0.1 * len(keys))
        for position, key in enumerate(keys):
            if position < train:
                arranged.append(_in_split(cases[key], "train"))
            elif position >= train + dev:
                arranged.append(_in_split(cases[key], "test"))
            elif not paper:
                arranged.append(_in_split(cases[key], "valid"))
    return arranged


def _in_split(source: Source, split: Split) -> Source:
    return replace(source, split=split)


def _key(source: Source) -> tuple[str, str, int]:
    """Return a key of the case; a case in a zip file and the same case unpacked have the same."""
    values = source.parameters
    return (
        values["problem"][0].decode(),
        values["subset"][0].decode(),
        int(values["case"][0]),
    )
