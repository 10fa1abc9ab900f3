"""Datasets in The Well's HDF5 layout.

`t0_fields` holds scalars (N, T, *space), `t1_fields` vectors (N, T, *space, D), `t2_fields` tensors
(N, T, *space, D, D), each array with the attributes `sample_varying`, `time_varying` and
`dim_varying`; an axis along which an array does not vary is absent. `dimensions` holds the axes and
the times, `scalars` numbers. Folders train, valid and test give the splits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from dpot_scale.data.importers.axes import Axis, Times, axis_of, times_of, usual_step
from dpot_scale.data.importers.source import (
    Source,
    file_view,
    read_views,
    sliced_in_place,
    unit_of,
)
from dpot_scale.data.importers.splits import SPLIT_WORDS, train_before_valid, with_split
from dpot_scale.data.importers.well_fields import (
    SCALARS,
    TENSORS,
    VECTORS,
    Field,
    Numbers,
    fields_of,
    frames_of,
    numbers_of,
)
from dpot_scale.data.info import is_dataset_name
from dpot_scale.data.store.beside import TIMES
from dpot_scale.data.store.open_files import open_hdf5
from dpot_scale.data.store.shards import TIME, TRAJECTORY, View
from dpot_scale.errors import DataError

GROUPS = {SCALARS, VECTORS, "dimensions"}
DATA = "data"  # the folder of the folders of splits


def recognise(path: Path, *, paper: bool) -> list[Source]:
    """Return the file as a source if it has The Well's groups.

    Raises:
        DataError: it has, but something in them does not fit.
    """
    del paper  # the reference does not use it
    if not h5py.is_hdf5(path):
        return []
    with open_hdf5(path) as file:
        if not file.keys() >= GROUPS:
            return []
        try:
            source = _source(path, file, tensors=False)
            if TENSORS in file and len(file[TENSORS]):
                source = replace(source, with_tensors=_source(path, file, tensors=True))
        except KeyError as error:
            raise DataError(f"{path} is not quite in The Well's layout ({error})") from error
    return [source]


def _source(path: Path, file: h5py.File, *, tensors: bool) -> Source:
    name = _text(file.attrs["dataset_name"])
    if not is_dataset_name(name):
        raise DataError(f"{path} calls its dataset {name!r}, which cannot be the name of a folder")
    axes = _axes(path, file)
    sizes = {
        TRAJECTORY: int(file.attrs["n_trajectories"]),
        TIME: frames_of(file),
    }
    sizes |= {axis: len(found.coordinates) for axis, found in axes.items()}
    fields = list(fields_of(path, file, sizes, tensors=tensors))
    varying = [field for field in fields if field.varies_in_time]
    constant = [field for field in fields if not field.varies_in_time]
    if not varying:
        raise DataError(f"{path} has no field that changes in time")
    times = times_of(file["dimensions"][TIME], sizes[TRAJECTORY], sizes[TIME], path)
    numbers = numbers_of(file, sizes)
    folder = _folder(path)
    label = folder if folder.startswith(name) and is_dataset_name(folder) else name
    view = _view(path, varying, sizes)
    source = Source(
        **sliced_in_place([view]),
        path=path,
        format=f"The Well, {name}{'' if tensors else _left_out(file)}",
        candidates=(label,),
        equation=name,
        channels=tuple(channel for field in varying + constant for channel in field.channels),
        grid=tuple(sizes[axis] for axis in axes),
        domain_length=tuple(axis.length for axis in axes.values()),
        coordinates=tuple(axis.coordinates for axis in axes.values()),
        units=tuple(field.unit for field in varying + constant for _ in field.channels),
        length_unit=_length_unit(file, axes),
        time_unit=unit_of(file["dimensions"][TIME]),
        frame_interval=usual_step(times.intervals),
        intervals=times.intervals,
        boundary=_boundary(file),
        value_bytes=max(file[field.name].dtype.itemsize for field in varying),
        constant=tuple(channel for field in constant for channel in field.channels),
        parameters=numbers.parameters,
        series=numbers.series | ({} if times.uneven is None else {TIMES: times.uneven}),
        notes=_notes(file, axes, times, numbers, tensors=tensors),
        tensors=tensors,
        folder=folder,
        collection=label,
        arrange=train_before_valid,
    )
    if constant:
        both = partial(_read_both, view, _view(path, constant, sizes))
        source = replace(source, read=both)
    return with_split(source)


def _length_unit(file: h5py.File, axes: Mapping[str, Axis]) -> str:
    """Return the unit of the axes of space if they have one in common; angles have another."""
    units = {unit_of(file["dimensions"][name]) for name in axes}
    return units.pop() if len(units) == 1 else ""


def _axes(path: Path, file: h5py.File) -> dict[str, Axis]:
    """Return the axes of space, which are those of all trajectories."""
    axes = {}
    for name in map(_text, np.atleast_1d(file["dimensions"].attrs["spatial_dims"])):
        points = np.asarray(file["dimensions"][name], dtype=np.float64)
        rows = points.reshape(-1, points.shape[-1]) if points.ndim else points.reshape(1, 1)
        axes[name] = axis_of(rows[0], f"axis {name} of {path}")
        if not np.allclose(rows, rows[0], rtol=1e-6, atol=1e-6 * axes[name].length):
            raise DataError(
                f"axis {name} of {path} differs from trajectory to trajectory; a dataset has one "
                "grid, so store such trajectories in files of their own"
            )
    return axes


def _view(path: Path, fields: Sequence[Field], sizes: dict[str, int]) -> View:
    spatial_axes = tuple(axis for axis in sizes if axis not in {TRAJECTORY, TIME})
    is_short = any(field.lacks_an_axis(spatial_axes) for field in fields)
    return file_view(
        path,
        [(field.name, field.axes) for field in fields],
        spatial_axes=spatial_axes,
        trajectories=sizes[TRAJECTORY],
        frames=sizes[TIME],
        grid=tuple(sizes[axis] for axis in spatial_axes) if is_short else (),
    )


def _folder(path: Path) -> str:
    """Return the name of the folder of a dataset: that of its splits, or of its files."""
    for folder in path.absolute().parents:
        if folder.name.lower() not in {*SPLIT_WORDS, DATA}:
            return folder.name
    return ""


def _left_out(file: h5py.File) -> str:
    tensors = list(file.get(TENSORS, ()))
    return f" (without its tensors {', '.join(tensors)})" if tensors else ""


def _notes(
    file: h5py.File, axes: dict[str, Axis], times: Times, numbers: Numbers, *, tensors: bool
) -> tuple[str, ...]:
    """Return what a user should know, a line each; the same for like files."""
    notes = [
        f"axis {name} is not uniform: {len(axis.coordinates)} {axis.points} over a length of "
        f"{axis.length:g}; the model sees the points as they are stored, and their coordinates are "
        "in the index"
        for name, axis in axes.items()
        if axis.points
    ]
    if times.uneven is not None:
        notes.append("frames are not evenly spaced in time; the time of each is kept")
    if not tensors and len(file.get(TENSORS, ())):
        notes.append(
            f"--tensors would import each component of {', '.join(file[TENSORS])} as a channel"
        )
    if numbers.left_out:
        names = ", ".join(numbers.left_out)
        notes.append(f"left out, being neither a number of a trajectory nor of a frame: {names}")
    return tuple(notes)


def _boundary(file: h5py.File) -> str:
    """Return the kind of boundary of each axis, as `x periodic, y wall`."""
    conditions = file.get("boundary_conditions", {})
    return ", ".join(sorted(_condition(name, conditions[name]) for name in conditions)) or "unknown"


def _condition(name: str, group: h5py.Group) -> str:
    axes = " and ".join(map(_text, np.atleast_1d(group.attrs.get("associated_dims", []))))
    if not axes or "bc_type" not in group.attrs:
        return name
    mask = np.asarray(group["mask"]) if "mask" in group else np.ones(1)
    said = f"{axes} {_text(group.attrs['bc_type']).lower()}"
    if mask.ndim != 1 or len(mask) < 2 or bool(mask[0]) == bool(mask[-1]):
        return said
    return f"{said} at its {'start' if mask[0] else 'end'}"


def _read_both(varying: View, constant: View, rows: slice, frames: slice) -> NDArray[Any]:
    both = [read_views([view], rows, frames) for view in (varying, constant)]
    return np.concatenate(both, axis=2)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
