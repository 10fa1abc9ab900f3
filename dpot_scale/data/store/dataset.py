"""The store: one folder per dataset, sharded HDF5 files and an index that commits them.

`<root>/<name>/{train,valid,test}/shard-00000.h5` holds `fields` (N, T, C, *space) in float32,
contiguous in time and uncompressed, so a window is one contiguous read. A dataset is written to a
hidden folder beside its place, flushed to disk, given its `index.json` and renamed: what has no
index, or a hidden name, holds no dataset.

A linked dataset has no shards of its own: its index names parts of published files, which are read
as they lie. `linked.h5` holds what lies beside their frames, such as parameters.
"""

import os
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from dpot_scale.data.info import DatasetInfo
from dpot_scale.data.store.beside import CONSTANTS, INTERVAL, PARAMETERS, SERIES, TIMES
from dpot_scale.data.store.faults import UNREADABLE, unreadable
from dpot_scale.data.store.folders import walk
from dpot_scale.data.store.index import read_index
from dpot_scale.data.store.numpy_files import NumpyFile
from dpot_scale.data.store.open_files import OpenFiles, Reading
from dpot_scale.data.store.shards import FIELDS, REAL, Shard
from dpot_scale.data.store.statistics import Statistics
from dpot_scale.errors import DataError
from dpot_scale.files import held, reason

INDEX = "index.json"
LINKED = "linked.h5"
# To learn from, to choose by, and to report: what was chosen by a split says nothing on it.
SPLITS: tuple["Split", ...] = ("train", "valid", "test")

Split = Literal["train", "valid", "test"]
Array = NDArray[Any]


@dataclass
class DatasetStore:
    """A committed dataset, read window by window from files that stay open between reads."""

    folder: Path
    info: DatasetInfo
    shards: Mapping[Split, Sequence[Shard]]
    statistics: Statistics
    _files: OpenFiles = field(default_factory=OpenFiles)

    def __post_init__(self) -> None:
        # A linked dataset has thousands of parts.
        self._ends = {
            split: list(accumulate(shard.trajectories for shard in shards))
            for split, shards in self.shards.items()
        }

    @property
    def is_for_evaluation(self) -> bool:
        """Return whether there is nothing to train on."""
        return not self.shards["train"]

    @property
    def described_split(self) -> Split:
        """Return the split that the statistics are of: the first one with trajectories."""
        return next((split for split in SPLITS if self.shards[split]), "train")

    def num_trajectories(self, split: Split) -> int:
        """Return how many trajectories a split holds."""
        return self._ends[split][-1] if self._ends[split] else 0

    def num_frames(self, split: Split, trajectory: int = 0) -> int:
        """Return how many frames a trajectory of a split has; 0 for an empty split.

        Mostly all have as many as the first one; `lengths` says whether they do.
        """
        return self._place(split, trajectory)[0].frames if self.shards[split] else 0

    def lengths(self, split: Split) -> list[tuple[int, int]]:
        """Return how many consecutive trajectories have how many frames, in order."""
        runs: list[tuple[int, int]] = []
        for shard in self.shards[split]:
            same = runs.pop()[0] if runs and runs[-1][1] == shard.frames else 0
            runs.append((same + shard.trajectories, shard.frames))
        return runs

    def read(
        self,
        split: Split,
        trajectory: int,
        start: int,
        frames: int,
        out: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """Return (frames, C, *space), reading these frames and no others.

        Args:
            split: The split that holds the trajectory.
            trajectory: The number of the trajectory in the split.
            start: The first frame to read.
            frames: The number of frames to read.
            out: A C-contiguous array to read into; None for a new one.

        Raises:
            DataError: the shard is missing or damaged.
        """
        shard, row = self._place(split, trajectory)
        assert start + frames <= shard.frames
        part = slice(start, start + frames)
        shape = (frames, len(self.info.channels), *self.info.grid)
        try:
            frames_TCxy = np.empty(shape, np.float32) if out is None else out
            if all(self.info.scored):
                self._read_fields(shard, row, part, frames_TCxy)
            else:
                scored = np.array(self.info.scored)
                fields_TCxy = np.empty((frames, int(scored.sum()), *self.info.grid), np.float32)
                self._read_fields(shard, row, part, fields_TCxy)
                frames_TCxy[:, scored] = fields_TCxy
                frames_TCxy[:, ~scored] = self._constants(split, trajectory)
        except UNREADABLE as error:
            what = f" for {split} trajectory {trajectory}, frames {start} to {part.stop - 1}"
            raise unreadable(self.folder / shard.file, error, what, self._advice) from error
        return frames_TCxy

    def check_finite(
        self, split: Split, trajectory: int, start: int, frames_TCxy: NDArray[np.float32]
    ) -> None:
        """Refuse frames of a trajectory, read from `start` on, that hold NaN or infinite values.

        Raises:
            DataError: they hold some.
        """
        finite = np.isfinite(frames_TCxy)
        if finite.all():
            return
        frame = start + int(finite.all(axis=tuple(range(1, finite.ndim))).argmin())
        self._files.close_all()  # the file may be mended by now
        shard, row = self._place(split, trajectory)
        row += shard.view.first_trajectory if shard.view is not None else 0
        raise DataError(
            f"{self.folder / shard.file} holds NaN or infinite values, in {split} trajectory "
            f"{trajectory} (row {row} of the file), first in frame {frame} (all counted from 0); "
            f"{self._advice}"
        )

    def file_of(self, split: Split, trajectory: int) -> Path:
        """Return the file, or folder, that holds a trajectory of a split."""
        return self.folder / self._place(split, trajectory)[0].file

    def beside(self, split: Split, trajectory: int) -> range:
        """Return the trajectories whose parameters lie in the same file as those of one."""
        shard, row = self._place(split, trajectory)
        own = range(trajectory - row, trajectory - row + shard.trajectories)
        return own if shard.view is None else range(self.num_trajectories(split))

    def parameters(self, split: Split, beside: int | None = None) -> dict[str, Array]:
        """Return the parameters of the trajectories of a split, N values of each.

        Args:
            split: The split.
            beside: Return those that lie in the same file as those of this one; None: all.

        Raises:
            DataError: a file is missing or damaged.
        """
        shards = self.shards[split] if beside is None else [self._place(split, beside)[0]]
        groups = [(self.folder / one.file, PARAMETERS) for one in shards if one.view is None]
        if len(groups) < len(shards):
            groups.append((self.folder / LINKED, f"{split}/{PARAMETERS}"))
        found: dict[str, list[Array]] = defaultdict(list)
        for path, group in groups:
            with self._reading(path):
                for name, values in self._files.file(str(path)).get(group, {}).items():
                    found[name].append(np.asarray(values))
        return {name: np.concatenate(parts) for name, parts in found.items()}

    def series(self, split: Split, trajectory: int) -> dict[str, Array]:
        """Return what a trajectory has one number of for each frame, (T,) of each name.

        Raises:
            DataError: a file is missing or damaged.
        """
        shard, row = self._place(split, trajectory)
        path, group, first = self.folder / shard.file, SERIES, row * shard.frames
        if shard.view is not None:  # for all trajectories of the split, one after the other
            path, group = self.folder / LINKED, f"{split}/{SERIES}"
            number = bisect_right(self._ends[split], trajectory)
            first += sum(s.trajectories * s.frames for s in self.shards[split][:number])
        with self._reading(path):
            found = self._files.file(str(path)).get(group, {})
            own = {
                name: np.asarray(values[first : first + shard.frames])
                for name, values in found.items()
            }
            for values in own.values():
                _check(values, (shard.frames,))
        return own

    def times(self, split: Split, trajectory: int) -> Array:
        """Return the time of each frame of a trajectory; evenly spaced frames begin at 0.

        Raises:
            DataError: a file is missing or damaged.
        """
        series = self.series(split, trajectory)
        if TIMES in series:
            return series[TIMES]
        intervals = self.parameters(split).get(INTERVAL)
        interval = self.info.frame_interval if intervals is None else intervals[trajectory]
        return np.arange(self.num_frames(split, trajectory)) * float(interval)

    def close(self) -> None:
        """Close the files, so that they are opened anew."""
        self._files.close()

    @property
    def _advice(self) -> str:
        return f"run `python -m dpot_scale.prepare verify {self.folder}`"

    @contextmanager
    def _reading(self, path: Path) -> Iterator[None]:
        """Say in a sentence what could not be read, after all files were closed."""
        try:
            with Reading():
                yield
        except UNREADABLE as error:
            raise unreadable(path, error, "", self._advice) from error

    def _place(self, split: Split, trajectory: int) -> tuple[Shard, int]:
        """Return the shard that holds a trajectory, and its row there."""
        number = bisect_right(self._ends[split], trajectory)
        shard = self.shards[split][number]
        return shard, trajectory - (self._ends[split][number] - shard.trajectories)

    def _read_fields(self, shard: Shard, row: int, frames: slice, out: Array) -> None:
        """Read the fields (T, C, *space) of a row of a shard, without constant channels."""
        with Reading():
            if shard.view is None:
                file = str(self.folder / shard.file)
                fields = self._files.array(file, FIELDS)
                assert isinstance(fields, h5py.Dataset)
                _check(fields, (shard.trajectories, shard.frames, *out.shape[1:]))
                fields.read_direct(out, np.s_[row, frames])
                self._files.check_uncut(file)
                return
            read = shard.view.read(self._files, slice(row, row + 1), frames)[0]
            _check(read, out.shape)
        with np.errstate(over="ignore"):  # too large for float32 counts as infinite
            out[...] = read

    def _constants(self, split: Split, trajectory: int) -> Array:
        """Return the channels (C, *space) of a trajectory that are the same in all its frames."""
        shard, row = self._place(split, trajectory)
        path, name, rows = self.folder / shard.file, CONSTANTS, shard.trajectories
        if shard.view is not None:  # one array for all files of the split
            path, name = self.folder / LINKED, f"{split}/{CONSTANTS}"
            row, rows = trajectory, self.num_trajectories(split)
        with self._reading(path):
            array = self._files.array(str(path), name)
            _check(array, (rows, sum(self.info.constant), *self.info.grid))
            constants = np.asarray(array[(row,)])
            self._files.check_uncut(str(path))
        return constants


def _check(array: h5py.Dataset | NumpyFile | Array, expected: tuple[int, ...]) -> None:
    """Refuse an array of another shape or type. HDF5 would broadcast another shape silently."""
    if array.shape != expected or array.dtype.kind not in REAL:
        raise ValueError(
            f"it holds {array.dtype} {array.shape} where {INDEX} says real numbers {expected}"
        )


def open_store(root: Path, name: str) -> DatasetStore:
    """Return the dataset `name` under `root`.

    Raises:
        DataError: there is none, or its index cannot be read.
    """
    if not (root / name / INDEX).is_file():
        there = ", ".join(stored_names(root)) or "nothing"
        state = "was left unfinished" if partial_folder(root, name).exists() else "is missing"
        raise DataError(
            f"dataset {name!r} {state} under {root} (there is: {there}); make it with "
            "`python -m dpot_scale.prepare import` or `generate`"
        )
    return read_store(root / name)


def read_store(folder: Path) -> DatasetStore:
    """Return the dataset that lies in a folder.

    Raises:
        DataError: its index cannot be read.
    """
    index = read_index(folder / INDEX)
    return DatasetStore(folder, index.info, index.splits.by_name(), index.statistics)


def stored_names(root: Path) -> list[str]:
    """Return the names of the datasets that lie under `root`."""
    return sorted(path.parent.name for path in root.glob(f"[!.]*/{INDEX}"))


def dataset_folders(folder: Path) -> list[Path]:
    """Return the folder itself if it is a dataset, and all datasets below it, sorted.

    A link to a dataset counts as one, beside the dataset that it leads to; and so does a folder
    whose index is no file, of which `read_store` says what it is.
    """
    found = [folder] if os.path.lexists(folder / INDEX) else []
    for here, subfolders, _ in walk(folder):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        found += [here / name for name in subfolders if os.path.lexists(here / name / INDEX)]
    return sorted(found)


def counted(trajectories: Mapping[Split, int]) -> str:
    """Return the number of trajectories of each split that has some: `3 train and 2 test`."""
    *most, last = [f"{number} {split}" for split, number in trajectories.items() if number]
    return f"{', '.join(most)} and {last}" if most else last


@contextmanager
def hold_folder(root: Path) -> Iterator[None]:
    """Hold the lock of a folder of datasets: one process writes, the others wait.

    The system releases it even if this process is killed.

    Raises:
        DataError: the folder cannot be made or written to.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(held(root / ".lock", wait=True))
        except OSError as error:
            raise DataError(f"cannot write to {root}: {reason(root / '.lock', error)}") from error
        yield


def partial_folder(root: Path, name: str) -> Path:
    """Return where a dataset lies until it is complete."""
    return root / f".{name}.partial"
