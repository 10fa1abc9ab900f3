"""Steady Darcy flow: PDEBench (HDF5), FNO (MATLAB) and neuraloperator (.pt).

A trajectory has two frames of one channel, the coefficient and then the solution: with a history
and a horizon of one frame, the model maps one to the other.

neuraloperator keeps pairs of other equations in files of the same layout, for example those of
Navier-Stokes. A file is Darcy flow if its inputs are true or false, or its name says so; of any
other one the user must say what it is.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from dpot_scale.data.importers import arrays, matlab
from dpot_scale.data.importers.source import Source
from dpot_scale.data.importers.splits import (
    by_folder_or_name,
    name_without_split,
    train_before_valid,
)
from dpot_scale.data.store.dataset import Split
from dpot_scale.data.store.open_files import open_hdf5
from dpot_scale.errors import DataError

# Coefficient and solution.
PDEBENCH = ("nu", "tensor")
MATLAB = ("coeff", "sol")
NEURALOPERATOR = ("x", "y")
DARCY = "darcy"  # in names of files and datasets
# The FNO authors train on one file and test on the other.
SMOOTH: dict[str, Split] = {"smooth1": "train", "smooth2": "test"}

Array = NDArray[Any]
Load = Callable[[], tuple[Any, ...]]  # coefficient and solution, or their datasets


def recognise(path: Path, *, paper: bool) -> list[Source]:
    """Return the file as a source if it holds coefficients and solutions.

    Raises:
        DataError: it does, but they do not fit together.
    """
    del paper  # the reference has no entry for it
    if h5py.is_hdf5(path):
        with open_hdf5(path) as file:
            if file.keys() >= set(PDEBENCH):
                beta = file.attrs.get("beta")
                shapes = [file[name].shape for name in PDEBENCH]
                name = "darcy_pdb" if beta is None else f"darcy_pdb_beta{float(beta):g}"
                return [_source(path, "PDEBench", name, shapes, partial(_read_hdf5, path), None)]
        return []
    if matlab.is_matlab_5(path):
        return _recognise_matlab(path)
    load = arrays.loader(path)
    return _recognise_tensors(path, load) if load else []


def _recognise_matlab(path: Path) -> list[Source]:
    shapes = {name: shape for name, (shape, _) in matlab.contents(path).items()}
    if not shapes.keys() >= set(MATLAB):
        return []
    split = next((split for word, split in SMOOTH.items() if word in path.name), None)
    name = f"darcy_fno_r{shapes[MATLAB[0]][-1]}"
    load = cache(lambda: tuple(matlab.load(path, name) for name in MATLAB))
    read = partial(_read_pairs, load)
    return [_source(path, "FNO", name, [shapes[key] for key in MATLAB], read, split)]


def _recognise_tensors(path: Path, load: Callable[[], arrays.Arrays]) -> list[Source]:
    found = load()
    if set(NEURALOPERATOR) - found.keys():
        return []
    shapes = [found[name].shape for name in NEURALOPERATOR]
    read = partial(_read_pairs, lambda: tuple(load()[name] for name in NEURALOPERATOR))
    split = by_folder_or_name(Path(path.name))
    if DARCY in path.name.lower() or found["x"].dtype.kind == "b":
        name = f"{DARCY}_{shapes[0][-1]}"
        return [_source(path, "neuraloperator", name, shapes, read, split)]
    if not _are_pairs(*shapes):
        return []
    darcy = _source(path, "neuraloperator", "", shapes, read, split)
    pairs = replace(
        darcy,
        format="pairs x, y",
        candidates=(),
        equation="unknown",
        channels=("input_output",),
        boundary="unknown",
        collection=f"pairs {name_without_split(path)}" if split else None,
    )
    return [replace(pairs, named=lambda name: darcy if DARCY in name.lower() else pairs)]


def _are_pairs(first: tuple[int, ...], second: tuple[int, ...]) -> bool:
    """Return whether two shapes are (N, x, y) both, the second perhaps with a channel."""
    fit = second[:1] + second[-2:] == first and len(first) == 3
    return fit and math.prod(first) == math.prod(second)


def _source(
    path: Path,
    publisher: str,
    name: str,
    shapes: list[tuple[int, ...]],
    read: Callable[[slice, slice], Array],
    split: Split | None,
) -> Source:
    coefficient, solution = shapes
    if not _are_pairs(coefficient, solution):
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
    with open_hdf5(path) as file:
        pair = file[PDEBENCH[0]], file[PDEBENCH[1]]
        return _read_pairs(lambda: pair, rows, frames)


def _read_pairs(load: Load, rows: slice, frames: slice) -> Array:
    """Read (N, 2, 1, x, y)."""
    coefficient, solution = (np.asarray(array[rows]) for array in load())
    both_N2xy = np.stack([coefficient, solution.reshape(coefficient.shape)], axis=1)
    return both_N2xy[:, frames, None]
