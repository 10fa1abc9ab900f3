"""From sources to a stored dataset: copied, or linked to where they lie."""

import hashlib
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dpot_scale.data.catalog import CATALOG, CatalogEntry, DatasetInfo
from dpot_scale.data.importers.formats import recognise
from dpot_scale.data.importers.source import (
    Array,
    Part,
    Source,
    datasets_of,
    overlapping,
    parts_of,
)
from dpot_scale.data.shards import digest, files_of
from dpot_scale.data.store import INDEX, SPLITS, locked, read_store
from dpot_scale.data.writer import CannotWrite, StoreWriter
from dpot_scale.errors import DataError

BLOCK_BYTES = 64 * 2**20  # read at once; a large file never lies in memory as a whole
LARGEST_BLOCK_BYTES = 2**28

# What HDF5, zip and .npy files raise where their content is damaged.
DAMAGE = (OSError, RuntimeError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)

Progress = Callable[[Path, int], None]  # the file that is being read, and bytes read since


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What an import did."""

    folder: Path
    is_new: bool  # False: the same files had been imported before
    files: int
    train: int  # trajectories
    test: int
    frames: int


class SourceError(DataError):
    """A file that cannot be used, among those of a dataset."""

    def __init__(self, source: Source, message: str) -> None:
        super().__init__(message)
        self.source = source


@dataclass(frozen=True)
class Options:
    """How to import."""

    root: Path  # the folder of all datasets
    name: str | None = None  # of the dataset; needed where the content allows several
    link: bool = False  # refer to the files instead of copying them
    paper: bool = False  # as the reference's preprocessing


def recognise_files(
    files: Sequence[Path], *, paper: bool
) -> tuple[list[list[Source]], list[DataError]]:
    """Return the datasets that files hold, and what is wrong with the other files."""
    sources: list[Source] = []
    problems: list[DataError] = []
    for file in files:
        try:
            sources += recognise(file, paper=paper)
        except DataError as error:
            problems.append(error)
    datasets, misfits = datasets_of(sources)
    return datasets, problems + misfits


def import_sound(
    sources: Sequence[Source], options: Options, progress: Progress
) -> tuple[Imported | None, list[DataError]]:
    """Import a dataset without those of its files that turn out to be damaged.

    Returns:
        What was done, None if nothing; and what is wrong.
    """
    problems: list[DataError] = []
    while sources:
        try:
            return import_dataset(sources, options, progress=progress), problems
        except SourceError as error:
            problems.append(error)
            sources = [source for source in sources if source is not error.source]
        except DataError as error:
            return None, [*problems, error]
    return None, problems


def import_dataset(sources: Sequence[Source], options: Options, *, progress: Progress) -> Imported:
    """Bring a dataset into the store.

    An interrupted import continues where its last shard ended.

    Args:
        sources: Its files, in order.
        options: How.
        progress: Told of every file that is read; each byte counts twice, once for the checksum.

    Raises:
        SourceError: a file is damaged or holds values that are not finite. Nothing is left behind.
        DataError: the name is not clear, the files cannot be linked, or a dataset of this name was
            made from something else.
    """
    name = options.name or _only_candidate(sources[0])
    _check_name(sources[0], name)
    parts = parts_of(sources, name)
    frames = _frames(sources[0], name)
    if options.link:
        _check_linkable(sources)
    folder = options.root / name
    with locked(options.root):
        digests = _digests(sources, progress)
        info = _info(sources, name, _origin(digests, options))
        is_new = not (folder / INDEX).exists()
        if is_new:
            _write(parts, frames, info, options, digests, progress)
        else:
            _check_origin(folder, info, sources)
    counts = {split: sum(p.trajectories for p in parts if p.split == split) for split in SPLITS}
    return Imported(
        folder=folder,
        is_new=is_new,
        files=len(digests),
        train=counts["train"],
        test=counts["test"],
        frames=frames,
    )


def _write(
    parts: Sequence[Part],
    frames: int,
    info: DatasetInfo,
    options: Options,
    digests: dict[Path, str],
    progress: Progress,
) -> None:
    with StoreWriter(options.root, info, resume=not options.link) as writer:
        for part in _remaining(parts, writer):
            try:
                if options.link:
                    _link(writer, part, frames, digests, progress)
                else:
                    _copy(writer, part, frames, progress)
            except (SourceError, CannotWrite):
                raise
            except DataError as error:
                raise SourceError(part.source, f"{part.source.place}: {error}") from error


def total_bytes(sources: Sequence[Source]) -> int:
    """Return how many bytes `import_dataset` reports in all."""
    hashed = sum(file.stat().st_size for path in _paths(sources) for file in files_of(path))
    return hashed + sum(s.trajectories * s.frames * s.frame_bytes for s in sources)


def block_length(trajectory_bytes: int, aligned_to: int = 1) -> int:
    """Return how many trajectories to read at once: whole chunks of the file, about 64 MiB.

    A chunk of more than 256 MiB of trajectories is read, and decompressed, once for each 256 MiB.
    """
    wanted = max(1, BLOCK_BYTES // trajectory_bytes)
    if aligned_to <= wanted:
        return wanted - wanted % aligned_to
    return min(aligned_to, max(1, LARGEST_BLOCK_BYTES // trajectory_bytes))


def _remaining(parts: Sequence[Part], writer: StoreWriter) -> Iterator[Part]:
    """Yield what an interrupted import has not written yet."""
    written = {split: writer.written(split) for split in SPLITS}
    for part in parts:
        skipped = min(written[part.split], part.trajectories)
        written[part.split] -= skipped
        if skipped < part.trajectories:
            yield Part(part.source, part.split, part.first + skipped, part.trajectories - skipped)


def _copy(writer: StoreWriter, part: Part, frames: int, progress: Progress) -> None:
    source = part.source
    length = block_length(frames * source.frame_bytes, source.aligned_to)
    if _is_long(source, frames):
        length = 1
    for rows in _blocks(part.first, part.first + part.trajectories, length):
        parameters = {key: values[rows] for key, values in source.parameters.items()}
        if _is_long(source, frames):
            pieces = (piece for _, piece in _pieces(source, rows.start, frames))
            writer.append_long(part.split, pieces, frames, parameters)
        else:
            writer.append(part.split, _read(source, rows, slice(0, frames)), parameters)
        progress(source.path, (rows.stop - rows.start) * source.frames * source.frame_bytes)


def _link(
    writer: StoreWriter,
    part: Part,
    frames: int,
    digests: dict[Path, str],
    progress: Progress,
) -> None:
    source = part.source
    before = 0
    for view, first, last in overlapping(
        source.views, slice(part.first, part.first + part.trajectories)
    ):
        rows = range(part.first + before, part.first + before + last - first)
        parameters = {
            key: values[rows.start : rows.stop] for key, values in source.parameters.items()
        }
        pieces = (piece for row in rows for piece in _pieces(source, row, frames))
        linked = view.part(first, last - first, frames)
        writer.link(part.split, linked, digests[source.path], pieces, parameters)
        progress(source.path, len(rows) * source.frames * source.frame_bytes)
        before += len(rows)


def _is_long(source: Source, frames: int) -> bool:
    return frames * source.frame_bytes > LARGEST_BLOCK_BYTES


def _blocks(first: int, end: int, length: int) -> Iterator[slice]:
    """Yield the parts of [first, end) that multiples of `length` bound."""
    while first < end:
        last = min(first - first % length + length, end)
        yield slice(first, last)
        first = last


def _pieces(source: Source, row: int, frames: int) -> Iterator[tuple[int, Array]]:
    """Yield a trajectory as first frame and frames (T, C, *space), about 64 MiB at once."""
    for part in _blocks(0, frames, max(1, BLOCK_BYTES // source.frame_bytes)):
        yield part.start, _read(source, slice(row, row + 1), part)[0]


def _read(source: Source, rows: slice, frames: slice) -> Array:
    """Read a part; a file that breaks off in the middle is the user's to mend."""
    try:
        return source.read(rows, frames)
    except DAMAGE as error:
        raise SourceError(
            source, f"{source.place} is damaged ({error}); download it again"
        ) from error


def _only_candidate(source: Source) -> str:
    if len(source.candidates) == 1:
        return source.candidates[0]
    fitting = "".join(f"{candidate}, or " for candidate in source.candidates)
    raise DataError(
        f"the content of {source.path} does not tell which dataset it is ({source.describe()}); "
        f"say it with --name: {fitting}a name of your own"
    )


def _check_name(source: Source, name: str) -> None:
    entry = CATALOG.get(name)
    if entry is not None and name not in source.candidates:
        raise DataError(_contradiction(source, name, entry))


def _contradiction(source: Source, name: str, entry: CatalogEntry) -> str:
    fitting = ", ".join(source.candidates) or "none"
    return (
        f"{source.path} cannot be {name} ({entry.equation}): it holds {source.describe()}; names "
        f"that fit: {fitting}; or choose a name of your own"
    )


def _frames(source: Source, name: str) -> int:
    """Return how many frames to keep: what the paper knows of a set, or all."""
    entry = CATALOG.get(name)
    return min(source.frames, entry.frames) if entry else source.frames


def _check_linkable(sources: Sequence[Source]) -> None:
    for source in sources:
        if not source.views:
            raise DataError(
                f"{source.path} ({source.format}) cannot be read as it lies; import it without "
                "--link"
            )


def _paths(sources: Sequence[Source]) -> list[Path]:
    return list(dict.fromkeys(source.path for source in sources))


def _digests(sources: Sequence[Source], progress: Progress) -> dict[Path, str]:
    return {path: digest(path, partial(progress, path)) for path in _paths(sources)}


def _info(sources: Sequence[Source], name: str, origin: str) -> DatasetInfo:
    source, entry = sources[0], CATALOG.get(name)
    return DatasetInfo(
        name=name,
        equation=entry.equation if entry else source.equation,
        channels=source.channels,
        scored=source.scored,
        spatial_axes=source.spatial_axes,
        grid=source.grid,
        domain_length=source.domain_length,
        frame_interval=source.frame_interval,
        boundary=source.boundary,
        origin="imported",
        source=origin,
        staggering=source.staggering,
    )


def _origin(digests: dict[Path, str], options: Options) -> str:
    """Return where a dataset comes from; what follows the first comma identifies it."""
    ways = (", as in the paper" if options.paper else "") + (", linked" if options.link else "")
    paths = list(digests)
    if len(paths) == 1:
        return f"{paths[0].name}, sha256 {digests[paths[0]]}{ways}"
    together = hashlib.sha256("".join(digests.values()).encode()).hexdigest()
    return f"{len(paths)} files, sha256 {together}{ways}"


def _check_origin(folder: Path, info: DatasetInfo, sources: Sequence[Source]) -> None:
    """Refuse a dataset of the same name that another file, whatever its name, was copied to."""
    found = read_store(folder).info.source
    if found.partition(", ")[2] != info.source.partition(", ")[2]:
        raise DataError(
            f"{folder} was made from something else ({found}) than {sources[0].path} "
            f"({info.source}); remove the folder or choose another name with --name"
        )
