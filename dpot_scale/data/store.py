"""The store: one folder per dataset, sharded HDF5 files and an index that commits them.

`<root>/<name>/{train,test}/shard-00000.h5` holds `fields` (N, T, C, *space) in float32, contiguous
in time and uncompressed, so a window is one contiguous read. A dataset is written to a hidden
folder beside its place, flushed to disk, given its `index.json` and renamed: what has no index, or
a hidden name, holds no dataset.
"""

import fcntl
import hashlib
import json
import os
import shutil
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from dpot_scale.data.catalog import DatasetInfo
from dpot_scale.errors import DataError

INDEX = "index.json"
FIELDS = "fields"
SPLITS: tuple["Split", ...] = ("train", "test")
# Few enough files for a parallel file system, and little enough to hold in memory.
SHARD_BYTES = 256 * 2**20

Split = Literal["train", "test"]
Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """One file of a split."""

    file: str  # relative to the dataset's folder
    trajectories: int
    frames: int
    sha256: str


class StoreWriter:
    """Writes one dataset; leaving the context without an exception commits it.

    Args:
        root: The folder of all datasets.
        info: What is stored; `info.name` names the folder.
        shard_bytes: A shard is written when its trajectories reach this size.

    Raises:
        DataError: something of that name exists already.
    """

    def __init__(self, root: Path, info: DatasetInfo, *, shard_bytes: int = SHARD_BYTES) -> None:
        self.folder = root / info.name
        if (self.folder / INDEX).exists():
            raise DataError(f"{self.folder} holds a dataset already; remove it or choose a name")
        if self.folder.exists():
            raise DataError(
                f"{self.folder} exists and holds no dataset; remove it or choose a name"
            )
        self.info = info
        self.shard_bytes = shard_bytes
        self._partial = _partial_folder(root, info.name)
        self._shards: dict[Split, list[Shard]] = {split: [] for split in SPLITS}
        self._pending: dict[Split, list[Array]] = {split: [] for split in SPLITS}
        self._parameters: dict[Split, list[Mapping[str, Array]]] = {split: [] for split in SPLITS}

    def __enter__(self) -> Self:
        shutil.rmtree(self._partial, ignore_errors=True)  # what an interrupted writer left behind
        try:
            for split in SPLITS:
                (self._partial / split).mkdir(parents=True)
        except OSError as error:
            raise DataError(f"cannot write to {self._partial.parent}: {error.strerror}") from error
        return self

    def append(
        self, split: Split, fields: Array, parameters: Mapping[str, Array] | None = None
    ) -> None:
        """Add trajectories (N, T, C, *space), with N values of each parameter of theirs.

        Raises:
            DataError: the shape is not what the dataset's info says, or a value is not finite.
        """
        expected = (len(self.info.channels), *self.info.grid)
        if fields.shape[2:] != expected:
            raise DataError(
                f"dataset {self.info.name}: trajectories of shape (N, T, C, *space) = "
                f"{fields.shape} do not have C, *space = {expected}"
            )
        for i, trajectory in enumerate(fields):
            self._pending[split].append(self._checked(split, trajectory))
            self._parameters[split].append({k: v[i] for k, v in (parameters or {}).items()})
            if sum(pending.nbytes for pending in self._pending[split]) >= self.shard_bytes:
                self._flush(split)

    def _checked(self, split: Split, trajectory: Array) -> Array:
        """Return a trajectory (T, C, *space) in float32; too large for it counts as infinite."""
        with np.errstate(over="ignore"):
            stored = np.asarray(trajectory, dtype=np.float32)
        if not np.isfinite(stored).all():
            written = sum(shard.trajectories for shard in self._shards[split])
            number = written + len(self._pending[split])
            finite = np.isfinite(stored).all(axis=tuple(range(1, stored.ndim)))
            raise DataError(
                f"dataset {self.info.name}: {split} trajectory {number} holds NaN or infinite "
                f"values, first in frame {int(finite.argmin())} (both counted from 0)"
            )
        return stored

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                for split in SPLITS:
                    self._flush(split)
                self._commit()
        finally:
            shutil.rmtree(self._partial, ignore_errors=True)

    def _flush(self, split: Split) -> None:
        """Write the pending trajectories of a split as one shard."""
        if not self._pending[split]:
            return
        frames = {len(trajectory) for trajectory in self._pending[split]}
        frames |= {shard.frames for shard in self._shards[split]}
        if len(frames) > 1:
            raise DataError(
                f"dataset {self.info.name}: the {split} trajectories differ in length, "
                f"{min(frames)} to {max(frames)} frames"
            )
        file = f"{split}/shard-{len(self._shards[split]):05d}.h5"
        path = self._partial / file
        try:
            self._write(path, self._pending[split], self._parameters[split])
            digest = _flushed_sha256(path)
        except OSError as error:
            raise DataError(f"cannot write {path}: {error}; is the disk full?") from error
        self._shards[split].append(
            Shard(
                file=file,
                trajectories=len(self._pending[split]),
                frames=frames.pop(),
                sha256=digest,
            )
        )
        self._pending[split].clear()
        self._parameters[split].clear()

    def _write(
        self,
        path: Path,
        trajectories: Sequence[Array],
        parameters: Sequence[Mapping[str, Array]],
    ) -> None:
        with h5py.File(path, "w") as shard:
            shape = (len(trajectories), *trajectories[0].shape)
            fields = shard.create_dataset(FIELDS, shape, dtype=np.float32)
            for row, trajectory in enumerate(trajectories):
                fields[row] = trajectory
            shard.attrs.update(_attributes(self.info))
            for name in parameters[0]:
                values = np.asarray([of_trajectory[name] for of_trajectory in parameters])
                shard.create_dataset(f"parameters/{name}", data=values)

    def _commit(self) -> None:
        """Write the index and move the dataset to its place."""
        index = {
            "info": asdict(self.info),
            "splits": {
                split: [asdict(shard) for shard in shards] for split, shards in self._shards.items()
            },
        }
        with (self._partial / INDEX).open("w", encoding="utf-8") as file:
            json.dump(index, file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        self._partial.rename(self.folder)


@dataclass
class DatasetStore:
    """A committed dataset, read window by window.

    Files open on first use and stay open; a forked process opens its own, because HDF5 handles do
    not survive a fork.
    """

    folder: Path
    info: DatasetInfo
    shards: Mapping[Split, Sequence[Shard]]
    _files: dict[tuple[int, str], h5py.File] = field(default_factory=dict)

    def num_trajectories(self, split: Split) -> int:
        """Return how many trajectories a split holds."""
        return sum(shard.trajectories for shard in self.shards[split])

    def num_frames(self, split: Split) -> int:
        """Return how many frames each trajectory of a split has; 0 for an empty split."""
        return self.shards[split][0].frames if self.shards[split] else 0

    def read(self, split: Split, trajectory: int, start: int, frames: int) -> NDArray[np.float32]:
        """Return (frames, C, *space), reading these frames and no others.

        Raises:
            DataError: the shard is missing or damaged.
        """
        ends = list(accumulate(shard.trajectories for shard in self.shards[split]))
        number = bisect_right(ends, trajectory)
        shard = self.shards[split][number]
        row = trajectory - (ends[number] - shard.trajectories)
        assert start + frames <= shard.frames
        try:
            window: NDArray[np.float32] = self._open(shard)[FIELDS][row, start : start + frames]
        except (OSError, KeyError) as error:
            raise DataError(
                f"cannot read {self.folder / shard.file} ({error}); "
                f"run `python -m dpot_scale.prepare verify {self.folder}`"
            ) from error
        return window

    def close(self) -> None:
        """Close the files of this process."""
        for (process, _), file in self._files.items():
            if process == os.getpid():
                file.close()
        self._files.clear()

    def _open(self, shard: Shard) -> h5py.File:
        key = (os.getpid(), shard.file)
        if key not in self._files:
            self._files[key] = h5py.File(self.folder / shard.file, "r")
        return self._files[key]


def open_store(root: Path, name: str) -> DatasetStore:
    """Return the dataset `name` under `root`.

    Raises:
        DataError: there is none, or its index cannot be read.
    """
    if not (root / name / INDEX).is_file():
        there = ", ".join(stored_names(root)) or "nothing"
        state = "was left unfinished" if _partial_folder(root, name).exists() else "is missing"
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
            split: tuple(Shard(**shard) for shard in index["splits"][split]) for split in SPLITS
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not a dataset index ({error}); make the dataset anew") from None
    return DatasetStore(folder, info, shards)


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
    try:
        root.mkdir(parents=True, exist_ok=True)
        file = (root / ".lock").open("w")
    except OSError as error:
        raise DataError(f"cannot write to {root}: {error.strerror}") from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _partial_folder(root: Path, name: str) -> Path:
    """Return where a dataset lies until it is complete."""
    return root / f".{name}.partial"


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flushed_sha256(path: Path) -> str:
    """Put a file on the disk for good and return its SHA-256."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return sha256(path)


def _attributes(info: DatasetInfo) -> dict[str, Any]:
    """Return what makes a shard readable without its index."""
    return {
        "name": info.name,
        "channels": list(info.channels),
        "spatial_axes": list(info.spatial_axes),
        "spacing": [
            length / points for length, points in zip(info.domain_length, info.grid, strict=True)
        ],
        "frame_interval": info.frame_interval,
        "boundary": info.boundary,
    }
