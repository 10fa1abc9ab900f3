"""The store: one folder per dataset, sharded HDF5 files and an index that commits them.

`<root>/<name>/{train,test}/shard-00000.h5` holds `fields` (N, T, C, *space) in float32, contiguous
in time and uncompressed, so a window is one contiguous read. A dataset is written to a hidden
folder beside its place, flushed to disk, given its `index.json` and renamed: what has no index, or
a hidden name, holds no dataset.

A linked dataset has no shards of its own: its index names parts of published files, which are read
as they lie. `linked.h5` holds what those files do not, masks and parameters.
"""

import json
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from dpot_scale.data.catalog import DatasetInfo
from dpot_scale.data.shards import CONSTANTS, FIELDS, PARAMETERS, OpenFiles, Shard
from dpot_scale.data.statistics import Statistics
from dpot_scale.errors import DataError
from dpot_scale.files import held

INDEX = "index.json"
LINKED = "linked.h5"
SPLITS: tuple["Split", ...] = ("train", "test")

Split = Literal["train", "test"]
Array = NDArray[Any]


@dataclass
class DatasetStore:
    """A committed dataset, read window by window.

    Files open on first use and stay open; a forked process opens its own, because HDF5 handles do
    not survive a fork.
    """

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

    def num_trajectories(self, split: Split) -> int:
        """Return how many trajectories a split holds."""
        return sum(shard.trajectories for shard in self.shards[split])

    def num_frames(self, split: Split) -> int:
        """Return how many frames each trajectory of a split has; 0 for an empty split."""
        return self.shards[split][0].frames if self.shards[split] else 0

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
            split: Which one.
            trajectory: Its number in the split.
            start: First frame.
            frames: How many.
            out: Where to put them; C-contiguous. None: a new array.

        Raises:
            DataError: the shard is missing or damaged.
        """
        ends = self._ends[split]
        number = bisect_right(ends, trajectory)
        shard = self.shards[split][number]
        row = trajectory - (ends[number] - shard.trajectories)
        assert start + frames <= shard.frames
        part = slice(start, start + frames)
        shape = (frames, len(self.info.channels), *self.info.grid)
        frames_TCxy = np.empty(shape, np.float32) if out is None else out
        try:
            if all(self.info.scored):
                self._read_fields(shard, row, part, frames_TCxy)
            else:
                place = (shard, row) if shard.view is None else (split, trajectory)
                self._read_with_constants(shard, row, part, place, frames_TCxy)
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise DataError(
                f"cannot read {self.folder / shard.file} ({error}); "
                f"run `python -m dpot_scale.prepare verify {self.folder}`"
            ) from error
        return frames_TCxy

    def parameters(self, split: Split) -> dict[str, Array]:
        """Return the parameters of the trajectories of a split, N values of each.

        Raises:
            OSError: a file is missing or damaged.
        """
        groups = [self._open(shard.file) for shard in self.shards[split] if shard.view is None] or [
            self._open(LINKED)[split]
        ]
        names = groups[0].get(PARAMETERS, ())
        return {
            name: np.concatenate([group[PARAMETERS][name][()] for group in groups])
            for name in names
        }

    def close(self) -> None:
        """Close the files of this process."""
        self._files.close()

    def _read_fields(self, shard: Shard, row: int, frames: slice, out: Array) -> None:
        """Read the fields (T, C, *space) of a row of a shard, without constant channels."""
        if shard.view is None:
            self._open(shard.file)[FIELDS].read_direct(out, np.s_[row, frames])
        else:
            out[...] = shard.view.read(self._files, slice(row, row + 1), frames)[0]

    def _read_with_constants(
        self, shard: Shard, row: int, frames: slice, place: tuple[Shard | Split, int], out: Array
    ) -> None:
        """Read all channels (T, C, *space) of a row of a shard."""
        scored = np.array(self.info.scored)
        fields_TCxy = np.empty((len(out), int(scored.sum()), *self.info.grid), np.float32)
        self._read_fields(shard, row, frames, fields_TCxy)
        out[:, scored] = fields_TCxy
        out[:, ~scored] = self._constants(*place)

    def _constants(self, place: Shard | Split, row: int) -> Array:
        """Return the constant channels (C, *space) of a row of a shard, or of a linked split."""
        group = self._open(place.file) if isinstance(place, Shard) else self._open(LINKED)[place]
        constants: Array = group[CONSTANTS][row]
        return constants

    def _open(self, file: str) -> h5py.Group:
        return self._files.file(str(self.folder / file))


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
    path = folder / INDEX
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        info = DatasetInfo.from_json(index["info"])
        shards = {
            split: tuple(Shard.from_json(shard) for shard in index["splits"][split])
            for split in SPLITS
        }
        statistics = Statistics.from_json(index["statistics"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not a dataset index ({error}); make the dataset anew") from None
    return DatasetStore(folder, info, shards, statistics)


def stored_names(root: Path) -> list[str]:
    """Return the names of the datasets that lie under `root`."""
    return sorted(path.parent.name for path in root.glob(f"[!.]*/{INDEX}"))


def dataset_folders(folder: Path) -> list[Path]:
    """Return the folder itself if it is a dataset, and all datasets below it, sorted."""
    indices = [path.relative_to(folder) for path in folder.rglob(INDEX)]
    return sorted(folder / index.parent for index in indices if not _is_hidden(index))


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Hold the lock of a folder of datasets: one process writes, the others wait.

    The system releases it even if this process is killed.

    Raises:
        DataError: the folder cannot be made or written to.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(held(root / ".lock", wait=True))
        except OSError as error:
            raise DataError(f"cannot write to {root}: {error.strerror}") from error
        yield


def partial_folder(root: Path, name: str) -> Path:
    """Return where a dataset lies until it is complete."""
    return root / f".{name}.partial"
