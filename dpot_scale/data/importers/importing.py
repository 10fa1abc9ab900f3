"""Makes a stored dataset of sources: copies them, or links to the published files."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dpot_scale.config.data import ArrayLayout
from dpot_scale.data.catalog import CATALOG, CatalogEntry
from dpot_scale.data.importers import arrays, plain
from dpot_scale.data.importers.agreement import completed, datasets_of, usual_interval
from dpot_scale.data.importers.formats import Format, recognise
from dpot_scale.data.importers.source import Source
from dpot_scale.data.importers.splits import Part, has_train, parts_of
from dpot_scale.data.importers.transfer import Progress, SourceError, copy, link, sound_part
from dpot_scale.data.info import DatasetInfo
from dpot_scale.data.store.dataset import INDEX, SPLITS, Split, hold_folder, read_store
from dpot_scale.data.store.faults import require_machine
from dpot_scale.data.store.shards import digest, files_of
from dpot_scale.data.store.writer import StoreWriter
from dpot_scale.errors import DataError, DiskError, UserError

SHA256, WITHOUT = ", sha256 ", ", without "  # in the text that says where a dataset comes from


@dataclass(frozen=True, kw_only=True)
class Imported:
    """The outcome of an import."""

    folder: Path
    is_new: bool  # False: the same files had been imported before
    files: int
    train: int  # trajectories; none in a dataset for evaluation alone
    valid: int
    test: int
    frames: int  # of the longest trajectory
    shortest: int  # frames
    suspect: tuple[str, ...] = ()  # what no solver computes in a new dataset, one sentence each
    is_partial: bool = False  # a dataset that had been there, without what was damaged then

    def trajectories(self) -> dict[Split, int]:
        """Return how many trajectories each split has."""
        return {"train": self.train, "valid": self.valid, "test": self.test}


@dataclass(frozen=True)
class Options:
    """The options of an import."""

    root: Path  # the folder of all datasets
    name: str | None = None  # of the dataset; needed where the content allows several
    link: bool = False  # refer to the files instead of copying them
    paper: bool = False  # as the reference's preprocessing
    layout: ArrayLayout | None = None  # of plain arrays, which all files are then
    tensors: bool = False  # each component of a tensor as a channel
    layout_file: Path | None = None  # that says the layout, and may lie among the files

    @property
    def only(self) -> Format | None:
        """Return the format that files must be of; None where any known one will do."""
        if self.layout is None:
            return None
        return partial(plain.recognise, layout=self.layout, name=self.name)


def recognise_files(
    files: Sequence[Path], *, paper: bool, only: Format | None = None, tensors: bool = False
) -> tuple[list[list[Source]], list[DataError]]:
    """Return the datasets in files, and an error for each file that cannot be used."""
    sources: list[Source] = []
    problems: list[DataError] = []
    for file in files:
        try:
            for found in recognise(file, paper=paper, only=only):
                if isinstance(found, Source):
                    sources.append(found.with_tensors or found if tensors else found)
                else:
                    problems.append(found)
        except DataError as error:
            problems.append(error)
    datasets, misfits = datasets_of(sources)
    return datasets, problems + misfits


def import_sound(
    sources: Sequence[Source], options: Options, progress: Progress
) -> tuple[Imported | None, list[UserError]]:
    """Import a dataset, leaving out files and trajectories that turn out to be damaged.

    Returns:
        The outcome, None if nothing was imported; and the errors.

    Raises:
        MachineError: a file cannot be read now, and may be intact; the next import goes on.
    """
    problems: list[UserError] = []
    digests: dict[Path, str] = {}
    for_training = has_train(sources, paper=options.paper)
    while sources:
        try:
            imported = import_dataset(
                sources,
                options,
                progress=progress,
                digests=digests,
                left_out=len(problems),
                needs_train=for_training,
            )
        except SourceError as error:
            sound, problem = sound_part(error, _frames_of(error.source, options))
            problems.append(problem)
            sources = [
                kept
                for source in sources
                if (kept := sound if source.place == error.source.place else source)
            ]
        except (DataError, DiskError) as error:
            return None, [*problems, error]
        else:
            return imported, problems
    return None, problems


def import_dataset(
    sources: Sequence[Source],
    options: Options,
    *,
    progress: Progress,
    digests: dict[Path, str] | None = None,
    left_out: int = 0,
    needs_train: bool = False,
) -> Imported:
    """Write the dataset of some sources into the store.

    An interrupted import continues where its last shard ended.

    Args:
        sources: The files of the dataset, in order.
        options: How to import them.
        progress: Told of every file that is read; each byte counts twice, once for the checksum.
        digests: SHA-256 of files, as far as they are known; completed here. They identify the
            dataset, those of damaged files too, so that the same files are the same dataset.
        left_out: How many sources turned out to be damaged.
        needs_train: Whether a dataset for evaluation alone is refused.

    Raises:
        SourceError: a file is damaged or holds values that are not finite. Nothing is left behind.
        DataError: the name is not clear, the files cannot be linked, or a dataset of this name was
            made from something else.
    """
    name = options.name or _only_candidate(sources[0])
    _check_name(sources[0], name)
    sources = [source.named(name) if source.named else source for source in sources]
    if options.link:
        _check_linkable(sources)
    sources = completed(sources)
    parts = parts_of(sources, name, paper=options.paper, needs_train=needs_train)
    lengths = [_frames(source, name) for source in sources]
    folder = options.root / name
    with hold_folder(options.root):
        digests = {} if digests is None else digests
        _add_digests(digests, sources, progress)
        info = _info(sources, name, _origin(digests, options, left_out, sources[0]))
        is_new, is_partial = not (folder / INDEX).exists(), False
        if is_new:
            suspect = _write(parts, info, options, digests, progress)
        else:
            suspect = []
            is_partial = _check_origin(folder, info, sources)
    counts = {split: sum(p.trajectories for p in parts if p.split == split) for split in SPLITS}
    return Imported(
        folder=folder,
        is_new=is_new,
        files=len(_paths(sources)),
        train=counts["train"],
        valid=counts["valid"],
        test=counts["test"],
        frames=max(lengths),
        shortest=min(lengths),
        suspect=tuple(suspect),
        is_partial=is_partial,
    )


def _write(
    parts: Sequence[Part],
    info: DatasetInfo,
    options: Options,
    digests: dict[Path, str],
    progress: Progress,
) -> list[str]:
    """Write the dataset and return what no solver computes in it."""
    with StoreWriter(options.root, info, resume=not options.link) as writer:
        for part in _remaining(parts, writer):
            frames = _frames(part.source, info.name)
            try:
                if options.link:
                    link(writer, part, frames, digests[part.source.path], progress)
                else:
                    copy(writer, part, frames, progress)
            except SourceError:
                raise
            except DataError as error:
                raise SourceError(part.source, f"{part.source.place}: {error}") from error
    return writer.suspect


def total_bytes(sources: Sequence[Source]) -> int:
    """Return how many bytes `import_dataset` reports in all."""
    hashed = sum(file.stat().st_size for path in _paths(sources) for file in files_of(path))
    return hashed + sum(s.trajectories * s.frames * s.frame_bytes for s in sources)


def _remaining(parts: Sequence[Part], writer: StoreWriter) -> Iterator[Part]:
    """Yield the parts that an interrupted import has not written yet."""
    written = {split: writer.written(split) for split in SPLITS}
    for part in parts:
        skipped = min(written[part.split], part.trajectories)
        written[part.split] -= skipped
        if skipped < part.trajectories:
            yield Part(part.source, part.split, part.first + skipped, part.trajectories - skipped)


def _only_candidate(source: Source) -> str:
    if len(source.candidates) == 1 and source.says_name:
        return source.candidates[0]
    fitting = "".join(f"{candidate}, or " for candidate in source.candidates)
    other = "" if source.says_name else f"; other arrays: with --layout (see {arrays.PAGE})"
    raise DataError(
        f"the content of {source.path} does not tell which dataset it is ({source.describe()}); "
        f"say it with --name: {fitting}a name of your own{other}"
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


def _frames_of(source: Source, options: Options) -> int:
    return _frames(source, options.name or _only_candidate(source))


def _frames(source: Source, name: str) -> int:
    """Return how many frames to keep: as many as the paper uses, or all."""
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


def _add_digests(digests: dict[Path, str], sources: Sequence[Source], progress: Progress) -> None:
    for source in sources:
        if source.path not in digests:
            try:
                digests[source.path] = digest(source.path, partial(progress, source.path))
            except OSError as error:
                require_machine(source.path, error)
                raise SourceError(source, f"cannot read {source.path}: {error}") from error


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
        frame_interval=usual_interval(sources),
        boundary=source.boundary,
        origin="imported",
        source=origin,
        staggering=source.staggering,
        fluid_mask=source.fluid_mask,
        coordinates=source.coordinates,
        units=source.units if any(source.units) else (),
        length_unit=source.length_unit,
        time_unit=source.time_unit,
        has_lengths=source.has_lengths,
    )


def _origin(digests: dict[Path, str], options: Options, left_out: int, first: Source) -> str:
    """Return the text that says where a dataset comes from; see `_identity`."""
    ways = (", as in the paper" if options.paper else "") + (", linked" if options.link else "")
    ways += ", with tensors" if first.tensors else ""
    if options.layout is not None:
        said = options.layout.model_dump(mode="json", exclude_defaults=True)
        ways += "".join(f", {key} {value}" for key, value in said.items())
    ways += f"{WITHOUT}{left_out} that were damaged" if left_out else ""
    paths = list(digests)
    if len(paths) == 1:
        return f"{paths[0].name}{SHA256}{digests[paths[0]]}{ways}"
    together = hashlib.sha256("".join(digests.values()).encode()).hexdigest()
    return f"{len(paths)} files{SHA256}{together}{ways}"


def _identity(origin: str) -> str:
    """Return the part of an origin that depends neither on file names nor on files left out."""
    return origin.partition(SHA256)[2].partition(WITHOUT)[0]


def _check_origin(folder: Path, info: DatasetInfo, sources: Sequence[Source]) -> bool:
    """Refuse a dataset of the same name that was made from other files.

    Returns:
        Whether it is without something that was damaged.
    """
    found = read_store(folder).info.source
    if _identity(found) != _identity(info.source):
        raise DataError(
            f"{folder} was made from something else ({found}) than {sources[0].path} "
            f"({info.source}); remove the folder or choose another name with --name"
        )
    return WITHOUT in found
