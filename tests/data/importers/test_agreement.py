"""Which files make up a dataset: those of one grid, one geometry and the same fields."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dpot_scale.data.importers import transfer
from dpot_scale.data.importers.collection import import_all
from dpot_scale.data.importers.importing import Options, recognise_files
from dpot_scale.data.importers.search import find_files
from dpot_scale.data.store.dataset import DatasetStore, open_store
from dpot_scale.data.store.open_files import open_hdf5
from dpot_scale.data.store.verify import verify_dataset
from dpot_scale.data.stream.reader import training_windows

SPLITS = ("train", "test")
Write = Callable[..., Path]


@pytest.fixture
def release(tmp_path: Path, write_well: Write) -> Callable[..., Path]:
    """Write a folder of The Well, with a file of each name in both splits."""

    def write(folder: str, *files: str, **options: object) -> Path:
        for split in SPLITS:
            for number, file in enumerate(files or ("a",)):
                path = tmp_path / "in" / folder / "data" / split / f"{file}.hdf5"
                seed = hash((folder, split, number)) % 2**32
                write_well(path, seed=seed, **options)
        return tmp_path / "in"

    return write


def import_them(root: Path, folder: Path, **options: object) -> dict[str, DatasetStore]:
    """Import all there is without a fault; return the datasets."""
    outcome = import_all([folder], Options(root, **options))
    assert outcome.problems == 0
    return {path.name: open_store(root, path.name) for path in root.iterdir() if path.is_dir()}


def first_frame(path: Path, field: str = "t0_fields/density") -> np.ndarray:
    with open_hdf5(path) as file:
        return np.asarray(file[field][0, 0])


@pytest.mark.parametrize("link", [False, True])
def test_two_grids_under_one_name_are_two_datasets(
    link: bool, tmp_path: Path, release, capsys: pytest.CaptureFixture[str]
) -> None:
    """Supernova explosions: unevenly spaced frames, of 8 and of 16 points per axis."""
    uneven = np.array([0.0, 0.1, 0.25, 0.7, 2.0])
    for points in (8, 16):
        folder = f"supernova_explosion_{points}"
        grid = (points,) * 3
        release(folder, grid=grid, name="supernova_explosion", times=uneven, constant=False)
    stores = import_them(tmp_path / "out", tmp_path / "in", link=link)
    assert {name: store.info.grid for name, store in stores.items()} == {
        "supernova_explosion_8": (8, 8, 8),
        "supernova_explosion_16": (16, 16, 16),
    }
    for name, store in stores.items():
        np.testing.assert_array_equal(store.times("train", 1), uneven)
        assert store.info.frame_interval == 0.5
        path = tmp_path / "in" / name / "data/test/a.hdf5"
        np.testing.assert_array_equal(store.read("test", 0, 0, 1)[0, 0], first_frame(path))
        assert verify_dataset(store).problems == []
    lines = capsys.readouterr().out.splitlines()
    notes = [line for line in lines if line.startswith("note: ")]
    assert (
        "note: files of 2 datasets call themselves supernova_explosion; they become "
        "supernova_explosion_16 (16 x 16 x 16), supernova_explosion_8 (8 x 8 x 8); to choose a "
        "name, import the files of one alone with --name"
    ) in notes
    assert "note: frames are not evenly spaced in time; the time of each is kept" in notes


def test_the_name_of_a_dataset_is_the_same_without_the_others(tmp_path: Path, release) -> None:
    release("supernova_explosion_64", name="supernova_explosion")
    assert set(import_them(tmp_path / "out", tmp_path / "in")) == {"supernova_explosion_64"}
    named = import_them(tmp_path / "mine", tmp_path / "in", name="explosions")
    assert set(named) == {"explosions"}


def test_folders_of_any_name_tell_two_kinds_apart(tmp_path: Path, release) -> None:
    for folder, grid in (("coarse", (6, 4)), ("fine", (12, 8))):
        release(folder, grid=grid)
    stores = import_them(tmp_path / "out", tmp_path / "in")
    assert {name: store.info.grid for name, store in stores.items()} == {
        "coarse": (6, 4),
        "fine": (12, 8),
    }


def test_two_grids_in_one_folder_are_named_by_their_grids(tmp_path: Path, release) -> None:
    for file, grid in (("coarse", (6, 4)), ("fine", (12, 8))):
        release("porous_flow", file, grid=grid)
    stores = import_them(tmp_path / "out", tmp_path / "in")
    assert set(stores) == {"porous_flow_6x4", "porous_flow_12x8"}


def chebyshev(points: int) -> np.ndarray:
    return (-np.cos((np.arange(points) + 0.5) * np.pi / points)).astype(np.float32)


def test_chebyshev_and_even_points_are_two_datasets(
    tmp_path: Path, release, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rayleigh-Benard: the same name, fields, grid and time step, between plates two apart."""
    even = ((np.arange(16) + 0.5) / 8 - 1).astype(np.float32)
    for folder, points in (("rayleigh_benard", chebyshev(16)), ("rayleigh_benard_uniform", even)):
        release(folder, name="rayleigh_benard", grid=(8, 16), points={"y": points}, walls=("y",))
    stores = import_them(tmp_path / "out", tmp_path / "in")
    assert set(stores) == {"rayleigh_benard", "rayleigh_benard_uniform"}
    for name, store in stores.items():
        assert store.info.domain_length == (1, 2), name
        assert store.info.boundary == "x periodic, y wall"
    np.testing.assert_allclose(stores["rayleigh_benard"].info.coordinates[1], chebyshev(16))
    lines = capsys.readouterr().out.splitlines()
    (note,) = [line for line in lines if line.startswith("note: axis")]
    assert note.startswith("note: axis y is not uniform: 16 Chebyshev points over a length of 2; ")


def left_out(folder: Path) -> tuple[list[str], list[str]]:
    """Return the names of the datasets of a folder, and what is said of files left out."""
    datasets, problems = recognise_files(find_files([folder])[0], paper=False)
    return [sources[0].candidates[0] for sources in datasets], [str(one) for one in problems]


@pytest.mark.parametrize(
    ("odd", "sentence"),
    [
        (
            {"scalar": "temperature"},
            "its fields are temperature, velocity_x, velocity_y, permeability, where most files "
            "have density, velocity_x, velocity_y, permeability; import it alone and name it with "
            "--name",
        ),
        ({"constant": False}, "its fields are density, velocity_x, velocity_y, where most files "),
        (
            {"walls": ("x",)},
            "its boundaries are x wall, y periodic, where most files have x periodic, y periodic;",
        ),
        (
            {"points": {"y": 2 * chebyshev(4)}},
            "its coordinates are x from 0.0833333 over 0.25 to 0.916667; y from -1.84776 over "
            "-0.765367 to 1.84776, where most files have x",
        ),
    ],
)
def test_a_file_that_is_of_another_kind_is_left_out_and_named(
    odd: dict[str, object], sentence: str, tmp_path: Path, release, write_well
) -> None:
    folder = release("porous_flow")
    path = write_well(folder / "porous_flow/data/train/odd.hdf5", **odd)
    names, (problem,) = left_out(folder)
    assert names == ["porous_flow"]
    assert problem.startswith(f"{path} is left out of dataset porous_flow: {sentence}")


def test_a_file_left_out_can_be_imported_with_its_like(tmp_path: Path, release) -> None:
    """In a folder of its own it is a dataset of its own."""
    release("porous_flow")
    release("warm", scalar="temperature")
    stores = import_them(tmp_path / "out", tmp_path / "in")
    assert {name: store.info.channels[0] for name, store in stores.items()} == {
        "porous_flow": "density",
        "warm": "temperature",
    }


def test_points_in_single_and_in_double_precision_are_the_same(
    tmp_path: Path, release, write_well
) -> None:
    folder = release("porous_flow")
    cells = (np.arange(6) + 0.5) / 6
    write_well(folder / "porous_flow/data/train/b.hdf5", seed=9, points={"x": cells})
    assert left_out(folder) == (["porous_flow"], [])


@pytest.mark.parametrize("link", [False, True])
def test_lengths_and_time_steps_may_differ(
    link: bool, tmp_path: Path, write_well, capsys: pytest.CaptureFixture[str]
) -> None:
    """No two files agree in both; all are kept whole, and windows are cut where they fit."""
    lengths = {"a": (5, 0.1), "b": (9, 0.1), "c": (3, 0.4), "d": (9, 0.2)}
    folder = tmp_path / "in" / "flow" / "data"
    for split in SPLITS:
        for seed, (file, (frames, step)) in enumerate(lengths.items()):
            write_well(
                folder / split / f"{file}.hdf5",
                name="flow",
                seed=seed + 10 * (split == "test"),
                frames=frames,
                times=(np.arange(frames) * step).astype(np.float32),
            )
    (store,) = import_them(tmp_path / "out", tmp_path / "in", link=link).values()
    assert store.lengths("train") == store.lengths("test") == [(2, 5), (2, 9), (2, 3), (2, 9)]
    steps = [step for _, step in lengths.values() for _ in range(2)]
    assert list(store.parameters("train")["frame_interval"]) == steps
    assert store.info.frame_interval == 0.1
    np.testing.assert_allclose(store.times("test", 4), [0, 0.4, 0.8])
    for split in SPLITS:
        for number, file in enumerate(lengths):
            last = lengths[file][0] - 1
            with open_hdf5(folder / split / f"{file}.hdf5") as content:
                expected = content["t0_fields/density"][1, last]
                constant = content["t0_fields/permeability"][1]
            frame = store.read(split, 2 * number + 1, last, 1)[0]
            np.testing.assert_array_equal(frame[0], expected)
            np.testing.assert_array_equal(frame[3], constant)
    assert len(training_windows({"flow": store}, 4)["flow"]) == 2 * (2 + 6 + 0 + 6)
    assert verify_dataset(store).problems == []
    said = capsys.readouterr().out
    assert "16 trajectories of 3 to 9 frames" in said
    assert "note: trajectories differ in length, from 3 to 9 frames; each is kept whole" in said
    assert "note: time steps differ, from 0.1 to 0.4; that of each trajectory is its param" in said


def test_each_trajectory_of_a_file_may_have_its_own_times(
    tmp_path: Path, write_well, import_files
) -> None:
    """`time` of shape (N, T): of two time steps, then of uneven frames."""
    even = np.arange(5) * np.array([[0.1], [0.3]])
    for split in SPLITS:
        write_well(tmp_path / "even" / split / "a.hdf5", seed=len(split), times=even)
        write_well(tmp_path / "uneven" / split / "a.hdf5", seed=len(split), times=even**2)
    import_files(tmp_path / "out", tmp_path / "even", name="even")
    import_files(tmp_path / "out", tmp_path / "uneven", name="uneven")
    store = open_store(tmp_path / "out", "even")
    assert list(store.parameters("test")["frame_interval"]) == [0.1, 0.3]
    assert store.series("test", 1) == {}
    np.testing.assert_allclose(store.times("test", 1), even[1])
    store = open_store(tmp_path / "out", "uneven")
    for trajectory in range(2):
        np.testing.assert_array_equal(store.times("train", trajectory), even[trajectory] ** 2)


def test_long_trajectories_keep_what_lies_beside_them(
    tmp_path: Path, release, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is copied piece by piece, into a shard of its own."""
    monkeypatch.setattr(transfer, "LONG_BYTES", 1)
    uneven = np.array([0.0, 0.1, 0.25, 0.7, 2.0])
    release("porous_flow", times=uneven, scalars={"mach": (np.array([1.0, 2.0]), True, False)})
    (store,) = import_them(tmp_path / "out", tmp_path / "in").values()
    assert [shard.trajectories for shard in store.shards["train"]] == [1, 1]
    assert store.parameters("train")["mach"].tolist() == [1, 2]
    np.testing.assert_array_equal(store.times("train", 1), uneven)


def test_even_files_beside_uneven_ones_have_times_too(
    tmp_path: Path, write_well, import_files
) -> None:
    uneven = np.array([0.0, 0.1, 0.4, 0.5, 0.6])
    write_well(tmp_path / "in/train/a.hdf5", times=uneven)
    write_well(tmp_path / "in/train/b.hdf5", seed=1)
    write_well(tmp_path / "in/test/a.hdf5", seed=2)
    import_files(tmp_path / "out", tmp_path / "in")
    store = open_store(tmp_path / "out", "porous_flow")
    np.testing.assert_array_equal(store.times("train", 0), uneven)
    np.testing.assert_allclose(store.times("train", 3), [0, 0.1, 0.2, 0.3, 0.4])
    np.testing.assert_allclose(store.times("test", 0), [0, 0.1, 0.2, 0.3, 0.4])


def test_tensors_are_another_import_of_the_same_files(
    tmp_path: Path, release, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = release("porous_flow")
    import_them(tmp_path / "out", folder)
    assert (
        "note: --tensors would import each component of stress as a channel"
        in capsys.readouterr().out
    )
    outcome = import_all([folder], Options(tmp_path / "out", tensors=True))
    assert outcome.problems == 1
    assert "was made from something else" in capsys.readouterr().err
    stores = import_them(tmp_path / "out", folder, tensors=True, name="all")
    assert len(stores["all"].info.channels) == len(stores["porous_flow"].info.channels) + 4
