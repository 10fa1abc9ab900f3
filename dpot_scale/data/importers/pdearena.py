"""PDEArena files: buoyant smoke in a closed box, and shallow water on the sphere.

Smoke: `u, vx, vy` (N, T, x, y) in double precision, in a group named train, valid or test; many
files make one dataset. Velocities are staggered. `t` is wrong (its spacing is 6.46), `dt` is right
(6.0), and `dx` is the distance of points that include both walls.

Shallow water: NetCDF 4, which is HDF5, one trajectory in each `output.nc` below a folder named
train, valid or test.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from dpot_scale.data.importers.source import (
    Source,
    file_view,
    frame_interval,
    rounded,
    sliced_in_place,
    unit_of,
)
from dpot_scale.data.importers.splits import SPLIT_WORDS, train_before_valid, with_split
from dpot_scale.data.store.open_files import open_hdf5
from dpot_scale.data.store.shards import TIME, TRAJECTORY
from dpot_scale.errors import DataError

SMOKE = ("u", "vx", "vy")
BUOYANCY, INTERVAL = "buo_y", "dt"
# By frames.
NAMES = {14: "ns2d_pda", 56: "ns2d_cond_pda"}
SPHERE = ("u", "v", "div", "vor", "pres")  # the reference's order
LEVEL = "level"
PACKING = ("scale_factor", "add_offset")


def recognise(path: Path, *, paper: bool) -> list[Source | DataError]:
    """Return the file as a source if it holds smoke, or shallow water on the sphere.

    Of several groups of smoke each is a source, or a DataError.

    Raises:
        DataError: something is missing or does not fit.
    """
    del paper  # the reference reads them in the same layout, in the order of the file system
    if not h5py.is_hdf5(path):
        return []
    with open_hdf5(path) as file:
        if len(file) and file.keys() <= SPLIT_WORDS.keys():
            found = [_smoke_or_error(path, file, group) for group in file]
            if len(found) == 1 and isinstance(found[0], DataError):
                raise found[0]
            return found
        if {*SPHERE, "lat", "lon"} <= file.keys():
            return [_sphere_source(path, file)]
    return []


def _smoke_or_error(path: Path, file: h5py.File, group: str) -> Source | DataError:
    try:
        return _smoke_source(path, file, group)
    except DataError as error:
        return error


def _smoke_source(path: Path, file: h5py.File, group: str) -> Source:
    shape = _common_shape(path, file, [f"{group}/{name}" for name in SMOKE], rank=4)
    trajectories, frames, *grid = shape
    buoyancy = _of_trajectories(path, file, group, BUOYANCY, trajectories)
    intervals = _of_trajectories(path, file, group, INTERVAL, trajectories)
    if np.ptp(intervals) > 0:
        raise DataError(f"{path}: the trajectories differ in their time step {INTERVAL}")
    extent = tuple(_extent(path, file, f"{group}/{axis}") for axis in ("x", "y"))
    name = NAMES.get(frames)
    axes = (TRAJECTORY, TIME, "x", "y")
    view = file_view(
        path,
        [(f"{group}/{field}", axes) for field in SMOKE],
        spatial_axes=("x", "y"),
        trajectories=trajectories,
        frames=frames,
    )
    return Source(
        **sliced_in_place([view]),
        path=path,
        format="PDEArena smoke",
        candidates=(name,) if name else (),
        equation="incompressible Navier-Stokes with buoyant smoke",
        channels=("smoke", "vx", "vy"),
        grid=tuple(grid),
        domain_length=extent,
        frame_interval=rounded(float(intervals[0])),
        boundary="closed box",
        value_bytes=file[group][SMOKE[0]].dtype.itemsize,
        parameters={"buoyancy": buoyancy},
        staggering="smoke at cell centres, vx at left faces, vy at lower faces; last faces, which "
        "are walls, left out",
        split=SPLIT_WORDS[group],
        collection=name or f"smoke of {frames} frames",
        arrange=train_before_valid,
    )


def _common_shape(path: Path, file: h5py.File, names: Sequence[str], rank: int) -> tuple[int, ...]:
    missing = [name for name in names if not isinstance(file.get(name), h5py.Dataset)]
    if missing:
        raise DataError(f"{path} holds no {' and no '.join(missing)}; download it again")
    shapes = {name: file[name].shape for name in names}
    shape = shapes[names[0]]
    if set(shapes.values()) != {shape} or len(shape) != rank or 0 in shape:
        raise DataError(f"{path}: the fields have shapes {shapes}; expected one of {rank} axes")
    return tuple(shape)


def _of_trajectories(
    path: Path, file: h5py.File, group: str, name: str, trajectories: int
) -> np.ndarray[Any, Any]:
    values = file[group].get(name)
    if getattr(values, "shape", None) != (trajectories,):
        raise DataError(f"{path}: group {group} has no {name} of {trajectories} values")
    return np.asarray(values, dtype=np.float64)


def _extent(path: Path, file: h5py.File, name: str) -> float:
    """Return the length of an axis whose points include both walls."""
    if name not in file:
        raise DataError(f"{path} has no {name}")
    points = np.asarray(file[name], dtype=np.float64)
    return rounded(float(np.ptp(points[0])))


def _sphere_source(path: Path, file: h5py.File) -> Source:
    arrays = []
    for name in SPHERE:
        array = file[name]
        _check_unpacked(path, array)
        axes = {3: (TIME, "lat", "lon"), 4: (TIME, LEVEL, "lat", "lon")}.get(array.ndim)
        if axes is None or (LEVEL in axes and array.shape[1] != 1):
            raise DataError(
                f"{path}: {name} has shape {array.shape}; expected (time, lat, lon), or (time, 1, "
                "lat, lon)"
            )
        arrays.append((name, axes))
    shapes = {(file[name].shape[0], *file[name].shape[-2:]) for name in SPHERE}
    if len(shapes) > 1:
        raise DataError(f"{path}: the fields differ in shape, {sorted(shapes)}")
    frames, *grid = shapes.pop()
    times = file["time"] if "time" in file else np.arange(frames)
    view = file_view(path, arrays, spatial_axes=("lat", "lon"), trajectories=1, frames=frames)
    source = Source(
        **sliced_in_place([view]),
        path=path,
        format="PDEArena shallow water on the sphere",
        candidates=("sw2d_pda",),
        equation="shallow water on the sphere",
        channels=SPHERE,
        grid=tuple(grid),
        domain_length=(180.0, 360.0),
        length_unit="degrees",
        units=tuple(unit_of(file[name]) for name in SPHERE),
        frame_interval=frame_interval(times, frames, path),
        boundary="sphere",
        value_bytes=file[SPHERE[0]].dtype.itemsize,
        collection="sw2d_pda",
        arrange=train_before_valid,
    )
    return with_split(source)


def _check_unpacked(path: Path, array: h5py.Dataset) -> None:
    """Refuse numbers that mean something else than they say."""
    packed = [name for name in PACKING if name in array.attrs]
    fill = np.asarray(array.attrs.get("_FillValue", np.nan), dtype=np.float64).ravel()
    if not np.isnan(fill).all():
        packed.append("_FillValue")
    if packed:
        raise DataError(
            f"{path}: {array.name.strip('/')} is packed (it has {' and '.join(packed)}); unpack it "
            "first, for example with `ncpdq -U`"
        )
