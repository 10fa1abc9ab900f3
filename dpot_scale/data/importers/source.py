"""What a published file holds, and how it gets into the store.

A format module looks at the content of a file and describes it as a `Source`. Everything after
that is the same for all formats: the name, the split, the checks and the writing.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpot_scale.data.catalog import CATALOG, CatalogEntry, DatasetInfo
from dpot_scale.data.store import INDEX, Split, StoreWriter, locked, read_store, sha256
from dpot_scale.errors import DataError

BLOCK_BYTES = 64 * 2**20  # read at once; a large file never lies in memory as a whole
LARGEST_BLOCK_BYTES = 2**30
OWN_TEST_SHARE = 0.1  # of a dataset with a name that the catalogue does not have

Array = NDArray[Any]


@dataclass(frozen=True)
class Block:
    """Some consecutive trajectories of a file."""

    fields: Array  # (N, T, C, *space), in the order of `Source.spatial_axes`
    parameters: Mapping[str, Array] = field(default_factory=dict)  # N values of each


@dataclass(frozen=True, kw_only=True)
class Source:
    """A published file, understood but not yet read."""

    path: Path
    format: str  # for people
    candidates: tuple[str, ...]  # names of the catalogue that the content allows
    equation: str  # where the name is not in the catalogue
    channels: tuple[str, ...]
    grid: tuple[int, ...]
    domain_length: tuple[float, ...]
    frame_interval: float
    boundary: str
    trajectories: int
    frames: int
    blocks: Callable[[], Iterator[Block]]  # all trajectories, in order
    spatial_axes: tuple[str, ...] = ("x", "y")

    def describe(self) -> str:
        """Return what the file holds, in a few words."""
        grid = " x ".join(str(points) for points in self.grid)
        return (
            f"{self.format}: {self.trajectories} trajectories of {self.frames} frames of "
            f"{', '.join(self.channels)} at {grid}"
        )


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What an import did."""

    folder: Path
    is_new: bool  # False: the same file had been imported before
    train: int  # trajectories
    test: int
    frames: int


def import_source(
    source: Source,
    root: Path,
    *,
    name: str | None = None,
    progress: Callable[[int], None],
) -> Imported:
    """Copy a source into the store; its last trajectories become the test split.

    Args:
        source: The file.
        root: The folder of all datasets.
        name: Of the dataset; needed where the content allows several.
        progress: Takes the number of trajectories written so far.

    Raises:
        DataError: the file is damaged or holds values that are not finite, the name is not clear,
            or a dataset of this name was made from something else. Nothing is then left behind.
    """
    info = _info(source, name or _only_candidate(source))
    frames = _frames(source, info.name)
    train = source.trajectories - _test_trajectories(source, info.name)
    with locked(root):
        is_new = not (root / info.name / INDEX).exists()
        if is_new:
            _write(source, info, root, train=train, frames=frames, progress=progress)
        else:
            _check_origin(root / info.name, info, source)
    return Imported(
        folder=root / info.name,
        is_new=is_new,
        train=train,
        test=source.trajectories - train,
        frames=frames,
    )


def block_length(trajectory_bytes: int, aligned_to: int = 1) -> int:
    """Return how many trajectories to read at once: whole chunks of the file, about 64 MiB.

    A chunk of more than 1 GiB of trajectories is read, and decompressed, once for each GiB.
    """
    wanted = max(1, BLOCK_BYTES // trajectory_bytes)
    if aligned_to <= wanted:
        return wanted - wanted % aligned_to
    return min(aligned_to, max(1, LARGEST_BLOCK_BYTES // trajectory_bytes))


def _write(
    source: Source,
    info: DatasetInfo,
    root: Path,
    *,
    train: int,
    frames: int,
    progress: Callable[[int], None],
) -> None:
    done = 0
    with StoreWriter(root, info) as writer:
        for block in _readable_blocks(source):
            for split, rows in _split_rows(done, len(block.fields), train).items():
                parameters = {key: values[rows] for key, values in block.parameters.items()}
                _append(writer, source, split, block.fields[rows, :frames], parameters)
            done += len(block.fields)
            progress(done)


def _split_rows(first: int, length: int, train: int) -> dict[Split, slice]:
    """Return the rows of a block, which begins at trajectory `first`, that go to each split."""
    boundary = min(max(train - first, 0), length)
    return {"train": slice(0, boundary), "test": slice(boundary, length)}


def _append(
    writer: StoreWriter,
    source: Source,
    split: Split,
    fields: Array,
    parameters: Mapping[str, Array],
) -> None:
    try:
        writer.append(split, fields, parameters)
    except DataError as error:
        raise DataError(f"{source.path}: {error}") from error


def _readable_blocks(source: Source) -> Iterator[Block]:
    """Yield the blocks; a file that breaks off in the middle is the user's to mend."""
    blocks = source.blocks()
    while True:
        try:
            block = next(blocks, None)
        except (OSError, RuntimeError, ValueError) as error:  # of HDF5 on damaged chunks
            raise DataError(f"{source.path} is damaged ({error}); download it again") from error
        if block is None:
            return
        yield block


def _info(source: Source, name: str) -> DatasetInfo:
    entry = CATALOG.get(name)
    if entry is not None and name not in source.candidates:
        raise DataError(_contradiction(source, name, entry))
    return DatasetInfo(
        name=name,
        equation=entry.equation if entry else source.equation,
        channels=source.channels,
        scored=(True,) * len(source.channels),
        spatial_axes=source.spatial_axes,
        grid=source.grid,
        domain_length=source.domain_length,
        frame_interval=source.frame_interval,
        boundary=source.boundary,
        origin="imported",
        source=f"{source.path.name}, sha256 {sha256(source.path)}",
    )


def _only_candidate(source: Source) -> str:
    if len(source.candidates) == 1:
        return source.candidates[0]
    fitting = "".join(f"{candidate}, or " for candidate in source.candidates)
    raise DataError(
        f"the content of {source.path} does not tell which dataset it is ({source.describe()}); "
        f"say it with --name: {fitting}a name of your own"
    )


def _contradiction(source: Source, name: str, entry: CatalogEntry) -> str:
    fitting = ", ".join(source.candidates) or "none"
    return (
        f"{source.path} cannot be {name} ({entry.equation}): it holds {source.describe()}; names "
        f"of the catalogue that fit: {fitting}; or choose a name of your own"
    )


def _frames(source: Source, name: str) -> int:
    """Return how many frames to keep: what the paper knows of a set, or all."""
    entry = CATALOG.get(name)
    return min(source.frames, entry.frames) if entry else source.frames


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


def _check_origin(folder: Path, info: DatasetInfo, source: Source) -> None:
    """Refuse a dataset of the same name that another file, whatever its name, was copied to."""
    found = read_store(folder).info.source
    if found.rpartition("sha256 ")[2] != info.source.rpartition("sha256 ")[2]:
        raise DataError(
            f"{folder} was made from something else ({found}) than {source.path}; remove the "
            "folder or choose another name with --name"
        )


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
    return float(f"{interval:.6g}")  # float32 files hold 0.05 as 0.0500000007
