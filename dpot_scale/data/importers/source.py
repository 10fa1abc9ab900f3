"""A `Source` describes the trajectories in a published file.

Each format has a module that looks at the content of a file and returns its sources. Everything
after that is the same for all formats: names, splits, checks and writing.
"""

import errno
import math
import os
import zipfile
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpot_scale.data.store.dataset import Split
from dpot_scale.data.store.faults import UNREADABLE, require_machine
from dpot_scale.data.store.open_files import OpenFiles, Reading
from dpot_scale.data.store.shards import View, ViewedArray
from dpot_scale.errors import DataError
from dpot_scale.files import NotAFileError

# What h5py, zipfile and NumPy raise where the content of a file is damaged.
DAMAGE = (*UNREADABLE, EOFError, zipfile.BadZipFile, zlib.error)

Array = NDArray[Any]
Read = Callable[[slice, slice], Array]


@dataclass(frozen=True, kw_only=True)
class Source:
    """Trajectories of a published file, understood but not yet read."""

    path: Path
    format: str  # for people
    member: str = ""  # of a container with several
    candidates: tuple[str, ...]  # names that the content allows
    # Whether the file says what it is: if not, the user must, even if one candidate is left.
    says_name: bool = True
    equation: str  # where the name is not in the catalogue
    channels: tuple[str, ...]
    grid: tuple[int, ...]
    domain_length: tuple[float, ...]
    frame_interval: float
    boundary: str
    trajectories: int
    frames: int
    read: Read  # trajectories and frames -> (N, T, C, *spatial_axes)
    aligned_to: int = 1  # trajectories that are only read together: a chunk of the file
    value_bytes: int = 4
    parameters: Mapping[str, Array] = field(default_factory=dict)  # N values of each
    spatial_axes: tuple[str, ...] = ("x", "y")
    staggering: str = ""
    constant: tuple[str, ...] = ()  # channels that do not change in time, which are not scored
    fluid_mask: str = ""  # the one of them that is known to be 0 in obstacles and 1 in the fluid
    coordinates: tuple[tuple[float, ...], ...] = ()  # of the points of each axis, where it has them
    units: tuple[str, ...] = ()  # of the channels, as `DatasetInfo` has them; so are the others
    length_unit: str = ""
    time_unit: str = ""
    has_lengths: bool = True
    intervals: Array | None = None  # (N,), where trajectories differ in their time step
    series: Mapping[str, Array] = field(default_factory=dict)  # (N, T) numbers of each
    notes: tuple[str, ...] = ()  # what a user should know of it
    views: tuple[View, ...] = ()  # where the file can be sliced as it lies
    split: Split | None = None  # where the publisher says it
    test_share: float | None = None  # of the trajectories, where the user says it
    # This source under a name, where what it holds follows from the name that the user gives.
    named: "Callable[[str], Source] | None" = None
    with_tensors: "Source | None" = None  # this source and its tensors, where it has some
    tensors: bool = False  # whether they are among its channels
    folder: str = ""  # that the dataset is named after, where files of several give one name
    # The dataset of several files, and what puts them in order and gives each its split.
    collection: str | None = None
    arrange: "Callable[[Sequence[Source]], list[Source]] | None" = None

    def describe(self) -> str:
        """Return what the file holds, in a few words."""
        grid = " x ".join(str(points) for points in self.grid)
        noun = "trajectory" if self.trajectories == 1 else "trajectories"
        return (
            f"{self.format}: {self.trajectories} {noun} of {self.frames} frames of "
            f"{', '.join(self.channels)} at {grid}"
        )

    @property
    def place(self) -> Path:
        """Return the file and the member in it, for messages."""
        return self.path / self.member

    def name_of(self, row: int) -> str:
        """Return the name of a trajectory, for messages: of its group, or its number from 0."""
        for view, first, last in overlapping(self.views, slice(row, row + 1)):
            group = view.arrays[0].name.rpartition("/")[0]
            if view.trajectories == 1 and last - first == 1 and group:
                return f"group {group}"
        return f"trajectory {row}"

    def without(self, rows: Collection[int]) -> "Source":
        """Return the source without some of its trajectories."""
        kept = [row for row in range(self.trajectories) if row not in rows]
        return replace(
            self,
            trajectories=len(kept),
            read=partial(_read_kept, self.read, kept),
            aligned_to=1,
            parameters={key: values[kept] for key, values in self.parameters.items()},
            series={key: values[kept] for key, values in self.series.items()},
            intervals=None if self.intervals is None else self.intervals[kept],
            views=tuple(
                view.part(first, last - first, view.frames)
                for part in _consecutive(kept)
                for view, first, last in overlapping(self.views, part)
            ),
        )

    @property
    def frame_bytes(self) -> int:
        """Return the size of a frame in the file."""
        return len(self.channels) * math.prod(self.grid) * self.value_bytes

    @property
    def scored(self) -> tuple[bool, ...]:
        """Return, per channel, whether it is a field and not a coefficient or a mask."""
        return tuple(channel not in self.constant for channel in self.channels)


def unit_of(array: object) -> str:
    """Return the unit that an array of an HDF5 or netCDF file says it is in; "" if it does not."""
    said = getattr(array, "attrs", {}).get("units", "")
    said = said.decode(errors="replace") if isinstance(said, bytes) else said
    return " ".join(said.split()) if isinstance(said, str) else ""


def sliced_in_place(views: Sequence[View]) -> dict[str, Any]:
    """Return the fields of a `Source` that follow from views of all its trajectories."""
    return {
        "trajectories": sum(view.trajectories for view in views),
        "frames": views[0].frames,
        "read": partial(read_views, tuple(views)),
        "spatial_axes": views[0].spatial_axes,
        "views": tuple(views),
    }


def file_view(
    path: Path,
    arrays: Sequence[tuple[str, tuple[str, ...]]],
    *,
    spatial_axes: tuple[str, ...],
    trajectories: int,
    frames: int,
    grid: tuple[int, ...] = (),
) -> View:
    """Return the view of an HDF5 file, from the names and axes of its arrays.

    `grid` is needed where an array lacks an axis of space, along which it is constant.
    """
    return View(
        file=str(path.absolute()),
        arrays=tuple(ViewedArray(name, axes) for name, axes in arrays),
        spatial_axes=spatial_axes,
        trajectories=trajectories,
        frames=frames,
        grid=grid,
    )


def read_views(views: Sequence[View], rows: slice, frames: slice) -> Array:
    """Return a part of the trajectories of several views, (N, T, C, *space)."""
    files = OpenFiles()
    with Reading():
        parts = [
            view.read(files, slice(first, last), frames)
            for view, first, last in overlapping(views, rows)
        ]
        files.close()
    return np.concatenate(parts) if len(parts) > 1 else parts[0]


def _read_kept(read: Read, kept: Sequence[int], rows: slice, frames: slice) -> Array:
    """Return a part of the trajectories that were kept."""
    parts = [read(part, frames) for part in _consecutive(kept[rows])]
    return np.concatenate(parts) if len(parts) > 1 else parts[0]


def _consecutive(rows: Sequence[int]) -> list[slice]:
    """Return ascending numbers as slices of consecutive ones."""
    slices: list[slice] = []
    for row in rows:
        if slices and slices[-1].stop == row:
            slices[-1] = slice(slices[-1].start, row + 1)
        else:
            slices.append(slice(row, row + 1))
    return slices


def overlapping(views: Sequence[View], rows: slice) -> list[tuple[View, int, int]]:
    """Return the views that hold some of the rows, and which of their own rows these are."""
    found, before = [], 0
    for view in views:
        first = max(rows.start - before, 0)
        last = min(rows.stop - before, view.trajectories)
        if first < last:
            found.append((view, first, last))
        before += view.trajectories
    return found


def frame_interval(times: Array, frames: int, path: Path) -> float:
    """Return the time between frames, from the times of all frames of a file.

    Raises:
        DataError: there are not as many times as frames, fewer than two, or they are not evenly
            spaced.
    """
    times = np.asarray(times, dtype=np.float64).ravel()
    if len(times) != frames or frames < 2:
        raise DataError(f"{path} has {len(times)} times for {frames} frames; needed: 2 or more")
    interval = float((times[-1] - times[0]) / (frames - 1))
    if not (interval > 0 and np.allclose(np.diff(times), interval, rtol=1e-2)):
        raise DataError(f"the frames of {path} are not evenly spaced in time")
    return rounded(interval)  # float32 files hold 0.05 as 0.0500000007


def cell_extent(centres: Array) -> float:
    """Return the length of an axis from the centres of its equal cells."""
    return rounded(float(centres[-1] - centres[0]) * len(centres) / (len(centres) - 1))


def unusable(place: Path | str, error: Exception, damage: str = "is damaged") -> DataError:
    """Return the error for a file that could not be read.

    Another download helps where its content is damaged or a part of it is missing, and not where
    the system refused to read.

    Raises:
        MachineError: the machine could not, or its storage: the file may be intact.
    """
    require_machine(place, error)
    if isinstance(error, NotAFileError):
        return DataError(f"cannot read {place}: {error.strerror}")
    if isinstance(error, OSError) and error.errno not in (None, errno.ENOENT):
        return DataError(f"cannot read {place}: {os.strerror(error.errno)}")
    return DataError(f"{place} {damage} ({error}); download it again")


def rounded(value: float) -> float:
    """Return the short decimal number that a number in single precision stands for."""
    return float(f"{value:.6g}")
