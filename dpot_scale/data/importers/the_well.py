"""Datasets in The Well's HDF5 layout.

`t0_fields` holds scalars (N, T, *space), `t1_fields` vectors (N, T, *space, D), each array with the
attributes `sample_varying` and `time_varying`; `dimensions` the axes. Folders train, valid and test
give the splits. Tensors (`t2_fields`) and `scalars` are not read.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from dpot_scale.data.importers.source import (
    Source,
    cell_extent,
    file_view,
    frame_interval,
    read_views,
    sliced_in_place,
)
from dpot_scale.data.importers.splits import train_before_valid, with_split
from dpot_scale.data.info import is_dataset_name
from dpot_scale.data.store.shards import CHANNEL, TIME, TRAJECTORY, View, open_hdf5
from dpot_scale.errors import DataError

GROUPS = {"t0_fields", "t1_fields", "dimensions"}
TENSORS = "t2_fields"

Named = tuple[str, tuple[str, ...]]  # an array and its axes


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
            return [_source(path, file)]
        except KeyError as error:
            raise DataError(f"{path} is not quite in The Well's layout ({error})") from error


def _source(path: Path, file: h5py.File) -> Source:
    spatial_axes = tuple(_text(axis) for axis in file["dimensions"].attrs["spatial_dims"])
    varying: list[Named] = []
    constant: list[Named] = []
    channels: dict[str, list[str]] = {"varying": [], "constant": []}
    for name, axes in _fields(path, file, spatial_axes):
        kind = "varying" if TIME in axes else "constant"
        (varying if TIME in axes else constant).append((name, axes))
        channels[kind] += _channels(file[name], axes, spatial_axes)
    if not varying:
        raise DataError(f"{path} has no field that changes in time")
    shape = dict(zip(varying[0][1], file[varying[0][0]].shape, strict=True))
    points = {axis: np.asarray(file["dimensions"][axis]) for axis in spatial_axes}
    view = partial(
        file_view,
        path,
        spatial_axes=spatial_axes,
        trajectories=int(file.attrs["n_trajectories"]),
        frames=shape[TIME],
    )
    name = _text(file.attrs["dataset_name"])
    if not is_dataset_name(name):
        raise DataError(f"{path} calls its dataset {name!r}, which cannot be the name of a folder")
    source = Source(
        **sliced_in_place([view(arrays=varying)]),
        path=path,
        format=f"The Well, {name}{_left_out(file)}",
        candidates=(name,),
        equation=name,
        channels=(*channels["varying"], *channels["constant"]),
        grid=tuple(shape[axis] for axis in spatial_axes),
        domain_length=tuple(cell_extent(values) for values in points.values()),
        frame_interval=frame_interval(file["dimensions"]["time"], shape[TIME], path),
        boundary=_boundary(file),
        value_bytes=file[varying[0][0]].dtype.itemsize,
        constant=tuple(channels["constant"]),
        collection=name,
        arrange=train_before_valid,
    )
    if constant:
        source = replace(
            source, read=partial(_read_both, view(arrays=varying), view(arrays=constant))
        )
    return with_split(source)


def _fields(path: Path, file: h5py.File, spatial_axes: tuple[str, ...]) -> Iterator[Named]:
    """Yield the arrays of scalars and vectors with their axes."""
    for group, extra in (("t0_fields", ()), ("t1_fields", (CHANNEL,))):
        for name, array in file[group].items():
            axes = (
                *((TRAJECTORY,) if array.attrs["sample_varying"] else ()),
                *((TIME,) if array.attrs["time_varying"] else ()),
                *spatial_axes,
                *extra,
            )
            if array.ndim != len(axes) or not all(array.attrs.get("dim_varying", [True])):
                raise DataError(
                    f"{path}: {group}/{name} of shape {array.shape} does not have the axes "
                    f"{', '.join(axes)}"
                )
            yield f"{group}/{name}", axes


def _channels(
    array: h5py.Dataset, axes: tuple[str, ...], spatial_axes: tuple[str, ...]
) -> list[str]:
    name = array.name.rpartition("/")[2]
    return [f"{name}_{axis}" for axis in spatial_axes] if CHANNEL in axes else [name]


def _left_out(file: h5py.File) -> str:
    tensors = list(file.get(TENSORS, ()))
    return f" (without its tensors {', '.join(tensors)})" if tensors else ""


def _boundary(file: h5py.File) -> str:
    return ", ".join(file.get("boundary_conditions", ())) or "unknown"


def _read_both(varying: View, constant: View, rows: slice, frames: slice) -> NDArray[Any]:
    both = [read_views([view], rows, frames) for view in (varying, constant)]
    return np.concatenate(both, axis=2)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
