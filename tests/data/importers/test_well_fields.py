"""Fields of The Well: axes that are absent or have one point, tensors, and numbers beside them."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from dpot_scale.data.importers.formats import recognise
from dpot_scale.data.store.dataset import open_store

N, T, GRID = 2, 5, (6, 4)


def put(path: Path, name: str, values: np.ndarray, **attributes: object) -> None:
    """Put another field into a file."""
    with h5py.File(path, "r+") as file:
        if name in file:
            del file[name]
        file[name] = values.astype(np.float32)
        varying = {"sample_varying": True, "time_varying": True, "dim_varying": [True, True]}
        file[name].attrs.update(varying | attributes)


# The shape of an array, whether it varies by trajectory, in time and along each axis, and the
# shape that can be broadcast to (N, T, x, y).
PARTLY = {
    "an axis of one point": ((N, T, 6, 1), True, True, (True, False), (N, T, 6, 1)),
    "an absent axis": ((N, T, 6), True, True, (True, False), (N, T, 6, 1)),
    "the first axis absent": ((N, T, 4), True, True, (False, True), (N, T, 1, 4)),
    "both axes absent": ((N, T), True, True, (False, False), (N, T, 1, 1)),
    "the same in all trajectories": ((T, 6, 1), False, True, (True, False), (1, T, 6, 1)),
    "a constant profile": ((4,), False, False, (False, True), (1, 1, 1, 4)),
    "a constant of each trajectory": ((N, 1, 4), True, False, (False, True), (N, 1, 1, 4)),
}


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("kind", PARTLY)
def test_a_field_that_does_not_vary_along_an_axis_is_broadcast(
    kind: str, link: bool, tmp_path: Path, write_well, import_files, stored
) -> None:
    shape, sample_varying, time_varying, dim_varying, wide = PARTLY[kind]
    expected = {}
    for seed, split in enumerate(("train", "test")):
        path = write_well(tmp_path / "in" / split / "a.hdf5", seed=seed, constant=False)
        values = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
        put(
            path,
            "t0_fields/forcing",
            values,
            sample_varying=sample_varying,
            time_varying=time_varying,
            dim_varying=dim_varying,
        )
        expected[split] = np.broadcast_to(values.reshape(wide), (N, T, *GRID))
    import_files(tmp_path / "out", tmp_path / "in", link=link)
    info = open_store(tmp_path / "out", "porous_flow").info
    channel = info.channels.index("forcing")
    assert info.scored[channel] == time_varying
    for split, values in expected.items():
        found = stored(tmp_path / "out", "porous_flow", split)
        np.testing.assert_array_equal(found[:, :, channel], values)


def test_a_vector_may_be_constant_along_an_axis(tmp_path: Path, write_well) -> None:
    path = write_well(tmp_path / "train" / "a.hdf5")
    values = np.random.default_rng(1).standard_normal((N, T, 1, 4, 2)).astype(np.float32)
    put(path, "t1_fields/velocity", values, dim_varying=[False, True])
    (source,) = recognise(path)
    fields = source.read(slice(0, N), slice(0, T))
    expected = np.broadcast_to(np.moveaxis(values, -1, 2), (N, T, 2, *GRID))
    np.testing.assert_array_equal(fields[:, :, 1:3], expected)


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("link", [False, True])
def test_the_components_of_tensors_are_channels_on_request(
    flat: bool, link: bool, tmp_path: Path, write_well, import_files, stored
) -> None:
    for seed, split in enumerate(("train", "test")):
        path = write_well(tmp_path / "in" / split / "a.hdf5", seed=seed)
        with h5py.File(path) as file:
            tensor = file["t2_fields/stress"][()]
        if flat:
            put(path, "t2_fields/stress", tensor.reshape(N, T, *GRID, 4))
    import_files(tmp_path / "out", tmp_path / "in", link=link, tensors=True)
    info = open_store(tmp_path / "out", "porous_flow").info
    names = ("stress_xx", "stress_xy", "stress_yx", "stress_yy")
    assert info.channels == ("density", "velocity_x", "velocity_y", *names, "permeability")
    test = stored(tmp_path / "out", "porous_flow", "test")
    for channel, (row, column) in enumerate(np.ndindex(2, 2), start=3):
        np.testing.assert_array_equal(test[:, :, channel], tensor[..., row, column])


def test_other_components_are_numbered(tmp_path: Path, write_well) -> None:
    path = write_well(tmp_path / "train" / "a.hdf5", constant=False)
    put(path, "t1_fields/species", np.ones((N, T, *GRID, 3)))
    put(path, "t2_fields/stress", np.ones((N, T, *GRID, 3)))
    (source,) = recognise(path)
    assert source.with_tensors is not None
    assert source.with_tensors.channels == (
        "density",
        *("species_0", "species_1", "species_2"),
        *("velocity_x", "velocity_y"),
        *("stress_0", "stress_1", "stress_2"),
    )


def test_the_order_in_which_fields_were_written_does_not_matter(
    tmp_path: Path, import_files, stored
) -> None:
    """Files may keep the order of writing, and differ in it."""
    values = {}
    for split, order in (("train", ("pressure", "density")), ("test", ("density", "pressure"))):
        path = tmp_path / "in" / split / "a.hdf5"
        path.parent.mkdir(parents=True)
        with h5py.File(path, "w", track_order=True) as file:
            file.attrs.update(dataset_name="gas", n_trajectories=N)
            for group in ("t0_fields", "t1_fields", "dimensions"):
                file.create_group(group, track_order=True)
            for number, name in enumerate(order):
                values[split, name] = np.random.default_rng(number).random((N, T, 6, 4))
                file[f"t0_fields/{name}"] = values[split, name].astype(np.float32)
                file[f"t0_fields/{name}"].attrs.update(
                    sample_varying=True, time_varying=True, dim_varying=[True, True]
                )
            file["dimensions"].attrs["spatial_dims"] = ["x", "y"]
            file["dimensions/time"] = np.arange(T)
            file["dimensions/x"], file["dimensions/y"] = np.arange(6.0), np.arange(4.0)
    import_files(tmp_path / "out", tmp_path / "in")
    for split in ("train", "test"):
        found = stored(tmp_path / "out", "gas", split)
        for channel, name in enumerate(("density", "pressure")):
            expected = values[split, name].astype(np.float32)
            np.testing.assert_array_equal(found[:, :, channel], expected)


@pytest.mark.parametrize("link", [False, True])
def test_scalars_are_parameters_and_series(
    link: bool, tmp_path: Path, write_well, import_files
) -> None:
    scalars = {
        "gamma": (1.4, False, False),
        "mach": (np.array([0.5, 0.7]), True, False),
        "gravity": (np.array([0.0, -9.8]), False, False),  # a vector of one value each
        "energy": (np.arange(10.0).reshape(N, T), True, True),
        "drive": (np.arange(5.0), False, True),
        "author": (np.bytes_(b"anon"), False, False),
        "broken": (np.arange(7.0), True, False),
    }
    for split in ("train", "test"):
        path = write_well(tmp_path / "in" / split / "a.hdf5", scalars=scalars)
        with h5py.File(path, "r+") as file:
            file.attrs["alpha"] = 3.0 if split == "train" else 4.0
    import_files(tmp_path / "out", tmp_path / "in", link=link)
    store = open_store(tmp_path / "out", "porous_flow")
    parameters = {name: list(values) for name, values in store.parameters("train").items()}
    assert parameters == {
        "alpha": [3.0, 3.0],
        "gamma": [1.4, 1.4],
        "mach": [0.5, 0.7],
        "gravity_0": [0.0, 0.0],
        "gravity_1": [-9.8, -9.8],
    }
    assert list(store.parameters("test")["alpha"]) == [4.0, 4.0]
    series = store.series("test", 1)
    assert sorted(series) == ["drive", "energy"]
    np.testing.assert_array_equal(series["energy"], np.arange(5.0, 10.0))
    np.testing.assert_array_equal(series["drive"], np.arange(5.0))
    (source,) = recognise(path)
    assert (
        "left out, being neither a number of a trajectory nor of a frame: author, broken"
        in source.notes
    )


def test_a_parameter_that_a_file_lacks_is_no_number_there(
    tmp_path: Path, write_well, import_files
) -> None:
    write_well(tmp_path / "in/train/a.hdf5", scalars={"mach": (0.5, False, False)})
    write_well(tmp_path / "in/train/b.hdf5", seed=1, scalars={"eta": (2.0, False, False)})
    write_well(tmp_path / "in/test/a.hdf5", seed=2)
    import_files(tmp_path / "out", tmp_path / "in")
    store = open_store(tmp_path / "out", "porous_flow")
    found = store.parameters("train")
    np.testing.assert_array_equal(found["mach"], [0.5, 0.5, np.nan, np.nan])
    np.testing.assert_array_equal(found["eta"], [np.nan, np.nan, 2.0, 2.0])
    np.testing.assert_array_equal(store.parameters("test")["eta"], [np.nan, np.nan])
