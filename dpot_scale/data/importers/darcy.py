"""Steady Darcy flow: PDEBench (HDF5), FNO (MATLAB) and neuraloperator (.pt).

A trajectory has two frames of one channel, the coefficient and then the solution: with a history
and a horizon of one frame, the model maps one to the other.
"""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io
from numpy.typing import NDArray

from dpot_scale.data.importers.arrays import read_arrays
from dpot_scale.data.importers.source import Source, by_folder_or_name, train_before_valid
from dpot_scale.data.store import Split
from dpot_scale.errors import DataError

# Coefficient and solution.
PDEBENCH = ("nu", "tensor")
MATLAB = ("coeff", "sol")
NEURALOPERATOR = ("x", "y")
MATLAB_5 = b"MATLAB 5.0 MAT-file"
# The FNO authors train on one file and test on the other.
SMOOTH: dict[str, Split] = {"smooth1": "train", "smooth2": "test"}

Array = NDArray[Any]
Load = Callable[[], tuple[Any, Any]]  # coefficient and solution, or their datasets


def recognise(path: Path, *, paper: bool) -> list[Source]:
    """Return the file as a source if it holds coefficients and solutions.

    Raises:
        DataError: it does, but they do not fit together.
    """
    del paper  # the reference has no entry for it
    if h5py.is_hdf5(path):
        with h5py.File(path, "r") as file:
            if file.keys() >= set(PDEBENCH):
                beta = file.attrs.get("beta")
                shapes = [file[name].shape for name in PDEBENCH]
                name = "darcy_pdb" if beta is None else f"darcy_pdb_beta{float(beta):g}"
                return [_source(path, "PDEBench", name, shapes, partial(_read_hdf5, path), None)]
        return []
    if _is_matlab(path):
        return _recognise_matlab(path)
    arrays = read_arrays(path)
    if arrays is None or set(NEURALOPERATOR) - arrays.keys():
        return []
    x, y = (arrays[name] for name in NEURALOPERATOR)
    split = by_folder_or_name(Path(path.name))
    read = partial(_read_pairs, lambda: (x, y))
    return [
        _source(path, "neuraloperator", f"darcy_{x.shape[-1]}", [x.shape, y.shape], read, split)
    ]


def _is_matlab(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(MATLAB_5)) == MATLAB_5


def _recognise_matlab(path: Path) -> list[Source]:
    shapes = {name: shape for name, shape, _ in scipy.io.whosmat(path)}
    if shapes.keys() < set(MATLAB):
        return []
    split = next((split for word, split in SMOOTH.items() if word in path.name), None)
    name = f"darcy_fno_r{shapes[MATLAB[0]][-1]}"
    read = partial(_read_pairs, cache(partial(_load_matlab, path)))
    return [_source(path, "FNO", name, [shapes[key] for key in MATLAB], read, split)]


def _source(
    path: Path,
    publisher: str,
    name: str,
    shapes: list[tuple[int, ...]],
    read: Callable[[slice, slice], Array],
    split: Split | None,
) -> Source:
    coefficient, solution = shapes
    if len(coefficient) != 3 or (coefficient[0], *coefficient[1:]) != (
        solution[0],
        *solution[-2:],
    ):
        raise DataError(
            f"{path}: the coefficient has shape {coefficient}, the solution {solution}; expected "
            "(N, x, y) both, or (N, 1, x, y) for the solution"
        )
    return Source(
        path=path,
        format=f"steady Darcy flow, {publisher}",
        candidates=(name,),
        equation="steady Darcy flow",
        channels=("coefficient_solution",),
        grid=tuple(coefficient[1:]),
        domain_length=(1.0, 1.0),
        frame_interval=1.0,
        boundary="zero",
        trajectories=coefficient[0],
        frames=2,
        read=read,
        split=split,
        collection=name if split else None,
        arrange=train_before_valid if split else None,
    )


def _read_hdf5(path: Path, rows: slice, frames: slice) -> Array:
    with h5py.File(path, "r") as file:
        pair = file[PDEBENCH[0]], file[PDEBENCH[1]]
        return _read_pairs(lambda: pair, rows, frames)


def _read_pairs(load: Load, rows: slice, frames: slice) -> Array:
    """Read (N, 2, 1, x, y)."""
    coefficient, solution = (np.asarray(array[rows]) for array in load())
    both_N2xy = np.stack([coefficient, solution.reshape(coefficient.shape)], axis=1)
    return both_N2xy[:, frames, None]


def _load_matlab(path: Path) -> tuple[Array, Array]:
    arrays = scipy.io.loadmat(path, variable_names=list(MATLAB))
    return arrays[MATLAB[0]], arrays[MATLAB[1]]
