"""The store: one folder per dataset, sharded HDF5 files and an index that commits them.

`<root>/<name>/{train,test}/shard-00000.h5` holds `fields` (N, T, C, *space) in float32, contiguous
in time and uncompressed, so a window is one contiguous read (DATA section D). `index.json` is
written last: a folder without it holds no dataset. Shards are written under a temporary name,
flushed to disk and renamed.
"""

import hashlib
import json
import os
import shutil
from bisect import bisect_right
from collections.abc import Mapping, Sequence
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
        shard_trajectories: Trajectories per file.

    Raises:
        DataError: the dataset exists already.
    """

    def __init__(self, root: Path, info: DatasetInfo, *, shard_trajectories: int = 64) -> None:
        self.folder = root / info.name
        if (self.folder / INDEX).exists():
            raise DataError(f"{self.folder} holds a dataset already; remove it or choose a name")
        self.info = info
        self.shard_trajectories = shard_trajectories
        self._shards: dict[Split, list[Shard]] = {split: [] for split in SPLITS}
        self._pending: dict[Split, list[Array]] = {split: [] for split in SPLITS}
        self._parameters: dict[Split, list[Mapping[str, Array]]] = {split: [] for split in SPLITS}

    def __enter__(self) -> Self:
        # What an interrupted writer left behind has no index: it is not data.
        for split in SPLITS:
            shutil.rmtree(self.folder / split, ignore_errors=True)
            (self.folder / split).mkdir(parents=True)
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
        if not np.isfinite(fields).all():
            raise DataError(f"dataset {self.info.name}: a trajectory holds NaN or infinite values")
        for i, trajectory in enumerate(fields):
            self._pending[split].append(np.asarray(trajectory, dtype=np.float32))
            self._parameters[split].append({k: v[i] for k, v in (parameters or {}).items()})
            if len(self._pending[split]) == self.shard_trajectories:
                self._flush(split)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            for split in SPLITS:
                self._flush(split)
            self._commit()
        elif self.folder.exists():
            shutil.rmtree(self.folder)

    def _flush(self, split: Split) -> None:
        """Write the pending trajectories of a split as one shard."""
        if not self._pending[split]:
            return
        fields = np.stack(self._pending[split])
        file = f"{split}/shard-{len(self._shards[split]):05d}.h5"
        partial = self.folder / f"{file}.partial"
        with h5py.File(partial, "w") as shard:
            shard.create_dataset(FIELDS, data=fields)
            shard.attrs.update(_attributes(self.info))
            for name in self._parameters[split][0]:
                values = [parameters[name] for parameters in self._parameters[split]]
                shard.create_dataset(f"parameters/{name}", data=np.asarray(values))
        digest = _flushed_sha256(partial)
        partial.rename(self.folder / file)
        self._shards[split].append(
            Shard(file=file, trajectories=len(fields), frames=fields.shape[1], sha256=digest)
        )
        self._pending[split].clear()
        self._parameters[split].clear()

    def _commit(self) -> None:
        for split, shards in self._shards.items():
            if len({shard.frames for shard in shards}) > 1:
                raise DataError(
                    f"dataset {self.info.name}: the {split} trajectories differ in length"
                )
        index = {
            "info": asdict(self.info),
            "splits": {
                split: [asdict(shard) for shard in shards] for split, shards in self._shards.items()
            },
        }
        partial = self.folder / f"{INDEX}.partial"
        with partial.open("w", encoding="utf-8") as file:
            json.dump(index, file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(self.folder / INDEX)


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
        """Return (frames, C, *space), reading these frames and no others."""
        ends = list(accumulate(shard.trajectories for shard in self.shards[split]))
        number = bisect_right(ends, trajectory)
        shard = self.shards[split][number]
        row = trajectory - (ends[number] - shard.trajectories)
        assert start + frames <= shard.frames
        window: NDArray[np.float32] = self._open(shard)[FIELDS][row, start : start + frames]
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
            try:
                self._files[key] = h5py.File(self.folder / shard.file, "r")
            except OSError as error:
                raise DataError(
                    f"cannot read {self.folder / shard.file} ({error}); "
                    f"run `python -m dpot_scale.prepare verify {self.folder}`"
                ) from error
        return self._files[key]


def open_store(root: Path, name: str) -> DatasetStore:
    """Return the dataset `name` under `root`.

    Raises:
        DataError: there is none, or its index cannot be read.
    """
    path = root / name / INDEX
    if not path.is_file():
        there = ", ".join(stored_names(root)) or "nothing"
        state = "was left unfinished" if (root / name).exists() else "is missing"
        raise DataError(
            f"dataset {name!r} {state} under {root} (there is: {there}); make it with "
            "`python -m dpot_scale.prepare import` or `generate`"
        )
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        info = DatasetInfo.from_json(index["info"])
        shards = {
            split: tuple(Shard(**shard) for shard in index["splits"][split]) for split in SPLITS
        }
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not a dataset index ({error}); make the dataset anew") from None
    return DatasetStore(path.parent, info, shards)


def stored_names(root: Path) -> list[str]:
    """Return the names of the datasets that lie under `root`."""
    return sorted(path.parent.name for path in root.glob(f"*/{INDEX}"))


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
