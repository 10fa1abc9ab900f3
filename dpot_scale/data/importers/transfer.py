"""Passes a source to the writer block by block, so that large files need little memory."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from dpot_scale.data.importers.source import DAMAGE, Array, Source, overlapping, unusable
from dpot_scale.data.importers.splits import Part
from dpot_scale.data.store.shards import REAL
from dpot_scale.data.store.writer import StoreWriter
from dpot_scale.errors import DataError

BLOCK_BYTES = 64 * 2**20  # read at once
LARGEST_BLOCK_BYTES = 2**28
SHOWN_ROWS = 5  # that are left out
LONG_BYTES = 2**27  # a larger trajectory is copied piece by piece, into a shard of its own

Progress = Callable[[Path, int], None]  # the file that is being read, and bytes read since


class SourceError(DataError):
    """A file that cannot be used, among those of a dataset; or a trajectory of it."""

    def __init__(self, source: Source, message: str, row: int | None = None) -> None:
        super().__init__(message)
        self.source = source
        self.row = row


def copy(writer: StoreWriter, part: Part, frames: int, progress: Progress) -> None:
    """Copy the first `frames` frames of each trajectory of a part.

    Raises:
        SourceError: the file is damaged.
        DataError: the writer refuses its content.
    """
    source = part.source
    length = block_length(frames * source.frame_bytes, source.aligned_to)
    if _is_long(source, frames):
        length = 1
    for rows in _blocks(part.first, part.first + part.trajectories, length):
        if _is_long(source, frames):
            pieces = (piece for _, piece in _pieces(source, rows.start, frames))
            with _refused(source, rows.start):
                writer.append_long(part.split, pieces, frames, *_beside(source, rows, frames))
        else:
            fields = _read(source, rows, slice(0, frames))
            for row, trajectory in zip(range(rows.start, rows.stop), fields, strict=True):
                beside = _beside(source, slice(row, row + 1), frames)
                with _refused(source, row):
                    writer.append(part.split, trajectory[None], *beside)
        progress(source.path, (rows.stop - rows.start) * source.frames * source.frame_bytes)


def _beside(source: Source, rows: slice, frames: int) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return the parameters and the series of some trajectories."""
    return (
        {name: values[rows] for name, values in source.parameters.items()},
        {name: values[rows, :frames] for name, values in source.series.items()},
    )


@contextmanager
def _refused(source: Source, row: int) -> Iterator[None]:
    """Name the trajectory that the writer refuses."""
    try:
        yield
    except SourceError:
        raise
    except DataError as error:
        raise SourceError(source, f"{source.place}: {error}", row) from error


def link(writer: StoreWriter, part: Part, frames: int, digest: str, progress: Progress) -> None:
    """Check each trajectory of a part and link to it; `digest` is that of its file.

    Raises:
        SourceError: the file is damaged.
        DataError: the writer refuses its content.
    """
    source = part.source
    before = 0
    for view, first, last in overlapping(
        source.views, slice(part.first, part.first + part.trajectories)
    ):
        rows = range(part.first + before, part.first + before + last - first)
        pieces = (piece for row in rows for piece in _pieces(source, row, frames))
        linked = view.part(first, last - first, frames)
        beside = _beside(source, slice(rows.start, rows.stop), frames)
        writer.link(part.split, linked, digest, pieces, *beside)
        progress(source.path, len(rows) * source.frames * source.frame_bytes)
        before += len(rows)


def sound_part(error: SourceError, frames: int) -> tuple[Source | None, SourceError]:
    """Return the source of an error without its bad trajectories, and an error that names them.

    They hold values that are not finite, or cannot be read. If half of them or more are bad, or the
    file cannot be read trajectory by trajectory, nothing is left of it.
    """
    source = error.source
    bad = _bad_rows(source, frames)
    if error.row is not None:
        bad[error.row] = str(error)
    if not bad or 2 * len(bad) >= source.trajectories:
        return None, error
    names = [source.name_of(row) for row in sorted(bad)]
    shown = ", ".join(names[:SHOWN_ROWS]) + (", ..." if len(names) > SHOWN_ROWS else "")
    return source.without(set(bad)), SourceError(
        source,
        f"{source.place}: {len(bad)} of {source.trajectories} trajectories left out ({shown}): "
        f"{bad[min(bad)].removeprefix(f'{source.place}: ')}",
    )


def _bad_rows(source: Source, frames: int) -> dict[int, str]:
    """Return which trajectories cannot be read or are not finite, with a sentence on each."""
    bad: dict[int, str] = {}
    for row in range(source.trajectories):
        try:
            for first, piece in _pieces(source, row, frames):
                finite = np.isfinite(piece).all(axis=tuple(range(1, piece.ndim)))
                if not finite.all():
                    frame = first + int(finite.argmin())
                    bad[row] = f"{source.name_of(row)} holds NaN or infinite values, first in "
                    bad[row] += f"frame {frame}"
                    break
        except SourceError as error:
            if not source.views:  # not read trajectory by trajectory
                return {}
            bad[row] = str(error)
    return bad


def block_length(trajectory_bytes: int, aligned_to: int = 1) -> int:
    """Return how many trajectories to read at once: whole chunks of the file, about 64 MiB.

    A chunk of more than 256 MiB of trajectories is read, and decompressed, once for each 256 MiB.
    """
    wanted = max(1, BLOCK_BYTES // trajectory_bytes)
    if aligned_to <= wanted:
        return wanted - wanted % aligned_to
    return min(aligned_to, max(1, LARGEST_BLOCK_BYTES // trajectory_bytes))


def _is_long(source: Source, frames: int) -> bool:
    return frames * source.frame_bytes > LONG_BYTES


def _blocks(first: int, end: int, length: int) -> Iterator[slice]:
    """Yield [first, end) cut at the multiples of `length`."""
    while first < end:
        last = min(first - first % length + length, end)
        yield slice(first, last)
        first = last


def _pieces(source: Source, row: int, frames: int) -> Iterator[tuple[int, Array]]:
    """Yield a trajectory as first frame and frames (T, C, *space), about 64 MiB at once."""
    for part in _blocks(0, frames, max(1, BLOCK_BYTES // source.frame_bytes)):
        yield part.start, _read(source, slice(row, row + 1), part)[0]


def _read(source: Source, rows: slice, frames: slice) -> Array:
    """Read a part; a file that breaks off in the middle is a DataError."""
    try:
        fields = source.read(rows, frames)
    except DataError as error:
        raise SourceError(source, str(error)) from error
    except DAMAGE as error:
        raise SourceError(source, str(unusable(source.place, error))) from error
    if fields.dtype.kind not in REAL:
        raise SourceError(source, f"{source.place} holds {fields.dtype}, not real numbers")
    return fields
