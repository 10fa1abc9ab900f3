"""Imports every dataset that some files and folders hold, and says what became of each."""

import os
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from dpot_scale.data.importers.agreement import remarks
from dpot_scale.data.importers.importing import (
    Imported,
    Options,
    import_sound,
    recognise_files,
    total_bytes,
)
from dpot_scale.data.importers.progress import ByteProgress
from dpot_scale.data.importers.search import find_files
from dpot_scale.data.importers.source import Source
from dpot_scale.data.store.dataset import counted
from dpot_scale.data.store.published import record_files
from dpot_scale.data.store.suspect import shortened
from dpot_scale.errors import UserError
from dpot_scale.terminal import print_error, print_line

PUBLISHER = "PDEBench"  # in the format of its files


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of the files."""

    files: int  # that were found
    imported: int  # that are in a dataset now
    problems: int  # that were printed


def import_all(paths: Sequence[Path], options: Options) -> Outcome:
    """Import every dataset of some files, and print on the way what is done and what is wrong.

    A file that cannot be used keeps no other from being imported.

    Args:
        paths: Files, and folders to search.
        options: How to import.

    Raises:
        UserError: there is no file, or one name was given for several datasets.
    """
    found, unreadable = find_files(paths)
    said_by = options.layout_file and os.path.realpath(options.layout_file)
    files = [file for file in found if os.path.realpath(file) != said_by]
    datasets, unknown = recognise_files(
        files, paper=options.paper, only=options.only, tensors=options.tensors
    )
    problems: list[UserError] = [*unreadable, *unknown]
    if options.name and len(datasets) > 1:
        raise UserError(
            f"--name names one dataset, but there are {len(datasets)} datasets to import"
        )
    _print_all(problems)
    imported = 0
    for sources in datasets:
        files_in, wrong = _import_one(sources, options)
        _print_all(wrong)
        problems += wrong
        imported += files_in
    return Outcome(files=len(files), imported=imported, problems=len(problems))


def _import_one(sources: Sequence[Source], options: Options) -> tuple[int, list[UserError]]:
    """Import one dataset and say what was done.

    Returns:
        The number of files that are in it, and what is wrong with the others.
    """
    started = time.perf_counter()
    paths = list(dict.fromkeys(source.path for source in sources))
    origin = str(paths[0])
    if len(paths) > 1:
        origin = f"{len(paths)} files below {os.path.commonpath(paths)}"
    print_line(f"{origin}: {_describe(sources)}")
    for remark in remarks(sources):
        print_line(f"note: {remark}")
    with closing(ByteProgress(total_bytes(sources), len(paths))) as progress:
        imported, problems = import_sound(sources, options, progress)
    if imported is None:
        return 0, problems
    for remark in _record_published(imported, sources):
        print_line(f"note: {remark}")
    print_line(_sentence(imported, origin, time.perf_counter() - started, options))
    if imported.is_partial:
        problems.append(
            UserError(
                f"{imported.folder} is without what was damaged when it was imported; to see what, "
                "remove the folder and import again"
            )
        )
    for sentence in shortened(list(imported.suspect)):
        print_line(f"warning: {imported.folder}: {sentence}")
    return imported.files, problems


def _record_published(imported: Imported, sources: Sequence[Source]) -> list[str]:
    """Record which files of PDEBench a new dataset was made of; say which are not as published."""
    if not imported.is_new or PUBLISHER not in sources[0].format:
        return []
    try:
        return record_files(imported.folder, list(dict.fromkeys(s.path for s in sources)))
    except (OSError, UserError) as error:  # the dataset is complete without the record
        return [f"the files that it was made of are not recorded: {error}"]


def _describe(sources: Sequence[Source]) -> str:
    if len(sources) == 1:
        return sources[0].describe()
    formats = sorted({source.format for source in sources})
    trajectories = sum(source.trajectories for source in sources)
    frames = [source.frames for source in sources]
    return (
        f"{', '.join(formats)}: {trajectories} trajectories of {_range(min(frames), max(frames))} "
        "frames"
    )


def _sentence(imported: Imported, origin: str, seconds: float, options: Options) -> str:
    if not imported.is_new:
        part = "a part of " if imported.is_partial else ""
        return f"{imported.folder} already holds {part}{origin}; nothing to do"
    return (
        f"{'linked' if options.link else 'imported'} {origin} as {imported.folder}: "
        f"{counted(imported.trajectories())} trajectories of "
        f"{_range(imported.shortest, imported.frames)} frames in {seconds:.1f} s"
        f"{'' if imported.train else '; it is for evaluation alone'}"
    )


def _range(least: int, most: int) -> str:
    return str(most) if least == most else f"{least} to {most}"


def _print_all(problems: Sequence[UserError]) -> None:
    for problem in problems:
        print_error(str(problem))
