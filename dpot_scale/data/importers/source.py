"""What a published file holds, and which dataset it is of.

A format module looks at the content of a file and describes it as one or more `Source`s. What
comes after that is the same for all formats: names, splits, checks and writing.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpot_scale.data.catalog import CATALOG
from dpot_scale.data.shards import OpenFiles, View, ViewedArray
from dpot_scale.data.store import Split
from dpot_scale.errors import DataError

OWN_TEST_SHARE = 0.1  # of a dataset with a name that the catalogue does not have
SPLIT_WORDS: dict[str, Split] = {"test": "test", "train": "train", "valid": "train"}

Array = NDArray[Any]
Read = Callable[[slice, slice], Array]


@dataclass(frozen=True, kw_only=True)
class Source:
    """Trajectories of a published file, understood but not yet read."""

    path: Path
    format: str  # for people
    member: str = ""  # of a container with several
    candidates: tuple[str, ...]  # names that the content allows
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
    views: tuple[View, ...] = ()  # where the file can be sliced as it lies
    split: Split | None = None  # where the publisher says it
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
        """Return where it is, for messages."""
        return self.path / self.member

    @property
    def frame_bytes(self) -> int:
        """Return the size of a frame in the file."""
        return len(self.channels) * math.prod(self.grid) * self.value_bytes

    @property
    def scored(self) -> tuple[bool, ...]:
        """Return, per channel, whether it is a field and not a geometry mask."""
        return tuple(channel not in self.constant for channel in self.channels)


@dataclass(frozen=True)
class Part:
    """Consecutive trajectories of a source that go to one split."""

    source: Source
    split: Split
    first: int
    trajectories: int


def sliced_in_place(views: Sequence[View]) -> dict[str, Any]:
    """Return those fields of a `Source` that follow from views of all its trajectories."""
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
) -> View:
    """Return the view of an HDF5 file, from the names and axes of its arrays."""
    return View(
        file=str(path.absolute()),
        arrays=tuple(ViewedArray(name, axes) for name, axes in arrays),
        spatial_axes=spatial_axes,
        trajectories=trajectories,
        frames=frames,
    )


def read_views(views: Sequence[View], rows: slice, frames: slice) -> Array:
    """Return a part of the trajectories of several views, (N, T, C, *space)."""
    files = OpenFiles()
    try:
        parts = [
            view.read(files, slice(first, last), frames)
            for view, first, last in overlapping(views, rows)
        ]
    finally:
        files.close()
    return np.concatenate(parts) if len(parts) > 1 else parts[0]


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


def parts_of(sources: Sequence[Source], name: str) -> list[Part]:
    """Return the trajectories of a dataset's sources, train split first.

    A source without a split of its own gives its last trajectories to the test.

    Raises:
        DataError: nothing is left for one of the splits.
    """
    parts: list[Part] = []
    for source in sources:
        if source.split is not None:
            parts.append(Part(source, source.split, 0, source.trajectories))
            continue
        test = _test_trajectories(source, name)
        train = source.trajectories - test
        parts += [Part(source, "train", 0, train), Part(source, "test", train, test)]
    missing = {"train", "test"} - {part.split for part in parts}
    if missing:
        raise DataError(
            f"{_folder(sources)} holds no {' and no '.join(sorted(missing))} files of dataset "
            f"{name}; import its train and test files together"
        )
    return sorted(parts, key=lambda part: part.split == "test")


def _folder(sources: Sequence[Source]) -> Path:
    return sources[0].path if len(sources) == 1 else sources[0].path.parent


def _test_trajectories(source: Source, name: str) -> int:
    entry = CATALOG.get(name)
    share = entry.test_share if entry else OWN_TEST_SHARE
    test = max(1, round(share * source.trajectories))
    if test >= source.trajectories:
        raise DataError(
            f"{source.path} holds {source.trajectories} trajectory; a training and a test split "
            "need at least 2"
        )
    return test


def datasets_of(sources: Sequence[Source]) -> tuple[list[list[Source]], list[DataError]]:
    """Return the sources of each dataset, in order and with their splits; and those left out.

    Files that are of one dataset must agree in everything but their number of trajectories; those
    that differ from most are left out.
    """
    groups: dict[str, list[Source]] = {}
    for source in sources:
        key = source.collection or f"{source.path} {source.candidates}"
        groups.setdefault(key, []).append(source)
    datasets, problems = [], []
    for group in groups.values():
        first = group[0]
        arranged = first.arrange(group) if first.arrange else group
        usual = Counter(map(_shape, arranged)).most_common(1)[0][0]
        problems += [_misfit(source, usual) for source in arranged if _shape(source) != usual]
        datasets.append([source for source in arranged if _shape(source) == usual])
    return datasets, problems


def _shape(source: Source) -> tuple[int, tuple[int, ...], float]:
    return source.frames, source.grid, source.frame_interval


def _misfit(source: Source, usual: tuple[int, tuple[int, ...], float]) -> DataError:
    frames, grid, interval = usual
    return DataError(
        f"{source.path} is left out of dataset {source.collection}: {source.describe()} every "
        f"{source.frame_interval:g}, where most files have {frames} frames at "
        f"{' x '.join(map(str, grid))} every {interval:g}"
    )


def by_folder_or_name(path: Path) -> Split | None:
    """Return the split that a path names: test files are for the test, valid files for training.

    The reference trains on the validation files too.
    """
    for part in reversed(path.parts[-4:]):
        for word, split in SPLIT_WORDS.items():
            if word in part.lower():
                return split
    return None


def train_before_valid(sources: Sequence[Source]) -> list[Source]:
    """Return published files in an order that does not depend on the file system."""
    return sorted(sources, key=lambda source: ("valid" in str(source.path), _natural(source.path)))


def _natural(path: Path) -> list[tuple[int, str]]:
    """Return a key by which data_9 comes before data_10."""
    words = re.split(r"(\d+)", str(path))
    return [(int(word), "") if word.isdigit() else (-1, word) for word in words]


def with_split(source: Source) -> Source:
    """Return the source with the split that its path names.

    Raises:
        DataError: it names none.
    """
    split = by_folder_or_name(source.path)
    if split is None:
        raise DataError(
            f"{source.path} does not tell by its path whether it is for training or for the test; "
            "keep the published names, with train, valid or test in them"
        )
    return replace(source, split=split)


def frame_interval(times: Array, frames: int, path: Path) -> float:
    """Return the constant distance of the times of a file's frames.

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


def rounded(value: float) -> float:
    """Return a number that was stored in single precision as it was meant."""
    return float(f"{value:.6g}")
