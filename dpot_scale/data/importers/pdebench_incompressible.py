"""PDEBench's incompressible flow: particles carried and pushed by a force, in a box with walls.

One HDF5 file for each seed, `ns_incom_inhom_2d_512-0.h5` to `-273.h5`, with a few trajectories:
`velocity` (N, T, x, y, 2), `particles` (N, T, x, y, 1), `force` (N, x, y, 2), which is the same at
all times, and `t` (N, T). All files are one dataset; they can be sliced as they lie.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import h5py
import numpy as np

from dpot_scale.data.importers.source import (
    Array,
    Source,
    file_view,
    frame_interval,
    read_views,
    sliced_in_place,
)
from dpot_scale.data.importers.splits import train_before_valid
from dpot_scale.data.store.open_files import open_hdf5
from dpot_scale.data.store.shards import CHANNEL, TIME, TRAJECTORY, View
from dpot_scale.errors import DataError

NAME = "ns2d_incom_pdb"
SPACE = ("x", "y")
AXES = {
    "velocity": (TRAJECTORY, TIME, *SPACE, CHANNEL),
    "particles": (TRAJECTORY, TIME, *SPACE, CHANNEL),
    "force": (TRAJECTORY, *SPACE, CHANNEL),
    "t": (TRAJECTORY, TIME),
}
CHANNELS = {"velocity": ("vx", "vy"), "particles": ("particles",), "force": ("force_x", "force_y")}


def recognise(path: Path, *, paper: bool) -> list[Source]:
    """Return the file as a source if it holds velocity, particles, force and t.

    Raises:
        DataError: it does, but they do not fit together.
    """
    del paper  # the reference does not use it
    if not h5py.is_hdf5(path):
        return []
    with open_hdf5(path) as file:
        if not file.keys() >= AXES.keys():
            return []
        shapes = {name: tuple(getattr(file[name], "shape", ())) for name in AXES}
        size = _size(path, shapes)
        interval = _interval(path, np.asarray(file["t"], dtype=np.float64))
    whole = _view(path, size, tuple(CHANNELS))
    varying = [name for name in CHANNELS if TIME in AXES[name]]
    source = Source(
        **sliced_in_place([_view(path, size, varying)]),
        path=path,
        format="PDEBench incompressible flow",
        candidates=(NAME,),
        equation="incompressible Navier-Stokes with a force on particles, viscosity 0.01",
        channels=tuple(channel for names in CHANNELS.values() for channel in names),
        grid=tuple(size[axis] for axis in SPACE),
        domain_length=(1.0, 1.0),
        frame_interval=interval,
        boundary="walls for the velocity, open for the particles",
        constant=CHANNELS["force"],
        collection=NAME,
        arrange=train_before_valid,
    )
    return [replace(source, read=partial(read_views, [whole]))]


def _size(path: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, int]:
    """Return the number of points of each axis, which is the same in all arrays."""
    size: dict[str, int] = {}
    for name, axes in AXES.items():
        channels = {CHANNEL: len(CHANNELS.get(name, ()))}
        found = dict(zip(axes, shapes[name], strict=False))
        expected = {axis: {**size, **channels}.get(axis, found.get(axis)) for axis in axes}
        if len(shapes[name]) != len(axes) or found != expected:
            raise DataError(
                f"{path}: the arrays have shapes {shapes}; expected velocity (N, T, x, y, 2), "
                "particles (N, T, x, y, 1), force (N, x, y, 2) and t (N, T)"
            )
        size |= {axis: points for axis, points in found.items() if axis != CHANNEL}
    return size


def _interval(path: Path, times_NT: Array) -> float:
    """Return the time between frames, which is the same in all trajectories."""
    intervals = {frame_interval(times_T, len(times_T), path) for times_T in times_NT}
    if len(intervals) > 1:
        raise DataError(f"{path}: the trajectories differ in the time between their frames")
    return intervals.pop()


def _view(path: Path, size: dict[str, int], names: Sequence[str]) -> View:
    return file_view(
        path,
        [(name, AXES[name]) for name in names],
        spatial_axes=SPACE,
        trajectories=size[TRAJECTORY],
        frames=size[TIME],
    )
