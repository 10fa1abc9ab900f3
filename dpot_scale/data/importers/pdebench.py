"""PDEBench diffusion-reaction and radial-dam-break shallow-water files.

One HDF5 group per seed, `0000` to `0999`, with `data` and `grid/{t,x,y}`. Two fields are those of
diffusion-reaction, stored (T, y, x, C) and turned here; one is the water depth, stored
(T, x, y, C).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from dpot_scale.data.importers.source import Block, Source, block_length, frame_interval
from dpot_scale.errors import DataError

DATA = "data"
GRIDS = ("grid/t", "grid/x", "grid/y")


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """One of the two sets."""

    name: str  # in the catalogue
    format: str
    equation: str
    channels: tuple[str, ...]
    boundary: str
    to_TCxy: tuple[int, int, int, int]  # the axes on disk, in the order of the store


# By the number of fields.
KINDS = {
    1: _Kind(
        name="swe_pdb",
        format="PDEBench shallow water",
        equation="shallow water, radial dam break",
        channels=("h",),
        boundary="open",
        to_TCxy=(0, 3, 1, 2),
    ),
    2: _Kind(
        name="dr_pdb",
        format="PDEBench diffusion-reaction",
        equation="diffusion-reaction, FitzHugh-Nagumo",
        channels=("u", "v"),
        boundary="zero flux",
        to_TCxy=(0, 3, 2, 1),
    ),
}


def recognise(path: Path) -> Source | None:
    """Return the file as a source if its HDF5 groups are the numbers of seeds.

    Raises:
        DataError: they are, but one of them is not what it should be.
    """
    if not h5py.is_hdf5(path):
        return None
    with h5py.File(path, "r") as file:
        if not len(file) or not all(_is_seed(name, item) for name, item in file.items()):
            return None
        return _source(path, file)


def _is_seed(name: str, item: h5py.HLObject) -> bool:
    return name.isdigit() and isinstance(item, h5py.Group)


def _source(path: Path, file: h5py.File) -> Source:
    groups = sorted(file, key=int)
    shape = _common_shape(path, file, groups)
    if len(shape) != 4 or shape[-1] not in KINDS:
        raise DataError(
            f"{path}: {DATA} of group {groups[0]} has shape {shape}; expected (T, space, space, C) "
            "with C = 1 (shallow water) or 2 (diffusion-reaction)"
        )
    kind = KINDS[shape[-1]]
    frames, _, *grid = (shape[axis] for axis in kind.to_TCxy)
    times, *axes = _grids(path, file[groups[0]])
    return Source(
        path=path,
        format=kind.format,
        candidates=(kind.name,),
        equation=kind.equation,
        channels=kind.channels,
        grid=tuple(grid),
        domain_length=_domain_length(path, axes, grid),
        frame_interval=frame_interval(times, frames, path),
        boundary=kind.boundary,
        trajectories=len(groups),
        frames=frames,
        blocks=partial(_blocks, path, kind, groups),
    )


def _common_shape(path: Path, file: h5py.File, groups: list[str]) -> tuple[int, ...]:
    """Return the shape that the data of all groups have."""
    shapes = {}
    for group in groups:
        data = file[group].get(DATA)
        if not isinstance(data, h5py.Dataset):
            raise DataError(f"{path}: group {group} holds no {DATA}; download it again")
        shapes[data.shape] = group
    if len(shapes) > 1:
        (first, of_first), (second, of_second), *_ = shapes.items()
        raise DataError(
            f"{path}: the groups differ in shape, {of_first} has {first}, {of_second} has {second}"
        )
    (shape,) = shapes
    return tuple(shape)


def _grids(path: Path, group: h5py.Group) -> list[NDArray[Any]]:
    """Return the times, x and y of a group."""
    for name in GRIDS:
        if not isinstance(group.get(name), h5py.Dataset):
            raise DataError(f"{path}: group {group.name.strip('/')} has no {name}")
    return [np.asarray(group[name], dtype=np.float64) for name in GRIDS]


def _domain_length(path: Path, axes: list[NDArray[Any]], grid: list[int]) -> tuple[float, ...]:
    """Return the extent of each axis from its cell centres."""
    points = [len(axis) for axis in axes]
    if points != grid or min(points) < 2:
        raise DataError(f"{path}: the grid has {points} points (x, y), the data {grid}")
    return tuple(
        float(f"{(axis[-1] - axis[0]) * len(axis) / (len(axis) - 1):.6g}") for axis in axes
    )


def _blocks(path: Path, kind: _Kind, groups: list[str]) -> Iterator[Block]:
    """Yield blocks of whole groups, in the order of their seeds."""
    with h5py.File(path, "r") as file:
        length = block_length(file[groups[0]][DATA].nbytes)
        for first in range(0, len(groups), length):
            some = groups[first : first + length]
            fields = np.stack([file[group][DATA][()].transpose(kind.to_TCxy) for group in some])
            yield Block(fields, {"seed": np.array([int(group) for group in some])})
