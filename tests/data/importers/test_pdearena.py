"""PDEArena: smoke in the published files, its time step and staggering; and the sphere."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from dpot_scale.data.importers.formats import recognise
from dpot_scale.data.importers.importing import recognise_files
from dpot_scale.data.store.dataset import open_store
from dpot_scale.errors import DataError

UPSTREAM = Path(__file__).parents[2] / "upstream"
STANDARD = UPSTREAM / "pdearena"
CONDITIONED = UPSTREAM / "pdearena_conditioned"
TEST = STANDARD / "NavierStokes2D_test_198210_0.50000.h5"
COND_TRAIN = CONDITIONED / "NavierStokes2D_train_198010_0.31416_1.h5"
CUT_OFF = CONDITIONED / "NavierStokes2D_train_496019_0.38774_32.h5"


def smoke(path: Path, group: str) -> np.ndarray:
    """The fields of a published file, (N, T, C, x, y)."""
    with h5py.File(path) as file:
        return np.stack([file[f"{group}/{name}"][()] for name in ("u", "vx", "vy")], axis=2)


def test_the_standard_set(tmp_path: Path, import_files, stored) -> None:
    imported = import_files(tmp_path, STANDARD)
    assert (imported.folder.name, imported.valid, imported.test) == ("ns2d_pda", 1, 1)
    info = open_store(tmp_path, "ns2d_pda").info
    assert info.channels == ("smoke", "vx", "vy")
    assert (info.spatial_axes, info.domain_length) == (("x", "y"), (32.0, 32.0))
    assert info.frame_interval == 6.0, "not 6.46, the distance of the times in the file"
    assert "vx at left faces, vy at lower faces" in info.staggering
    expected = smoke(TEST, "test").astype(np.float32)
    np.testing.assert_array_equal(stored(tmp_path, "ns2d_pda", "test"), expected)


def test_the_conditioned_set_has_a_buoyancy_for_each_trajectory(
    tmp_path: Path, import_files, stored
) -> None:
    test = tmp_path / "NavierStokes2D_test_1_0.25000.h5"
    with h5py.File(COND_TRAIN) as train, h5py.File(test, "w") as file:
        train.copy("train", file, "test")
        file["test/buo_y"][...] = 0.25
    imported = import_files(tmp_path / "data", COND_TRAIN, test)
    assert (imported.folder.name, imported.frames) == ("ns2d_cond_pda", 56)
    store = open_store(tmp_path / "data", "ns2d_cond_pda")
    assert store.info.frame_interval == 1.5
    assert store.parameters("train")["buoyancy"] == [0.31416]
    assert store.parameters("test")["buoyancy"] == [0.25]
    expected = smoke(COND_TRAIN, "train").astype(np.float32)
    np.testing.assert_array_equal(stored(tmp_path / "data", "ns2d_cond_pda", "train"), expected)


def test_the_stored_velocity_is_free_of_divergence_where_the_staggering_says(
    tmp_path: Path, import_files, stored
) -> None:
    import_files(tmp_path, STANDARD)
    fields_TCxy = stored(tmp_path, "ns2d_pda", "test")[0, 2:].astype(np.float64)

    def divergence(vx_Txy: np.ndarray, vy_Txy: np.ndarray) -> float:
        inner_x, inner_y = np.diff(vx_Txy, axis=1), np.diff(vy_Txy, axis=2)
        return float(np.sqrt(np.mean((inner_x[:, :, :-1] + inner_y[:, :-1]) ** 2)))

    vx_Txy, vy_Txy = fields_TCxy[:, 1], fields_TCxy[:, 2]
    assert divergence(vx_Txy, vy_Txy) < 1e-5  # measured 4e-6
    assert divergence(vx_Txy.swapaxes(1, 2), vy_Txy.swapaxes(1, 2)) > 0.1  # measured 0.17


def test_files_are_in_an_order_of_their_own_with_the_validation_last(tmp_path: Path) -> None:
    names = [
        "NavierStokes2D_valid_1_0.50000.h5",
        "NavierStokes2D_train_10_0.50000_1.h5",
        "NavierStokes2D_train_9_0.50000_1.h5",
        "NavierStokes2D_test_1_0.50000.h5",
    ]
    for name in names:
        group = name.split("_")[1]
        with h5py.File(TEST) as original, h5py.File(tmp_path / name, "w") as file:
            original.copy("test", file, group)
    ((*sources,),), problems = recognise_files(sorted(tmp_path.iterdir()), paper=False)
    assert problems == []
    assert [(source.path.name, source.split) for source in sources] == [
        (names[3], "test"),
        (names[2], "train"),
        (names[1], "train"),
        (names[0], "valid"),
    ]


def test_a_file_of_another_grid_is_left_out_and_named(tmp_path: Path) -> None:
    odd = tmp_path / "NavierStokes2D_train_5_0.50000_1.h5"
    with h5py.File(TEST) as original, h5py.File(odd, "w") as file:
        original.copy("test", file, "train")
        for name in ("u", "vx", "vy"):
            del file["train"][name]
            file[f"train/{name}"] = np.zeros((1, 14, 16, 16))
    (sources,), (problem,) = recognise_files([*STANDARD.iterdir(), odd], paper=False)
    assert {source.path for source in sources} == set(STANDARD.iterdir())
    assert str(problem).startswith(f"{odd} is left out of dataset ns2d_pda: ")
    assert "most files have 14 frames at 32 x 32 every 6" in str(problem)


def test_the_file_that_the_release_holds_cut_off(tmp_path: Path) -> None:
    datasets, (problem,) = recognise_files([CUT_OFF, COND_TRAIN], paper=False)
    assert [source.path for source in datasets[0]] == [COND_TRAIN]
    assert str(problem).startswith(f"{CUT_OFF} is a truncated or damaged HDF5 file")


def test_without_a_test_file_there_is_no_dataset(tmp_path: Path, import_files) -> None:
    with pytest.raises(DataError, match="holds no test files of dataset ns2d_cond_pda"):
        import_files(tmp_path, COND_TRAIN)
    assert not (tmp_path / "ns2d_cond_pda").exists()


@pytest.mark.parametrize(
    ("lost", "sentence"),
    [
        ("u", "holds no test/u"),
        ("dt", "group test has no dt of 1 values"),
        ("x", "has no test/x"),
    ],
)
def test_smoke_without_an_array(lost: str, sentence: str, tmp_path: Path) -> None:
    path = shutil.copy(TEST, tmp_path / "lost.h5")
    with h5py.File(path, "r+") as file:
        del file["test"][lost]
    with pytest.raises(DataError, match=rf"lost\.h5.* {sentence}"):
        recognise(path)


def test_steps_that_differ_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "uneven.h5"
    with h5py.File(TEST) as original, h5py.File(path, "w") as file:
        for name, array in original["test"].items():
            file[f"test/{name}"] = np.repeat(array[()], 2, axis=0)
        file["test/dt"][1] = 5.0
    with pytest.raises(DataError, match="the trajectories differ in their time step dt"):
        recognise(path)


def test_shallow_water_on_the_sphere(tmp_path: Path, import_files, stored, write_sphere) -> None:
    release = tmp_path / "ShallowWater-2D"
    for seed, split in enumerate(("train", "train", "valid", "test")):
        write_sphere(release / split / f"seed={seed}" / "run0001" / "output.nc", seed=seed)
    imported = import_files(tmp_path / "data", release)
    assert (imported.folder.name, imported.trajectories()) == (
        "sw2d_pda",
        {"train": 2, "valid": 1, "test": 1},
    )
    info = open_store(tmp_path / "data", "sw2d_pda").info
    assert info.channels == ("u", "v", "div", "vor", "pres")
    assert (info.spatial_axes, info.frame_interval) == (("lat", "lon"), 6.0)
    for row, split, seed in ((0, "train", 0), (1, "train", 1), (0, "valid", 2)):
        found = stored(tmp_path / "data", "sw2d_pda", split)[row]
        with h5py.File(release / split / f"seed={seed}" / "run0001" / "output.nc") as file:
            for channel, name in enumerate(info.channels):
                expected = file[name][()].reshape(6, 6, 8)
                np.testing.assert_array_equal(found[:, channel], expected)


@pytest.mark.parametrize(
    ("attributes", "sentence"),
    [
        ({"scale_factor": 2.0}, r"u is packed \(it has scale_factor\); unpack it first"),
        ({"_FillValue": -999.0}, r"u is packed \(it has _FillValue\)"),
    ],
)
def test_packed_numbers_are_not_taken_for_values(
    attributes: dict[str, float], sentence: str, tmp_path: Path, write_sphere
) -> None:
    path = write_sphere(tmp_path / "train" / "output.nc", **attributes)
    with pytest.raises(DataError, match=sentence):
        recognise(path)


def test_the_sphere_needs_the_published_folders(tmp_path: Path, write_sphere) -> None:
    path = write_sphere(tmp_path / "latest" / "seed=0" / "run0001" / "output.nc")
    with pytest.raises(DataError, match="does not tell by its path whether it is for training"):
        recognise(path)
