"""Finds the files to import in the files and folders that a user names."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from dpot_scale.data.importers.cfdbench_cases import CASE
from dpot_scale.data.store.dataset import INDEX
from dpot_scale.data.store.folders import walk
from dpot_scale.errors import DataError, UserError


def find_files(paths: Sequence[Path]) -> tuple[list[Path], list[DataError]]:
    """Return the files to import, and an error for each folder that cannot be read.

    Raises:
        UserError: a path does not exist, or leads through a folder that may not be read.
    """
    unreadable: list[DataError] = []

    def note(error: OSError) -> None:
        unreadable.append(DataError(f"cannot read {error.filename}: {error.strerror}"))

    found: list[Path] = []
    for path in paths:
        try:
            if not path.exists():
                raise UserError(f"there is no file or folder {path}")
        except PermissionError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from error
        below = list(_walk(path, note)) if path.is_dir() else [path]
        if not below and not unreadable:
            raise UserError(f"there is no file to import in {path}")
        found += below
    return _each_once(found), unreadable


def _each_once(files: Sequence[Path]) -> list[Path]:
    """Return files without links to one of them; of several links to a file the first is kept."""
    by_place: dict[str, Path] = {}
    for file in sorted(files, key=Path.is_symlink):
        by_place.setdefault(os.path.realpath(file), file)
    return [file for file in dict.fromkeys(files) if by_place[os.path.realpath(file)] == file]


def _walk(path: Path, note: Callable[[OSError], None]) -> Iterator[Path]:
    """Yield the files below a folder, without hidden ones and those of our own datasets."""
    for folder, subfolders, names in walk(path, note):
        if INDEX in names:
            subfolders.clear()
            continue
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        if CASE in names:  # of CFDBench: the arrays beside it belong to it
            names = [CASE]
        yield from (folder / name for name in names if not name.startswith("."))
