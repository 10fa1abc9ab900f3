"""PDEBench files: diffusion-reaction, radial dam break and compressible flow.

Diffusion-reaction and dam break: one HDF5 group per seed, `0000` to `0999`, with `data` and
`grid/{t,x,y}`. Two fields are those of diffusion-reaction, stored (T, y, x, C) and turned here; one
is the water depth, stored (T, x, y, C).

Compressible flow: `Vx, Vy, density, pressure` (N, T, x, y), in three dimensions also `Vz`, with the
Mach number and the viscosities as attributes. `t-coordinate` has one entry too many.

All can be sliced as they lie.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from dpot_scale.data.catalog import CATALOG
from dpot_scale.data.importers.groups import DATA, grids_of, has_seeds, sound_groups
from dpot_scale.data.importers.source import (
    Source,
    cell_extent,
    file_view,
    frame_interval,
    sliced_in_place,
)
from dpot_scale.data.store.open_files import open_hdf5
from dpot_scale.data.store.shards import CHANNEL, TIME, TRAJECTORY
from dpot_scale.errors import DataError

VELOCITIES = {"Vx": "vx", "Vy": "vy", "Vz": "vz"}
ONE_DIMENSION = {"tensor", "Vx"}  # beside the coordinates
# In the reference's order, which is another one in three dimensions than in two.
SCALARS = {2: ("density", "pressure"), 3: ("pressure", "density")}


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """One of the two sets with a group per seed."""

    name: str  # in the catalogue
    format: str
    equation: str
    channels: tuple[str, ...]
    boundary: str
    axes: tuple[str, ...]  # on disk


# By the number of fields.
KINDS = {
    1: _Kind(
        name="swe_pdb",
        format="PDEBench shallow water",
        equation="shallow water, radial dam break",
        channels=("h",),
        boundary="open",
        axes=(TIME, "x", "y", CHANNEL),
    ),
    2: _Kind(
        name="dr_pdb",
        format="PDEBench diffusion-reaction",
        equation="diffusion-reaction, FitzHugh-Nagumo",
        channels=("u", "v"),
        boundary="zero flux",
        axes=(TIME, "y", "x", CHANNEL),
    ),
}


def recognise(path: Path, *, paper: bool) -> list[Source | DataError]:
    """Return the file as a source if its HDF5 groups are the numbers of seeds.

    Groups that are not what they should be are left out and named in a DataError beside the source.

    Raises:
        DataError: they are, but most of them are not what they should be; or the file is of one
            space dimension.
    """
    if not h5py.is_hdf5(path):
        return []
    with open_hdf5(path) as file:
        if has_seeds(file):
            groups, left_out = sound_groups(path, file)
            return [_seeds_source(path, file, groups, paper=paper), *left_out]
        if {"Vx", "Vy", *SCALARS[2]} <= file.keys():
            return [_flow_source(path, file)]
        if "x-coordinate" in file and "y-coordinate" not in file and ONE_DIMENSION & file.keys():
            raise DataError(
                f"{path} holds PDEBench's data of one space dimension; only two and three are "
                "imported"
            )
    return []


def _seeds_source(path: Path, file: h5py.File, groups: Sequence[str], *, paper: bool) -> Source:
    shape = file[groups[0]][DATA].shape
    if len(shape) != 4 or shape[-1] not in KINDS:
        raise DataError(
            f"{path}: {DATA} of group {groups[0]} has shape {shape}; expected (T, space, space, C) "
            "with C = 1 (shallow water) or 2 (diffusion-reaction)"
        )
    kind = KINDS[shape[-1]]
    # The reference keeps the order of the file.
    spatial_axes = kind.axes[1:3] if paper else ("x", "y")
    size = dict(zip(kind.axes, shape, strict=True))
    times, x, y = grids_of(file[groups[0]])
    extent = _domain_length(path, {"x": x, "y": y}, size)
    views = [
        file_view(
            path,
            [(f"{group}/{DATA}", kind.axes)],
            spatial_axes=spatial_axes,
            trajectories=1,
            frames=size[TIME],
        )
        for group in groups
    ]
    return Source(
        **sliced_in_place(views),
        path=path,
        format=kind.format,
        candidates=(kind.name,),
        equation=kind.equation,
        channels=kind.channels,
        grid=tuple(size[axis] for axis in spatial_axes),
        domain_length=tuple(extent[axis] for axis in spatial_axes),
        frame_interval=frame_interval(times, size[TIME], path),
        boundary=kind.boundary,
        value_bytes=file[groups[0]][DATA].dtype.itemsize,
        parameters={"seed": np.array([int(group) for group in groups])},
    )


def _domain_length(
    path: Path, centres: dict[str, NDArray[Any]], size: dict[str, int]
) -> dict[str, float]:
    """Return the extent of each axis from its cell centres."""
    points = {axis: len(values) for axis, values in centres.items()}
    of_data = {axis: size[axis] for axis in centres}
    if points != of_data or min(points.values()) < 2:
        raise DataError(
            f"{path}: the grid has {list(points.values())} points ({', '.join(points)}), the data "
            f"{list(of_data.values())}"
        )
    return {axis: cell_extent(values) for axis, values in centres.items()}


def _flow_source(path: Path, file: h5py.File) -> Source:
    velocities = [name for name in VELOCITIES if name in file]
    spatial_axes = ("x", "y", "z")[: len(velocities)]
    names = [*velocities, *SCALARS[len(spatial_axes)]]
    shape = _flow_shape(path, file, names, len(spatial_axes))
    trajectories, frames, *grid = shape
    size = dict(zip(spatial_axes, grid, strict=True))
    centres = {axis: _coordinate(path, file, axis) for axis in spatial_axes}
    axes = (TRAJECTORY, TIME, *spatial_axes)
    view = file_view(
        path,
        [(name, axes) for name in names],
        spatial_axes=spatial_axes,
        trajectories=trajectories,
        frames=frames,
    )
    mach, eta, zeta = (_attribute(file, name) for name in ("M", "eta", "zeta"))
    return Source(
        **sliced_in_place([view]),
        path=path,
        format=f"PDEBench compressible flow, {len(spatial_axes)}D",
        candidates=_flow_names(file, len(spatial_axes), mach, eta, zeta),
        equation=f"compressible Navier-Stokes, M={mach}, eta={eta}, zeta={zeta}",
        channels=tuple(VELOCITIES.get(name, name) for name in names),
        grid=tuple(grid),
        domain_length=tuple(_domain_length(path, centres, size).values()),
        frame_interval=frame_interval(_coordinate(path, file, "t")[:frames], frames, path),
        boundary="periodic",
        value_bytes=file[names[0]].dtype.itemsize,
    )


def _flow_shape(
    path: Path, file: h5py.File, names: Sequence[str], space_dims: int
) -> tuple[int, ...]:
    """Return the shape (N, T, *space) that all fields have."""
    shapes = {name: tuple(getattr(file[name], "shape", ())) for name in names}
    shape = shapes[names[0]]
    if set(shapes.values()) != {shape} or len(shape) != 2 + space_dims or 0 in shape:
        raise DataError(
            f"{path}: the fields have shapes {shapes}; expected one shape (N, T, "
            f"{', '.join('xyz'[:space_dims])})"
        )
    return shape


def _coordinate(path: Path, file: h5py.File, axis: str) -> NDArray[Any]:
    name = f"{axis}-coordinate"
    if name not in file:
        raise DataError(f"{path} has no {name}; download it again")
    return np.asarray(file[name], dtype=np.float64)


def _attribute(file: h5py.File, name: str) -> str | None:
    """Return a parameter of the equations as the names of datasets write it: 1, 1e-1, 1e-8."""
    if name not in file.attrs:
        return None
    value = float(file.attrs[name])
    mantissa, _, exponent = f"{value:.5e}".partition("e")
    digits = mantissa.rstrip("0").rstrip(".")
    return digits if int(exponent) == 0 else f"{digits}e{int(exponent)}"


def _flow_names(
    file: h5py.File, space_dims: int, mach: str | None, eta: str | None, zeta: str | None
) -> tuple[str, ...]:
    """Return the name of the set; nothing if the file has lost its attributes.

    Those of the paper are 2D with random initial states.
    """
    if mach is None or eta is None or zeta is None:
        return ()
    name = f"ns{space_dims}d_pdb_M{mach}_eta{eta}_zeta{zeta}"
    kind = "turb" if _is_turbulence(file) else "rand"
    return (name,) if name in CATALOG and kind == "rand" else (f"{name}_{kind}",)


def _is_turbulence(file: h5py.File) -> bool:
    """Return whether the first state is one of decaying turbulence: density 1, even pressure."""
    density, pressure = file["density"][0, 0], file["pressure"][0, 0]
    return bool(np.all(density == 1.0) and np.ptp(pressure) <= 1e-5 * abs(pressure).max())
