"""Tells whether files are those that PDEBench published, by the MD5 that DaRUS gives of each.

An import writes `published.json` beside the index, so that `verify` knows what a copy was made of.
"""

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from dpot_scale.config.base import Section
from dpot_scale.config.record import FORMAT_KEY, Record, read_record
from dpot_scale.data.store.dataset import SPLITS, DatasetStore
from dpot_scale.data.store.faults import require_machine
from dpot_scale.errors import DataError
from dpot_scale.files import HASHED_AT_ONCE, check_regular, write_whole

RECORD = "published.json"
TABLE = Path(__file__).with_name("pdebench.md5")  # MD5, number at DaRUS and name of each file
SHOWN = 3
# Trajectories of the published files, by the beginning of a dataset's name and its grid.
WHOLE = {
    ("dr_pdb", 128): 1000,
    ("swe_pdb", 128): 1000,
    ("ns2d_pdb", 128): 10_000,
    ("ns2d_pdb", 512): 1000,
    ("ns3d_pdb", 128): 100,
    ("ns3d_pdb", 64): 600,
    ("darcy_pdb", 128): 10_000,
}


class PublishedFile(NamedTuple):
    """A file of PDEBench."""

    md5: str
    number: str  # of the download
    name: str


class ImportedFile(Section):
    """A file that a dataset was made of."""

    name: str
    md5: str


class ImportedFiles(Record):
    """The files that a dataset was made of."""

    files: tuple[ImportedFile, ...]


@cache
def published_files() -> tuple[PublishedFile, ...]:
    """Return all files that PDEBench published."""
    lines = TABLE.read_text(encoding="utf-8").splitlines()
    return tuple(PublishedFile(*line.split(maxsplit=2)) for line in lines)


def record_files(folder: Path, paths: Sequence[Path]) -> list[str]:
    """Record the MD5 of the files that the dataset in a folder was made of.

    Returns:
        A sentence on those that are not as they were published.

    Raises:
        OSError: a file cannot be read.
        DiskError: the record cannot be written.
    """
    files = [ImportedFile(name=path.name, md5=md5(path)) for path in paths]
    record = {FORMAT_KEY: ImportedFiles.newest_format(), "files": [f.model_dump() for f in files]}
    write_whole(folder / RECORD, json.dumps(record, indent=2))
    return _changed(files)


def check_published(store: DatasetStore) -> tuple[list[str], list[str]]:
    """Return problems and notes on the files that a dataset was made of.

    Files that differ are a problem where as many trajectories were imported as were published;
    otherwise they may be a part of the published ones.

    Raises:
        DataError: the record is damaged, or another version wrote it.
    """
    path = store.folder / RECORD
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        files = read_record(ImportedFiles, raw, path, DataError).files
    except FileNotFoundError:
        return [], []
    except (OSError, ValueError, RecursionError) as error:
        require_machine(path, error)
        raise DataError(f"{path} cannot be read ({error}); remove it") from error
    changed = _changed(files)
    if not changed:
        return [], [f"it was made of {_list_some(files)} as PDEBench published"]
    return (changed, []) if _is_whole(store) else ([], changed)


def look_at_file(path: Path) -> tuple[str, bool]:
    """Return what a file is among those of PDEBench, and whether it is one of them.

    Raises:
        OSError: it cannot be read.
    """
    found = md5(path)
    for file in published_files():
        if file.md5 == found:
            return f"is {file.name} as PDEBench published it", True
    for file in published_files():
        if path.name in (file.name, file.number):
            return f"has MD5 {found}, and {file.name} as published {file.md5}", False
    return f"is no file that PDEBench published (MD5 {found})", False


def md5(path: Path) -> str:
    """Return the MD5 of a file's content."""
    check_regular(path)
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while some := file.read(HASHED_AT_ONCE):
            digest.update(some)
    return digest.hexdigest()


def _changed(files: Sequence[ImportedFile]) -> list[str]:
    known = {file.md5 for file in published_files()}
    changed = [file for file in files if file.md5 not in known]
    if not changed:
        return []
    verb = "is" if len(changed) == 1 else "are"
    return [
        f"{_list_some(changed)} {verb} not as PDEBench published it (MD5 {changed[0].md5}): "
        "a part of a published file, or damaged"
    ]


def _list_some(files: Sequence[ImportedFile]) -> str:
    names = ", ".join(file.name for file in files[:SHOWN])
    return f"{names} and {len(files) - SHOWN} more files" if len(files) > SHOWN else names


def _is_whole(store: DatasetStore) -> bool:
    trajectories = sum(store.num_trajectories(split) for split in SPLITS)
    return any(
        store.info.name.startswith(name) and store.info.grid[0] == grid and trajectories == whole
        for (name, grid), whole in WHOLE.items()
    )
