"""PDEBench files: one group per seed, both axis orders, and what can be wrong."""

import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from dpot_scale.data.importers import importing
from dpot_scale.data.importers.formats import recognise as recognise_all
from dpot_scale.data.importers.importing import Imported, Options, import_dataset
from dpot_scale.data.importers.source import Source
from dpot_scale.data.solvers.reaction_diffusion import initial_noise
from dpot_scale.data.store import open_store
from dpot_scale.errors import DataError

UPSTREAM = Path(__file__).parents[2] / "upstream"
DIFFUSION_REACTION = UPSTREAM / "pdebench_diffusion_reaction.h5"
SHALLOW_WATER = UPSTREAM / "pdebench_shallow_water.h5"


def left_over(root: Path) -> list[Path]:
    """What is in a folder of datasets but for its lock."""
    return [path for path in root.glob("*") if path.name != ".lock"]


def recognise(path: Path, *, paper: bool = False) -> Source:
    (source,) = recognise_all(path, paper=paper)
    return source


def run_import(path: Path, root: Path, name: str | None = None) -> Imported:
    return import_dataset([recognise(path)], Options(root, name), progress=lambda *_: None)


def write_groups(path: Path, shapes: dict[str, tuple[int, ...]], **changes: object) -> Path:
    """Write groups in the published layout; values count the trajectories."""
    with h5py.File(path, "w") as file:
        for number, (group, shape) in enumerate(shapes.items()):
            file[f"{group}/data"] = np.full(shape, number, np.float32)
            for axis, points in zip("tyx", shape, strict=False):
                file[f"{group}/grid/{axis}"] = np.arange(points, dtype=np.float32) + 0.5
            for name, value in changes.items():
                file[f"{group}/grid/{name}"][...] = value
    return path


def test_what_the_files_hold() -> None:
    dr, swe = recognise(DIFFUSION_REACTION), recognise(SHALLOW_WATER)
    assert dr.describe() == (
        "PDEBench diffusion-reaction: 2 trajectories of 101 frames of u, v at 32 x 32"
    )
    assert swe.describe() == "PDEBench shallow water: 2 trajectories of 101 frames of h at 32 x 32"
    assert (dr.frame_interval, dr.domain_length) == (0.05, (2.0, 2.0))
    assert (swe.frame_interval, swe.domain_length) == (0.01, (5.0, 5.0))


def test_diffusion_reaction_is_turned_to_x_y(tmp_path: Path) -> None:
    imported = run_import(DIFFUSION_REACTION, tmp_path)
    assert (imported.folder.name, imported.train, imported.test) == ("dr_pdb", 1, 1)
    store = open_store(tmp_path, "dr_pdb")
    assert store.info.spatial_axes == ("x", "y")
    with h5py.File(DIFFUSION_REACTION) as file:
        data_Tyxc = file["0001/data"][()]
    np.testing.assert_array_equal(store.read("test", 0, 0, 101), data_Tyxc.transpose(0, 3, 2, 1))
    # The solver of this project draws the same initial state in its own axes (x, y).
    np.testing.assert_array_equal(store.read("train", 0, 0, 1)[0], initial_noise(0, 32).float())


def test_shallow_water_is_x_y_already(tmp_path: Path) -> None:
    imported = run_import(SHALLOW_WATER, tmp_path)
    assert (imported.folder.name, imported.train, imported.test) == ("swe_pdb", 1, 1)
    with h5py.File(SHALLOW_WATER) as file:
        data_Txyc = file["0000/data"][()]
    window = open_store(tmp_path, "swe_pdb").read("train", 0, 0, 101)
    np.testing.assert_array_equal(window, data_Txyc.transpose(0, 3, 1, 2))


def test_a_grid_that_is_not_square(tmp_path: Path) -> None:
    """(T, y, x, C) with 6 points in y and 4 in x."""
    file = write_groups(tmp_path / "a", {"0000": (3, 6, 4, 2), "0001": (3, 6, 4, 2)})
    source = recognise(file)
    assert source.grid == (4, 6)
    assert source.domain_length == (4.0, 6.0)
    assert source.read(slice(0, 2), slice(0, 3)).shape == (2, 3, 2, 4, 6)


def test_groups_are_in_the_order_of_their_numbers_and_the_last_are_for_the_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As text "10000" comes before "9999"; blocks of three cross the boundary of the splits."""
    numbers = [*range(9985, 10005)]
    file = write_groups(tmp_path / "164687", {f"{n:04d}": (2, 3, 3, 1) for n in numbers})
    monkeypatch.setattr(importing, "BLOCK_BYTES", 3 * 2 * 3 * 3 * 4)
    imported = run_import(file, tmp_path)
    assert (imported.train, imported.test) == (18, 2)
    store = open_store(tmp_path, "swe_pdb")
    train = [store.read("train", i, 0, 1).max() for i in range(18)]
    test = [store.read("test", i, 0, 1).max() for i in range(2)]
    assert train + test == list(range(20))
    with h5py.File(store.folder / "test" / "shard-00000.h5") as shard:
        assert list(shard["parameters/seed"]) == [10003, 10004]


def test_the_name_of_the_file_does_not_matter(tmp_path: Path) -> None:
    renamed = tmp_path / "133021.mat"
    shutil.copy(SHALLOW_WATER, renamed)
    assert run_import(renamed, tmp_path).folder.name == "swe_pdb"


def test_a_second_import_does_nothing(tmp_path: Path) -> None:
    assert run_import(SHALLOW_WATER, tmp_path).is_new
    index = tmp_path / "swe_pdb" / "index.json"
    before = index.stat().st_mtime_ns
    renamed = tmp_path / "133021"
    shutil.copy(SHALLOW_WATER, renamed)
    for file in (SHALLOW_WATER, renamed):
        again = run_import(file, tmp_path)
        assert (again.is_new, again.train, again.test) == (False, 1, 1)
    assert index.stat().st_mtime_ns == before


def test_another_file_of_the_same_name_is_refused(tmp_path: Path) -> None:
    run_import(SHALLOW_WATER, tmp_path)
    other = write_groups(tmp_path / "other.h5", {"0000": (2, 3, 3, 1), "0001": (2, 3, 3, 1)})
    with pytest.raises(DataError, match=r"was made from something else .* --name"):
        run_import(other, tmp_path)
    assert run_import(other, tmp_path, "mine").folder.name == "mine"


def no_groups(file: h5py.File) -> None:
    del file["0000"], file["0001"]


def no_data(file: h5py.File) -> None:
    del file["0001/data"]


def no_grid(file: h5py.File) -> None:
    del file["0000/grid/y"]


def other_shape(file: h5py.File) -> None:
    del file["0001/data"]
    file["0001/data"] = np.zeros((100, 32, 32, 1), np.float32)


def other_rank(file: h5py.File) -> None:
    for group in file.values():
        data = group["data"][..., 0]
        del group["data"]
        group["data"] = data


def three_fields(file: h5py.File) -> None:
    for group in file.values():
        del group["data"]
        group["data"] = np.zeros((101, 32, 32, 3), np.float32)


def other_grid(file: h5py.File) -> None:
    for group in file.values():
        del group["data"]
        group["data"] = np.zeros((101, 32, 16, 1), np.float32)


def nan_frame(file: h5py.File) -> None:
    file["0001/data"][77] = np.nan


def uneven_times(file: h5py.File) -> None:
    file["0000/grid/t"][5] = 0.07


def stranger(file: h5py.File) -> None:
    file["readme"] = np.zeros(1)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (no_groups, r"is of no known format \(HDF5 with: nothing\)"),
        (stranger, r"is of no known format \(HDF5 with: 0000, 0001, readme\)"),
        (no_data, "group 0001 holds no data"),
        (no_grid, "group 0000 has no grid/y"),
        (other_shape, r"groups differ in shape, 0000 has .*101.*, 0001 has .*100"),
        (other_rank, r"shape \(101, 32, 32\); expected \(T, space, space, C\)"),
        (three_fields, r"with C = 1 \(shallow water\) or 2"),
        (other_grid, r"the grid has \[32, 32\] points \(x, y\), the data \[32, 16\]"),
        (nan_frame, "test trajectory 0 holds NaN .* first in frame 77"),
        (uneven_times, "not evenly spaced in time"),
    ],
)
def test_a_bad_file_is_one_sentence_and_leaves_nothing(
    damage: Callable[[h5py.File], None], sentence: str, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.h5"
    shutil.copy(SHALLOW_WATER, bad)
    with h5py.File(bad, "r+") as file:
        damage(file)
    with pytest.raises(DataError, match=sentence) as caught:
        run_import(bad, tmp_path / "data")
    assert str(bad) in str(caught.value)
    assert left_over(tmp_path / "data") == []
