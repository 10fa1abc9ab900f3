"""Files that hold trajectories: shards of our own, and views of published files as they lie.

A shard is HDF5 with `fields` (N, T, C, *space) in float32, contiguous, and what lies beside them.
Its trajectories are equally long.

A view is a published file (HDF5, a .npy or a folder of .npy) whose arrays can be sliced in place.
It names the axes of each array; a window comes out in the layout of a shard.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import h5py
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from dpot_scale.config.base import NO_BOOL, STRICT, NonNegativeInt, PositiveInt
from dpot_scale.data.info import DatasetInfo
from dpot_scale.data.store.beside import Beside
from dpot_scale.data.store.numpy_files import NumpyFile
from dpot_scale.data.store.open_files import OpenFiles, open_hdf5
from dpot_scale.files import sha256

FIELDS = "fields"
TRAJECTORY, TIME, CHANNEL = "trajectory", "time", "channel"
COLUMN = "column"  # of a tensor, whose rows are the channel axis: together they are its channels
REAL = "fiub"  # NumPy's kinds of numbers that a field can be of

Count = Annotated[int, Field(ge=1, lt=2**31), NO_BOOL]  # so that windows can be counted in 64 bits

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class ViewedArray:
    """One array of a published file."""

    __pydantic_config__ = STRICT

    name: str
    # "trajectory", "time", "channel", "column" and space axes; others have one point.
    axes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """Consecutive trajectories of a published file, and consecutive frames of them."""

    __pydantic_config__ = STRICT

    file: str  # HDF5, a .npy or a folder of .npy
    arrays: tuple[ViewedArray, ...]  # their channels in order
    spatial_axes: tuple[str, ...]
    trajectories: Count
    frames: Count
    first_trajectory: NonNegativeInt = 0
    first_frame: NonNegativeInt = 0
    grid: tuple[
        PositiveInt, ...
    ] = ()  # where an array lacks a space axis, along which it is constant

    def part(self, first: int, trajectories: int, frames: int) -> "View":
        """Return the view of some of the trajectories, and of their first frames."""
        return replace(
            self,
            first_trajectory=self.first_trajectory + first,
            trajectories=trajectories,
            frames=frames,
        )

    def read(self, files: OpenFiles, rows: slice, frames: slice) -> Array:
        """Return (N, T, C, *space) in the type of the file.

        Raises:
            UNREADABLE: the file is missing or not what it was.
        """
        rows = _shift(rows, self.first_trajectory)
        frames = _shift(frames, self.first_frame)
        parts = [
            self._on_grid(
                sliced(
                    files.array(self.file, array.name), array.axes, self.spatial_axes, rows, frames
                )
            )
            for array in self.arrays
        ]
        fields_NTCs = np.concatenate(parts, axis=2) if len(parts) > 1 else parts[0]
        # A slice that reaches beyond the end is cut short.
        found, wanted = fields_NTCs.shape[:2], (rows.stop - rows.start, frames.stop - frames.start)
        if found != wanted:
            raise ValueError(f"{found} trajectories and frames where there were {wanted}")
        files.check_uncut(self.file)
        return fields_NTCs

    def _on_grid(self, values_NTCs: Array) -> Array:
        if not self.grid:
            return values_NTCs
        return np.broadcast_to(values_NTCs, (*values_NTCs.shape[:3], *self.grid))


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """One file of a split."""

    __pydantic_config__ = STRICT

    file: str  # relative to the dataset's folder; of a view, the absolute path
    trajectories: Count
    frames: Count
    sha256: str
    view: View | None = None


def _shift(part: slice, by: int) -> slice:
    return slice(part.start + by, part.stop + by)


def sliced(
    array: h5py.Dataset | NumpyFile | Array,
    axes: Sequence[str],
    spatial_axes: Sequence[str],
    rows: slice,
    frames: slice,
) -> Array:
    """Return a part of an array as (N, T, C, *space); an axis that it lacks has one value."""
    wanted = (TRAJECTORY, TIME, CHANNEL, COLUMN, *spatial_axes)
    parts: dict[str, slice] = {TRAJECTORY: rows, TIME: frames}
    for axis, points in zip(axes, array.shape, strict=True):
        if axis not in wanted and points != 1:
            raise ValueError(f"its axis {axis!r} has {points} points instead of one")
    values = np.asarray(
        array[tuple(parts.get(axis, slice(None)) if axis in wanted else 0 for axis in axes)]
    )
    kept = [axis for axis in axes if axis in wanted]
    values = values.transpose([kept.index(axis) for axis in wanted if axis in kept])
    missing = [i for i, axis in enumerate(wanted) if axis not in kept]
    values = np.expand_dims(values, missing)
    values = values.reshape(*values.shape[:2], -1, *values.shape[4:])
    # A field that is the same in all trajectories or frames.
    repeated = [
        (part.stop - part.start) if i in missing else size
        for i, (part, size) in enumerate(zip((rows, frames), values.shape, strict=False))
    ]
    return np.broadcast_to(values, (*repeated, *values.shape[2:]))


def write_shard(
    path: Path,
    info: DatasetInfo,
    shape: tuple[int, ...],
    pieces: Iterable[tuple[int, int, Array]],
    beside: Beside,
) -> None:
    """Write a shard of `shape` (N, T, C, *space).

    Args:
        path: Where.
        info: The description of the dataset.
        shape: The shape of the fields, without constant channels.
        pieces: Trajectory, first frame and consecutive frames (T, C, *space), in any order.
        beside: What the trajectories have beside their frames.
    """
    with open_hdf5(path, "w") as shard:
        fields = shard.create_dataset(FIELDS, shape, dtype=np.float32)
        for row, first, frames in pieces:
            fields[row, first : first + len(frames)] = frames
        shard.attrs.update(_attributes(info))
        beside.write(shard, info)
        for axis, points in zip(info.spatial_axes, info.coordinates, strict=False):
            shard.create_dataset(f"coordinates/{axis}", data=points)


def _attributes(info: DatasetInfo) -> dict[str, Any]:
    """Return the attributes that make a shard readable without its index."""
    return {
        "name": info.name,
        "channels": list(info.channels),
        "spatial_axes": list(info.spatial_axes),
        "spacing": [
            length / points for length, points in zip(info.domain_length, info.grid, strict=True)
        ],
        "frame_interval": info.frame_interval,
        "boundary": info.boundary,
        "staggering": info.staggering,
    }


def digest(path: Path, progress: Callable[[int], None] | None = None) -> str:
    """Return the SHA-256 of a file, or of the names and SHA-256 of a folder's files."""
    if not path.is_dir():
        return sha256(path, progress)
    lines = "".join(f"{sha256(file, progress)}  {file.name}\n" for file in files_of(path))
    return hashlib.sha256(lines.encode()).hexdigest()


def files_of(path: Path) -> list[Path]:
    """Return a file, or the files of a folder that holds one trajectory."""
    return sorted(filter(Path.is_file, path.iterdir())) if path.is_dir() else [path]
