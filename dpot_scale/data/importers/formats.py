"""Which format a file has: decided by its content, never by its name."""

from collections.abc import Callable
from pathlib import Path

import h5py

from dpot_scale.data.importers import fno, pdebench
from dpot_scale.data.importers.source import Source
from dpot_scale.errors import DataError

# A format looks at a file and returns None where it is of another format. Where it is of its
# own format, but damaged or incomplete, it raises a DataError.
Format = Callable[[Path], Source | None]

FORMATS: dict[str, Format] = {
    "FNO Navier-Stokes .mat (v5 or v7.3)": fno.recognise,
    "PDEBench diffusion-reaction or shallow-water HDF5": pdebench.recognise,
}

LFS_POINTER = b"version https://git-lfs"
SHOWN_KEYS = 6


def recognise(path: Path) -> Source:
    """Return what a published file holds, without reading its fields.

    Raises:
        DataError: the file is damaged, incomplete or of no known format.
    """
    _check_readable(path)
    for recognised_by in FORMATS.values():
        source = recognised_by(path)
        if source is not None:
            return source
    raise DataError(
        f"{path} is of no known format{_contents(path)}; "
        "`python -m dpot_scale.prepare import --help` lists them"
    )


def _check_readable(path: Path) -> None:
    try:
        with path.open("rb") as file:
            start = file.read(len(LFS_POINTER))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    if not start:
        raise DataError(f"{path} is empty; download it again")
    if start == LFS_POINTER:
        raise DataError(
            f"{path} is a git-lfs pointer, not the data; run `git lfs pull` where it was cloned"
        )
    if h5py.is_hdf5(path):
        _check_hdf5(path)


def _check_hdf5(path: Path) -> None:
    try:
        h5py.File(path, "r").close()
    except OSError as error:
        raise DataError(
            f"{path} is a truncated or damaged HDF5 file ({error}); download it again"
        ) from error


def _contents(path: Path) -> str:
    """Return what an HDF5 file holds at its top level, in parentheses."""
    if not h5py.is_hdf5(path):
        return ""
    with h5py.File(path, "r") as file:
        keys = list(file)
    shown = ", ".join(keys[:SHOWN_KEYS]) + (", ..." if len(keys) > SHOWN_KEYS else "")
    return f" (HDF5 with: {shown or 'nothing'})"
