"""Recognises the format of a file by its content, never by its name."""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import h5py

from dpot_scale.data.importers import (
    arrays,
    cfdbench,
    darcy,
    fno,
    pdearena,
    pdebench,
    pdebench_incompressible,
    reference,
    the_well,
)
from dpot_scale.data.importers.source import DAMAGE, Source, unusable
from dpot_scale.data.store.faults import require_machine
from dpot_scale.data.store.open_files import open_hdf5
from dpot_scale.downloads import check_download
from dpot_scale.errors import DataError
from dpot_scale.files import check_regular


class Format(Protocol):
    """Returns the sources in a file of its format, and an empty list for any other file.

    If a file of its format is damaged or incomplete, it raises a DataError. If only a part of the
    file is, it returns the DataError among the sources. `paper` asks for the quirks of the
    reference's preprocessing.
    """

    def __call__(self, path: Path, *, paper: bool) -> Sequence[Source | DataError]:
        """Return the sources in the file."""
        ...


FORMATS: dict[str, Format] = {
    "FNO Navier-Stokes .mat (v5 or v7.3), or u alone as .npy, .npz, .pt or .pkl": fno.recognise,
    "PDEBench diffusion-reaction, shallow water, compressible flow in 2D and 3D": (
        pdebench.recognise
    ),
    "PDEBench incompressible flow": pdebench_incompressible.recognise,
    "PDEArena Navier-Stokes (also conditioned), shallow water NetCDF": pdearena.recognise,
    "CFDBench cavity, tube, cylinder, dam: folders or zip files": cfdbench.recognise,
    "Darcy flow of PDEBench, FNO (.mat) or neuraloperator (.pt), and its other pairs x, y": (
        darcy.recognise
    ),
    "The Well's HDF5": the_well.recognise,
    "HDF5 that the reference's own preprocessing wrote": reference.recognise,
}

ZIP = b"PK\x03\x04"
PACKED = {b"\x1f\x8b": "gzip", b"\xfd7zXZ": "xz", b"BZh": "bzip2", b"\x28\xb5\x2f\xfd": "zstd"}
SHOWN_KEYS = 6


def recognise(
    path: Path, *, paper: bool = False, only: Format | None = None
) -> Sequence[Source | DataError]:
    """Return what a published file holds, without reading its fields.

    Args:
        path: The file. For a CFDBench case it is the case.json.
        paper: Whether to read it as the reference's preprocessing does.
        only: The format that it must be of. None: any known one.

    Returns:
        The sources in the file, and a DataError for each part of it that cannot be used.

    Raises:
        DataError: the file is damaged, incomplete or of no known format.
        MachineError: it cannot be read now, and may be intact.
    """
    try:
        _check_readable(path)
        for recognised_by in FORMATS.values() if only is None else (only,):
            if found := recognised_by(path, paper=paper):
                return [_not_empty(source) for source in found]
        contents = _contents(path)
    except DAMAGE as error:
        raise unusable(path, error) from error
    if only is not None:
        raise DataError(f"{path} is no .npy, .npz, .pt or HDF5 file, of which --layout speaks")
    raise DataError(
        f"{path} is of no known format{contents}; "
        "`python -m dpot_scale.prepare import --help` lists them; plain arrays of any program are "
        f"imported with --layout (see {arrays.PAGE})"
    )


def _not_empty(found: Source | DataError) -> Source | DataError:
    if isinstance(found, Source) and 0 in (found.trajectories, found.frames, *found.grid):
        return DataError(f"{found.place} holds nothing: {found.describe()}; download it again")
    return found


def _check_readable(path: Path) -> None:
    try:
        check_regular(path)
        check_download(path)
        with path.open("rb") as file:
            start = file.read(len(ZIP))
    except OSError as error:
        require_machine(path, error)
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    if start.startswith(ZIP) and not zipfile.is_zipfile(path):
        raise DataError(f"{path} is a truncated zip file; download it again")
    if h5py.is_hdf5(path):
        try:
            open_hdf5(path).close()
        except OSError as error:
            raise unusable(path, error, "is a truncated or damaged HDF5 file") from error


def _contents(path: Path) -> str:
    """Return the names at the top level of a container, in parentheses, for a sentence."""
    if h5py.is_hdf5(path):
        with open_hdf5(path) as file:
            return f" (HDF5 with: {_list_some(list(file))})"
    if load := arrays.loader(path):
        shapes = [f"{name} {array.dtype} {array.shape}" for name, array in load().items()]
        return f" (arrays: {_list_some(shapes).strip()})"
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return f" (zip with: {_list_some(archive.namelist())}; unpack it first)"
    with path.open("rb") as file:
        start = file.read(max(map(len, PACKED)))
    packed = next((name for mark, name in PACKED.items() if start.startswith(mark)), "")
    return packed and f" ({packed}; unpack it first)"


def _list_some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:SHOWN_KEYS]) + (", ..." if len(names) > SHOWN_KEYS else "")
    return shown or "nothing"
