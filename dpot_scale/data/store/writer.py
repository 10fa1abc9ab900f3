"""Writes a dataset shard by shard, checks it on the way, and commits it as a whole."""

import json
import math
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dpot_scale.data.info import DatasetInfo
from dpot_scale.data.store.beside import Beside
from dpot_scale.data.store.dataset import INDEX, LINKED, SPLITS, Split, partial_folder
from dpot_scale.data.store.faults import cannot_store, require_room
from dpot_scale.data.store.index import validate_info
from dpot_scale.data.store.open_files import open_hdf5
from dpot_scale.data.store.shards import Shard, View, write_shard
from dpot_scale.data.store.suspect import TrajectoryCheck
from dpot_scale.data.store.written import PROGRESS, Written, read_progress
from dpot_scale.errors import DataError, MachineError
from dpot_scale.files import flush_to_disk, reason, sha256, write_whole

# Few enough files for a parallel file system, and little enough to hold in memory.
SHARD_BYTES = 256 * 2**20
# HDF5's own structures in a shard, and what lies beside the fields.
BESIDE_BYTES = 64 * 2**10

Array = NDArray[Any]


@dataclass
class _Pending:
    """Trajectories of a split that are not in a shard yet; they are equally long."""

    fields: list[Array] = field(default_factory=list)  # (T, C, *space); none of a linked dataset
    beside: Beside = field(default_factory=Beside)

    @property
    def nbytes(self) -> int:
        return sum(fields.nbytes for fields in self.fields)


class StoreWriter:
    """Writes one dataset: the training split, then the valid split if there is one, then the test.

    Use it as a context manager: leaving it without an exception commits the dataset.

    Args:
        root: The folder of all datasets.
        info: The description of the dataset; `info.name` names its folder.
        shard_bytes: A shard is written when its trajectories reach this size.
        resume: Keep the shards that an interrupted writer of the same dataset left behind;
            `written` then says how many trajectories there are already.

    Raises:
        DataError: a dataset of that name exists already, or the description contradicts itself.
    """

    def __init__(
        self,
        root: Path,
        info: DatasetInfo,
        *,
        shard_bytes: int = SHARD_BYTES,
        resume: bool = False,
    ) -> None:
        info = validate_info(info)
        self.folder = root / info.name
        if (self.folder / INDEX).exists():
            raise DataError(f"{self.folder} holds a dataset already; remove it or choose a name")
        if self.folder.exists():
            raise DataError(
                f"{self.folder} exists and holds no dataset; remove it or choose a name"
            )
        self.info = info
        self.shard_bytes = shard_bytes
        self._resume = resume
        self._constant = np.array(info.constant)
        self._partial = partial_folder(root, info.name)
        self._written = Written(info)
        self.suspect: list[str] = []  # what no solver computes, once all is written
        self._checked = "", TrajectoryCheck((), ())
        self._pending = {split: _Pending() for split in SPLITS}
        self._split: Split = "train"  # the newest one; none before it gets more

    def __enter__(self) -> Self:
        left = read_progress(self._partial, self.info) if self._resume else None
        if left is None:
            shutil.rmtree(self._partial, ignore_errors=True)  # of an interrupted writer
        else:
            self._written = left
        try:
            self._partial.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            root = self._partial.parent
            raise DataError(f"cannot write to {root}: {reason(self._partial, error)}") from error
        return self

    def written(self, split: Split) -> int:
        """Return how many trajectories of a split are safe on disk."""
        return self._written.trajectories(split)

    def append(
        self,
        split: Split,
        fields: Array,
        parameters: Mapping[str, Array] | None = None,
        series: Mapping[str, Array] | None = None,
    ) -> None:
        """Add trajectories (N, T, C, *space). Those of another call may be longer or shorter.

        Args:
            split: The split that they belong to.
            fields: The trajectories.
            parameters: N values of each name.
            series: (N, T) values of each name, one for each frame.

        Raises:
            DataError: the shape does not fit the description, a value is not finite, a constant
                channel changes in time, or later splits were begun.
        """
        self._begin(split)
        for i, trajectory in enumerate(fields):
            stored = self._check(split, 0, trajectory)
            if self._pending[split].fields and len(self._pending[split].fields[0]) != len(stored):
                self._flush(split)
            pending = self._pending[split]
            pending.beside.constants.append(self._constants(split, stored))
            pending.fields.append(self._varying(stored))
            pending.beside.add(i, parameters, series)
            if pending.nbytes >= self.shard_bytes:
                self._flush(split)

    def append_long(
        self,
        split: Split,
        pieces: Iterable[Array],
        frames: int,
        parameters: Mapping[str, Array] | None = None,
        series: Mapping[str, Array] | None = None,
    ) -> None:
        """Add one trajectory that is too large to hold, in pieces (T, C, *space), as one shard.

        Raises:
            DataError: as `append` does.
        """
        self._begin(split)
        self._flush(split)
        self._pending[split].beside.add(0, parameters, series)
        shape = (1, frames, int((~self._constant).sum()), *self.info.grid)
        self._write(split, shape, self._check_pieces(split, pieces))

    def link(
        self,
        split: Split,
        view: View,
        digest: str,
        blocks: Iterable[tuple[int, Array]],
        parameters: Mapping[str, Array],
        series: Mapping[str, Array] | None = None,
    ) -> None:
        """Add the trajectories of a view, whose file has the SHA-256 `digest`, without a copy.

        Args:
            split: The split that they belong to.
            view: The trajectories in their file.
            digest: SHA-256 of the file, or of what a folder holds.
            blocks: All its frames for once, to look at: pairs of a first frame, 0 where a
                trajectory begins, and frames (T, C, *space) of one trajectory.
            parameters: N values of each name, as `append` takes them.
            series: (N, T) values of each name, as `append` takes them.
        """
        self._begin(split)
        beside = self._pending[split].beside
        for number in range(view.trajectories):
            beside.add(number, parameters, series)
        for first, frames in blocks:
            stored = self._check(split, first, frames)
            if first == 0:
                beside.constants.append(self._constants(split, stored))
        self._written.shards[split].append(
            Shard(
                file=view.file,
                trajectories=view.trajectories,
                frames=view.frames,
                sha256=digest,
                view=view,
            )
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self._give_up(error)
            return
        try:
            for split in SPLITS:
                self._flush(split)
            self._end_check()
            self._commit()
        except Exception as failure:
            self._give_up(failure)
            raise

    def _give_up(self, error: BaseException) -> None:
        """Remove what is written, unless the next writer may go on with it."""
        may_go_on = isinstance(error, MachineError) or not isinstance(error, Exception)
        if not (self._resume and may_go_on):
            shutil.rmtree(self._partial, ignore_errors=True)

    def _begin(self, split: Split) -> None:
        """Go on to a split, so that the moments have seen just what is safe on disk."""
        if SPLITS.index(split) < SPLITS.index(self._split):
            raise DataError(
                f"dataset {self.info.name}: {split} trajectories are written before those of the "
                f"{self._split} split"
            )
        if split != self._split:
            self._flush(self._split)
            self._split = split

    def _check(self, split: Split, first: int, frames: Array) -> Array:
        """Return frames (T, C, *space) in float32; values too large for it count as infinite."""
        expected = (len(self.info.channels), *self.info.grid)
        if frames.shape[1:] != expected:
            raise DataError(
                f"dataset {self.info.name}: trajectories of shape (T, C, *space) = "
                f"{frames.shape} do not have C, *space = {expected}"
            )
        with np.errstate(over="ignore"):
            stored = np.asarray(frames, dtype=np.float32)
        if not np.isfinite(stored).all():
            finite = np.isfinite(stored).all(axis=tuple(range(1, stored.ndim)))
            raise DataError(
                f"dataset {self.info.name}: {self._place(split)} holds NaN or infinite values, "
                f"first in frame {first + int(finite.argmin())} (both counted from 0)"
            )
        self._look_at(split, first, stored)
        if not any(self.written(earlier) for earlier in SPLITS[: SPLITS.index(split)]):
            self._written.moments.add(stored)
        return stored

    def _look_at(self, split: Split, first: int, frames: Array) -> None:
        """Look for what no solver computes in published data; those of a solver have none."""
        if self.info.origin == "imported":
            if first == 0:
                self._end_check()
                check = TrajectoryCheck(self.info.channels, self.info.scored)
                self._checked = self._place(split), check
            self._checked[1].add(frames)

    def _end_check(self) -> None:
        place, check = self._checked
        self.suspect += [f"{place} {sentence}" for sentence in check.sentences()]

    def _place(self, split: Split) -> str:
        pending = self._pending[split]  # of a linked split with what lies beside all of it
        number = max(self.written(split) + len(pending.fields), len(pending.beside.constants))
        return f"{split} trajectory {number}"

    def _varying(self, frames: Array) -> Array:
        """Return the channels that a shard holds frame by frame."""
        return frames[:, ~self._constant] if self._constant.any() else frames

    def _constants(self, split: Split, frames: Array) -> Array:
        """Return the channels (C, *space) that are the same in all frames."""
        constants = frames[:, self._constant]
        if not (constants == constants[:1]).all():
            raise DataError(
                f"dataset {self.info.name}: {self._place(split)} has a constant channel that "
                "changes in time"
            )
        return np.asarray(constants[0])

    def _check_pieces(
        self, split: Split, pieces: Iterable[Array]
    ) -> Iterator[tuple[int, int, Array]]:
        first = 0
        for piece in pieces:
            stored = self._check(split, first, piece)
            if first == 0:
                self._pending[split].beside.constants.append(self._constants(split, stored))
            yield 0, first, self._varying(stored)
            first += len(piece)

    def _flush(self, split: Split) -> None:
        """Write the pending trajectories of a split as one shard."""
        fields = self._pending[split].fields
        if not fields:
            return
        pieces = ((row, 0, trajectory) for row, trajectory in enumerate(fields))
        self._write(split, (len(fields), *fields[0].shape), pieces)

    def _write(
        self, split: Split, shape: tuple[int, ...], pieces: Iterable[tuple[int, int, Array]]
    ) -> None:
        file = f"{split}/shard-{len(self._written.shards[split]):05d}.h5"
        path = self._partial / file
        needed = 4 * math.prod(shape) + BESIDE_BYTES
        try:
            path.parent.mkdir(exist_ok=True)
            require_room(path.parent, needed)
            write_shard(path, self.info, shape, pieces, self._pending[split].beside)
            flush_to_disk(path)
            self._written.shards[split].append(
                Shard(file=file, trajectories=shape[0], frames=shape[1], sha256=sha256(path))
            )
            self._pending[split] = _Pending()
            if self._resume:
                self._written.save(self._partial)
        except (OSError, RuntimeError) as error:
            raise cannot_store(self.folder, error, needed) from error

    def _commit(self) -> None:
        """Write the index and move the dataset to its place."""
        try:
            self._write_linked()
            write_whole(self._partial / INDEX, json.dumps(self._written.index(), indent=2))
            (self._partial / PROGRESS).unlink(missing_ok=True)
            self._partial.rename(self.folder)
        except (OSError, RuntimeError) as error:
            raise cannot_store(self.folder, error) from error

    def _write_linked(self) -> None:
        """Write what lies beside linked trajectories, for all of a split together."""
        if not any(shard.view for shards in self._written.shards.values() for shard in shards):
            return
        with open_hdf5(self._partial / LINKED, "w") as file:
            for split, pending in self._pending.items():
                if pending.beside.parameters:
                    pending.beside.write(file.create_group(split), self.info)
        flush_to_disk(self._partial / LINKED)
