"""Finds the files to import in the files and folders that a user names."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from dpot_scale.data.importers.cfdbench_cases import CASE
from dpot_scale.data.store.dataset import INDEX
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
    return found, unreadable


def _walk(path: Path, note: Callable[[OSError], None]) -> Iterator[Path]:
    """Yield the files below a folder, without hidden ones and those of our own datasets."""
    for folder, subfolders, names in os.walk(path, onerror=note):
        if INDEX in names:
            subfolders.clear()
            continue
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        if CASE in names:  # of CFDBench: the arrays beside it belong to it
            names = [CASE]
        yield from (Path(folder) / name for name in sorted(names) if not name.startswith("."))
