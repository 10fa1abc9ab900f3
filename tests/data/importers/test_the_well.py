"""The Well's layout: scalars, vectors, fields without time, and the splits of its folders."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from dpot_scale.data.importers.formats import recognise
from dpot_scale.data.store.dataset import open_store
from dpot_scale.errors import DataError


@pytest.fixture
def release(tmp_path: Path, write_well) -> Path:
    folder = tmp_path / "porous_flow" / "data"
    for seed, split in enumerate(("train", "valid", "test")):
        write_well(folder / split / f"porous_flow_alpha_{seed}.hdf5", seed=seed)
    return folder


def test_fields_become_channels(release: Path, tmp_path: Path, import_files, stored) -> None:
    imported = import_files(tmp_path / "out", release)
    assert (imported.folder.name, imported.train, imported.test) == ("porous_flow", 2, 2)
    info = open_store(tmp_path / "out", "porous_flow").info
    assert info.channels == ("density", "velocity_x", "velocity_y", "permeability")
    assert info.scored == (True, True, True, False)
    assert (info.grid, info.domain_length, info.frame_interval) == ((6, 4), (1.0, 1.0), 0.1)
    test = stored(tmp_path / "out", "porous_flow", "test")
    with h5py.File(release / "test" / "porous_flow_alpha_2.hdf5") as file:
        velocity = np.moveaxis(file["t1_fields/velocity"][()], -1, 2)
        permeability = file["t0_fields/permeability"][()]
        np.testing.assert_array_equal(test[:, :, 0], file["t0_fields/density"][()])
    np.testing.assert_array_equal(test[:, :, 1:3], velocity)
    np.testing.assert_array_equal(test[:, :, 3], permeability[:, None].repeat(5, axis=1))


def test_a_field_without_time_is_stored_once(release: Path, tmp_path: Path, import_files) -> None:
    import_files(tmp_path / "out", release)
    with h5py.File(tmp_path / "out" / "porous_flow" / "train" / "shard-00000.h5") as shard:
        assert shard["fields"].shape == (2, 5, 3, 6, 4)
        assert shard["constants"].shape == (2, 1, 6, 4)


def test_the_valid_files_are_a_split_and_in_the_paper_trained_on_last(
    release: Path, tmp_path: Path, import_files, stored
) -> None:
    imported = import_files(tmp_path / "ours", release)
    assert imported.trajectories() == {"train": 2, "valid": 2, "test": 2}
    imported = import_files(tmp_path / "paper", release, paper=True)
    assert imported.trajectories() == {"train": 4, "valid": 0, "test": 2}
    trained = stored(tmp_path / "paper", "porous_flow", "train")
    for split, rows in (("train", slice(0, 2)), ("valid", slice(2, 4))):
        (path,) = (release / split).iterdir()
        with h5py.File(path) as content:
            density = content["t0_fields/density"][()]
        np.testing.assert_array_equal(trained[rows, :, 0], density)
        ours = stored(tmp_path / "ours", "porous_flow", split)
        np.testing.assert_array_equal(ours[:, :, 0], density)


def test_a_mask_of_unknown_meaning_is_a_coefficient(
    release: Path, tmp_path: Path, import_files
) -> None:
    """As that of helmholtz_staircase, where 6.5 % of the points are 1."""
    for path in release.glob("*/*.hdf5"):
        with h5py.File(path, "r+") as file:
            file.move("t0_fields/permeability", "t0_fields/mask")
            file["t0_fields/mask"][...] = np.arange(24).reshape(6, 4) == 7
    import_files(tmp_path / "out", release)
    info = open_store(tmp_path / "out", "porous_flow").info
    assert info.channels[-1] == "mask"
    assert info.fluid_mask == ""
    assert info.coefficient == (False, False, False, True)


def test_a_field_of_all_trajectories_is_given_to_each(tmp_path: Path, write_well) -> None:
    path = write_well(tmp_path / "train" / "a.hdf5")
    with h5py.File(path, "r+") as file:
        field = file["t0_fields/permeability"][0]
        del file["t0_fields/permeability"]
        file["t0_fields/permeability"] = field
        file["t0_fields/permeability"].attrs.update(sample_varying=False, time_varying=False)
    (source,) = recognise(path)
    fields_NTCxy = source.read(slice(0, 2), slice(1, 3))
    assert fields_NTCxy.shape == (2, 2, 4, 6, 4)
    np.testing.assert_array_equal(fields_NTCxy[:, :, 3], np.broadcast_to(field, (2, 2, 6, 4)))


def test_tensors_are_left_out_and_named(release: Path) -> None:
    (source,) = recognise(release / "train" / "porous_flow_alpha_0.hdf5")
    assert source.describe().startswith("The Well, porous_flow (without its tensors stress): 2 tra")


def remove_attribute(file: h5py.File) -> None:
    del file["t0_fields/density"].attrs["time_varying"]


def remove_time(file: h5py.File) -> None:
    del file["dimensions/time"]


def varying_along_x_alone(file: h5py.File) -> None:
    file["t0_fields/density"].attrs["dim_varying"] = [True, False]


def another_count(file: h5py.File) -> None:
    file.attrs["n_trajectories"] = 3


def axis_of_each(file: h5py.File) -> None:
    del file["dimensions/x"]
    file["dimensions/x"] = np.stack([np.arange(6.0), 2 * np.arange(6.0)])


def no_order(file: h5py.File) -> None:
    file["dimensions/y"][:] = 1


def other_times(file: h5py.File) -> None:
    del file["dimensions/time"]
    file["dimensions/time"] = np.arange(4.0)


def nothing_varies(file: h5py.File) -> None:
    del file["t0_fields/density"], file["t1_fields/velocity"]


def points_outside(file: h5py.File) -> None:
    file.attrs["dataset_name"] = "../../elsewhere"


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (points_outside, "'../../elsewhere', which cannot be the name of a folder"),
        (remove_attribute, "is not quite in The Well's layout .*time_varying"),
        (remove_time, "is not quite in The Well's layout .*time"),
        (
            varying_along_x_alone,
            r"t0_fields/density of shape .* does not have the axes .*, y \(1\)",
        ),
        (another_count, r"t0_fields/density of shape .* the axes trajectory \(3\), time \(5\), x"),
        (axis_of_each, "differs from trajectory to trajectory"),
        (no_order, "has points that do not lie in order"),
        (other_times, "has 4 times for 2 trajectories of 5 frames"),
        (nothing_varies, "has no field that changes in time"),
    ],
)
def test_what_does_not_fit(damage, sentence: str, tmp_path: Path, write_well) -> None:
    path = write_well(tmp_path / "train" / "a.hdf5")
    with h5py.File(path, "r+") as file:
        damage(file)
    with pytest.raises(DataError, match=rf"a\.hdf5.*{sentence}"):
        recognise(path)
