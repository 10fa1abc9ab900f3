"""The FNO Navier-Stokes files: vorticity on the unit torus.

Two containers, told apart by their content: MATLAB v5, u (N, x, y, T); and MATLAB v7.3, which is
HDF5 with all axes reversed, u (T, y, x, N). Undoing the reversal as a whole gives the physical
orientation. The reference exchanges x and y instead, which mirrors the flow: read as (x, y), its
vorticity is advected in the wrong direction. People also convert u to .npy, .npz, .pt or a pickle,
which may hold any other field: what they are, their names or the user must say.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from dpot_scale.data.importers import arrays, matlab
from dpot_scale.data.importers.npz import ArrayLike
from dpot_scale.data.importers.source import Source, frame_interval
from dpot_scale.data.store.open_files import open_hdf5
from dpot_scale.errors import DataError

FIELD = "u"
TIMES = "t"
DARCY = {"coeff", "sol"}  # the arrays of another problem in the same container
BYTES_PER_VALUE = {"single": 4, "double": 8}  # MATLAB's floating-point classes
DOMAIN_LENGTH = 1.0
SAYS_FNO = re.compile(r"(?<![a-z])ns(?![a-z])|ns2d|navier|vorticity|fno")  # in a name


@dataclass(frozen=True)
class _Header:
    """What a file says about u without reading it."""

    shape: tuple[int, ...]  # as MATLAB sees it: (N, x, y, T)
    bytes_per_value: int
    times: NDArray[Any] | None
    chunk: int = 1  # trajectories


def recognise(path: Path, *, paper: bool) -> list[Source]:
    """Return the file as a source if it is an FNO Navier-Stokes file.

    Raises:
        DataError: it is one, but damaged or with other arrays than expected.
    """
    if h5py.is_hdf5(path):
        header = _header_7(path)
        if header is None:
            return []
        axes = ("y", "x") if paper else ("x", "y")
        return [_source(path, header, "MATLAB v7.3", partial(_read_7, path, axes), axes)]
    if matlab.is_matlab_5(path):
        return _recognise_5(path)
    load = arrays.loader(path)
    return _recognise_converted(path, load) if load else []


def _recognise_5(path: Path) -> list[Source]:
    header = _header_5(path)
    if header is None:
        return []
    read = partial(_read_frames_last, cache(partial(matlab.load, path, FIELD)))
    return [_source(path, header, "MATLAB v5", read, ("x", "y"))]


def _recognise_converted(path: Path, load: Callable[[], arrays.Arrays]) -> list[Source]:
    """Return u of a file that holds nothing else; frames last, as in the original."""
    found = list(load().values())
    if len(found) != 1 or len(found[0].shape) != 4:
        return []
    shape, kind = found[0].shape, found[0].dtype
    if shape[1] != shape[2] or kind.kind != "f":
        raise DataError(
            f"{path} holds {kind} of shape {shape}; expected floating-point vorticity "
            "(N, x, y, T), frames last, or --layout, which says what the axes are (see "
            f"{arrays.PAGE})"
        )
    (name,) = load()
    read = partial(_read_frames_last, lambda: load()[name])
    fno = _source(path, _Header(shape, kind.itemsize, None), "converted", read, ("x", "y"))
    fno = replace(fno, says_name=SAYS_FNO.search(path.name.lower()) is not None)

    def named(own: str) -> Source:
        if fno.says_name or own in fno.candidates:
            return fno
        return replace(fno, equation="unknown", channels=("c0",), boundary="unknown")

    return [replace(fno, named=named)]


def _source(
    path: Path,
    header: _Header,
    container: str,
    read: Callable[[slice, slice], NDArray[Any]],
    spatial_axes: tuple[str, ...],
) -> Source:
    if len(header.shape) != 4:
        raise DataError(
            f"{path}: {FIELD} has shape {header.shape}; an FNO file of two or more trajectories "
            "has the 4 axes (N, x, y, T)"
        )
    trajectories, *grid, frames = header.shape
    times = header.times if header.times is not None else np.arange(1, frames + 1)
    return Source(
        path=path,
        format=f"FNO Navier-Stokes, {container}",
        candidates=_candidates(trajectories, frames),
        equation="Navier-Stokes, vorticity",
        channels=("vorticity",),
        grid=tuple(grid),
        domain_length=(DOMAIN_LENGTH, DOMAIN_LENGTH),
        frame_interval=frame_interval(times, frames, path),
        boundary="periodic",
        trajectories=trajectories,
        frames=frames,
        read=read,
        aligned_to=header.chunk,
        value_bytes=header.bytes_per_value,
        spatial_axes=spatial_axes,
    )


def _candidates(trajectories: int, frames: int) -> tuple[str, ...]:
    """Return the published sets of this length; no file tells its viscosity.

    Two have 50 frames on disk, 30 of which are in use in the set of viscosity 1e-4.
    """
    match frames, trajectories:
        case 20, _:
            return ("ns2d_fno_1e-5",)
        case (30, _) | (50, 10000):
            return ("ns2d_fno_1e-4",)
        case 50, 5000:
            return ("ns2d_fno_1e-3",)
        case 50, _:
            return ("ns2d_fno_1e-4", "ns2d_fno_1e-3")
    return ()


def _header_7(path: Path) -> _Header | None:
    """Return what a v7.3 file says; None for HDF5 of another kind."""
    with open_hdf5(path) as file:
        if not _is_matlab_7(file):
            return None
        if file.keys() >= DARCY:
            return None
        if not isinstance(file.get(FIELD), h5py.Dataset):
            raise DataError(_without_field(path, list(file)))
        field = file[FIELD]
        if field.dtype.kind != "f":
            raise DataError(_not_floats(path, str(field.dtype)))
        times = file[TIMES][()] if TIMES in file else None
        chunk = field.chunks[-1] if field.chunks else 1  # along the trajectories
        return _Header(field.shape[::-1], field.dtype.itemsize, times, chunk)


def _is_matlab_7(file: h5py.File) -> bool:
    """Return whether the arrays carry MATLAB's classes, or are those of an FNO file.

    Rewriting a file may lose the classes. u alone could be a velocity.
    """
    has_classes = any("MATLAB_class" in item.attrs for item in file.values() if item)
    return has_classes or (FIELD in file and ("a" in file or TIMES in file))


def _read_7(path: Path, spatial_axes: tuple[str, ...], rows: slice, frames: slice) -> NDArray[Any]:
    """Read u (T, y, x, N) as (N, T, 1, *spatial_axes).

    Trajectories are the fastest axis on disk: one by one is hopeless, whole chunks are fast.
    """
    order = (3, 0, 2, 1) if spatial_axes == ("x", "y") else (3, 0, 1, 2)
    with open_hdf5(path) as file:
        fields_TyxN: NDArray[Any] = file[FIELD][frames, :, :, rows]
    return fields_TyxN.transpose(order)[:, :, None]


def _header_5(path: Path) -> _Header | None:
    found = matlab.contents(path)
    if found.keys() >= DARCY:
        return None
    if FIELD not in found:
        raise DataError(_without_field(path, list(found)))
    shape, kind = found[FIELD]
    if kind not in BYTES_PER_VALUE:
        raise DataError(_not_floats(path, kind))
    times = matlab.load(path, TIMES) if TIMES in found else None
    return _Header(shape, BYTES_PER_VALUE[kind], times)


def _read_frames_last(load: Callable[[], ArrayLike], rows: slice, frames: slice) -> NDArray[Any]:
    """Read u (N, x, y, T) as (N, T, 1, x, y), a copy of what may be mapped."""
    fields_NTxy = np.array(load()[rows, :, :, frames].transpose(0, 3, 1, 2), order="C")
    return fields_NTxy[:, :, None]


def _without_field(path: Path, found: list[str]) -> str:
    return (
        f"{path} is a MATLAB file without an array {FIELD}, the vorticity (N, x, y, T); it holds: "
        f"{', '.join(found) or 'nothing'}; is the download complete?"
    )


def _not_floats(path: Path, kind: str) -> str:
    return f"{path}: {FIELD} holds {kind}, not floating-point numbers"
