"""Walks through folders of data, also where symbolic links lead to other disks."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path


def walk(
    root: Path, note: Callable[[OSError], None] | None = None
) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Yield each folder with the sorted names of its subfolders and of its files.

    Links are followed, and no folder is entered twice, so that links in a circle end. Names that
    the caller removes from the subfolders are not entered.

    Args:
        root: Where to begin.
        note: Takes the error of a folder that cannot be read.
    """
    entered = {_identity(root)}
    for folder, subfolders, names in os.walk(root, onerror=note, followlinks=True):
        subfolders.sort()
        here = Path(folder)
        yield here, subfolders, sorted(names)
        new = []
        for name in subfolders:
            identity = _identity(here / name)
            if identity not in entered:
                entered.add(identity)
                new.append(name)
        subfolders[:] = new


def _identity(folder: Path) -> str:
    return os.path.realpath(folder)
