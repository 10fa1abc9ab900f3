"""Imports of whole datasets, and small files in the layouts that no genuine file is here for."""

from collections.abc import Callable, Mapping
from pathlib import Path

import h5py
import numpy as np
import pytest

from dpot_scale.data.importers.importing import Imported, Options, import_dataset, recognise_files
from dpot_scale.data.importers.search import find_files
from dpot_scale.data.store.dataset import Split, open_store

ImportFiles = Callable[..., Imported]
Stored = Callable[..., np.ndarray]
Write = Callable[..., Path]


def _import_files(
    root: Path,
    *paths: Path,
    name: str | None = None,
    link: bool = False,
    paper: bool = False,
    tensors: bool = False,
) -> Imported:
    """Import what must be one sound dataset."""
    files, _ = find_files(paths)
    datasets, problems = recognise_files(files, paper=paper, tensors=tensors)
    assert problems == []
    (sources,) = datasets
    return import_dataset(sources, Options(root, name, link, paper), progress=lambda *_: None)


def _stored(root: Path, name: str, split: Split) -> np.ndarray:
    store = open_store(root, name)
    frames = store.num_frames(split)
    rows = range(store.num_trajectories(split))
    return np.stack([store.read(split, row, 0, frames) for row in rows])


def _write_flow(
    path: Path, *, space: int = 2, trajectories: int = 4, kind: str = "rand", **changes: object
) -> Path:
    """Write compressible flow in PDEBench's layout; each field is noise of its own."""
    grid, frames = (6, 4, 5)[:space], 5
    noise = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for name in (*("Vx", "Vy", "Vz")[:space], "density", "pressure"):
            values = noise.standard_normal((trajectories, frames, *grid)).astype(np.float32)
            if kind == "turb" and name == "density":
                values[:, 0] = 1
            if kind == "turb" and name == "pressure":
                values[:, 0] = 0.6
            file[name] = values
        for axis, points in zip("xyz", grid, strict=False):
            cells = (np.arange(points, dtype=np.float32) + 0.5) / points
            file[f"{axis}-coordinate"] = cells
        file["t-coordinate"] = np.arange(frames + 1, dtype=np.float32) * np.float32(0.05)
        for parameter in ("M", "eta", "zeta"):
            file.attrs[parameter] = float(changes.get(parameter, 1e-8 if parameter != "M" else 1.0))
    return path


SPHERE = ("u", "v", "div", "vor", "pres")


def _write_sphere(path: Path, *, seed: int = 0, frames: int = 6, **attributes: object) -> Path:
    """Write shallow water on the sphere as SpeedyWeather's NetCDF 4 file, which is HDF5."""
    grid = {"time": frames, "lev": 1, "lat": 6, "lon": 8}
    noise = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, points in grid.items():
            file[name] = np.arange(points, dtype=np.float32) * (6 if name == "time" else 1)
            file[name].make_scale(name)
        for name in SPHERE:
            axes = [axis for axis in grid if (name, axis) != ("pres", "lev")]
            shape = [grid[axis] for axis in axes]
            array = file.create_dataset(
                name, data=noise.standard_normal(shape).astype(np.float32), compression="gzip"
            )
            for number, axis in enumerate(axes):
                array.dims[number].attach_scale(file[axis])
            array.attrs["_FillValue"] = np.array([np.nan], np.float32)
            array.attrs.update(attributes)
    return path


def _write_well(
    path: Path,
    *,
    seed: int = 0,
    trajectories: int = 2,
    frames: int = 5,
    constant: bool = True,
    name: str = "porous_flow",
    grid: tuple[int, ...] = (6, 4),
    scalar: str = "density",
    times: np.ndarray | None = None,
    points: Mapping[str, np.ndarray] | None = None,
    scalars: Mapping[str, tuple[object, bool, bool]] | None = None,
    walls: tuple[str, ...] = (),
) -> Path:
    """Write a file in The Well's layout: a scalar, a vector, a tensor and a field without time.

    Args:
        path: Where. The folders above it give its split and its dataset.
        seed: Of the values.
        trajectories: N.
        frames: T.
        constant: Whether there is a field without time.
        name: The dataset, in the attributes.
        grid: Points of each axis.
        scalar: The name of the scalar field.
        times: (T,) or (N, T); None: 0.1 apart.
        points: The coordinates of axes that are not cells of a unit length.
        scalars: Values of each name, whether they differ by trajectory, and whether in time.
        walls: The axes between walls; the others are periodic.
    """
    noise, axes, rank = np.random.default_rng(seed), "xyz"[: len(grid)], len(grid)
    fields = {
        f"t0_fields/{scalar}": ((trajectories, frames, *grid), True, True),
        "t1_fields/velocity": ((trajectories, frames, *grid, rank), True, True),
        "t2_fields/stress": ((trajectories, frames, *grid, rank, rank), True, True),
    }
    if constant:
        fields["t0_fields/permeability"] = ((trajectories, *grid), True, False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.attrs.update(
            dataset_name=name,
            grid_type="cartesian",
            n_spatial_dims=rank,
            n_trajectories=trajectories,
            simulation_parameters=["alpha"],
        )
        for group in ("t0_fields", "t1_fields", "t2_fields", "scalars", "dimensions"):
            file.create_group(group)
        for field, (shape, sample_varying, time_varying) in fields.items():
            file[field] = noise.standard_normal(shape).astype(np.float32)
            file[field].attrs["dim_varying"] = [True] * rank
            file[field].attrs["sample_varying"] = sample_varying
            file[field].attrs["time_varying"] = time_varying
        for key, (values, sample_varying, time_varying) in (scalars or {}).items():
            file[f"scalars/{key}"] = values
            file[f"scalars/{key}"].attrs["sample_varying"] = sample_varying
            file[f"scalars/{key}"].attrs["time_varying"] = time_varying
        file["dimensions"].attrs["spatial_dims"] = list(axes)
        even = np.arange(frames, dtype=np.float32) * np.float32(0.1)
        file["dimensions/time"] = even if times is None else times
        for axis, count in zip(axes, grid, strict=True):
            cells = (np.arange(count, dtype=np.float32) + 0.5) / count
            file[f"dimensions/{axis}"] = (points or {}).get(axis, cells)
            kind = "wall" if axis in walls else "periodic"
            group = file.create_group(f"boundary_conditions/{axis}_{kind}")
            group.attrs.update(associated_dims=[axis], bc_type=kind.upper())
            group["mask"] = np.arange(count) % (count - 1) == 0
    return path


@pytest.fixture(scope="session")
def import_files() -> ImportFiles:
    return _import_files


@pytest.fixture(scope="session")
def stored() -> Stored:
    """All trajectories of a split, (N, T, C, *space)."""
    return _stored


@pytest.fixture(scope="session")
def write_flow() -> Write:
    return _write_flow


@pytest.fixture(scope="session")
def write_sphere() -> Write:
    return _write_sphere


@pytest.fixture(scope="session")
def write_well() -> Write:
    return _write_well
