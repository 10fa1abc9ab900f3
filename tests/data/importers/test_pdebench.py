"""PDEBench files: one group per seed, compressible flow, axis orders, and what can be wrong."""

import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from dpot_scale.data.generation.solvers.reaction_diffusion import initial_noise
from dpot_scale.data.importers import transfer
from dpot_scale.data.importers.formats import recognise as recognise_all
from dpot_scale.data.importers.importing import Imported, Options, import_dataset
from dpot_scale.data.importers.source import Source
from dpot_scale.data.published import PDEBENCH
from dpot_scale.data.store.dataset import open_store
from dpot_scale.errors import DataError

UPSTREAM = Path(__file__).parents[2] / "upstream"
DIFFUSION_REACTION = UPSTREAM / "pdebench_diffusion_reaction.h5"
SHALLOW_WATER = UPSTREAM / "pdebench_shallow_water.h5"


def left_over(root: Path) -> list[Path]:
    """What is in a folder of datasets but for its lock."""
    return [path for path in root.glob("*") if path.name != ".lock"]


def recognise(path: Path) -> Source:
    (found,) = recognise_all(path)
    if isinstance(found, DataError):
        raise found
    return found


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
    monkeypatch.setattr(transfer, "BLOCK_BYTES", 3 * 2 * 3 * 3 * 4)
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


def flow_fields(path: Path, *names: str) -> np.ndarray:
    with h5py.File(path) as file:
        return np.stack([file[name][()] for name in names], axis=2)


@pytest.mark.parametrize(
    ("mach", "viscosity", "name"),
    [
        (1.0, 0.1, "ns2d_pdb_M1_eta1e-1_zeta1e-1"),
        (1.0, 0.01, "ns2d_pdb_M1_eta1e-2_zeta1e-2"),
        (0.1, 0.1, "ns2d_pdb_M1e-1_eta1e-1_zeta1e-1"),
        (0.1, 0.01, "ns2d_pdb_M1e-1_eta1e-2_zeta1e-2"),
    ],
)
def test_flow_is_named_by_its_attributes(
    mach: float, viscosity: float, name: str, tmp_path: Path, write_flow
) -> None:
    file = write_flow(tmp_path / "164687", M=mach, eta=viscosity, zeta=viscosity)
    assert recognise(file).candidates == (name,)


def test_flow_in_2d(tmp_path: Path, write_flow, stored) -> None:
    file = write_flow(tmp_path / "164691", M=1.0, eta=0.1, zeta=0.1, trajectories=20)
    imported = run_import(file, tmp_path)
    assert (imported.train, imported.test, imported.frames) == (18, 2, 5)
    name = "ns2d_pdb_M1_eta1e-1_zeta1e-1"
    info = open_store(tmp_path, name).info
    assert info.channels == ("vx", "vy", "density", "pressure")
    assert (info.grid, info.domain_length, info.boundary) == ((6, 4), (1.0, 1.0), "periodic")
    assert info.frame_interval == 0.05, "of the five frames; the file has a sixth time"
    expected = flow_fields(file, "Vx", "Vy", "density", "pressure")
    np.testing.assert_array_equal(stored(tmp_path, name, "train"), expected[:18])
    np.testing.assert_array_equal(stored(tmp_path, name, "test"), expected[18:])


@pytest.mark.parametrize("kind", ["rand", "turb"])
@pytest.mark.parametrize("space", [2, 3])
def test_random_and_turbulent_flow_differ_in_their_first_state(
    space: int, kind: str, tmp_path: Path, write_flow
) -> None:
    file = write_flow(tmp_path / "a", space=space, kind=kind)
    assert recognise(file).candidates == (f"ns{space}d_pdb_M1_eta1e-8_zeta1e-8_{kind}",)


def test_in_3d_the_pressure_comes_before_the_density(tmp_path: Path, write_flow, stored) -> None:
    file = write_flow(tmp_path / "164693", space=3)
    run_import(file, tmp_path)
    name = "ns3d_pdb_M1_eta1e-8_zeta1e-8_rand"
    info = open_store(tmp_path, name).info
    assert info.channels == ("vx", "vy", "vz", "pressure", "density")
    assert info.spatial_axes == ("x", "y", "z")
    expected = flow_fields(file, "Vx", "Vy", "Vz", "pressure", "density")
    np.testing.assert_array_equal(stored(tmp_path, name, "test"), expected[3:])


def test_a_trajectory_larger_than_memory_is_copied_in_pieces(
    tmp_path: Path, write_flow, stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_flow(tmp_path / "164693", space=3)
    expected = run_import(file, tmp_path / "whole").folder.name
    frame = 5 * 6 * 4 * 5 * 4
    monkeypatch.setattr(transfer, "LONG_BYTES", 4 * frame)
    monkeypatch.setattr(transfer, "BLOCK_BYTES", 2 * frame)
    run_import(file, tmp_path / "pieces")
    store = open_store(tmp_path / "pieces", expected)
    assert [shard.trajectories for shard in store.shards["train"]] == [1, 1, 1]
    for split in ("train", "test"):
        np.testing.assert_array_equal(
            stored(tmp_path / "pieces", expected, split),
            stored(tmp_path / "whole", expected, split),
        )
    whole = open_store(tmp_path / "whole", expected).statistics
    np.testing.assert_allclose(store.statistics.std, whole.std, rtol=1e-12)


def test_flow_in_double_precision(tmp_path: Path, write_flow, stored) -> None:
    """Read in blocks of half as many trajectories, stored in single precision."""
    file = write_flow(tmp_path / "a", M=1.0, eta=0.1, zeta=0.1)
    frame_bytes = recognise(file).frame_bytes
    with h5py.File(file, "r+") as content:
        for name in ("Vx", "Vy", "density", "pressure"):
            values = content[name][()].astype(np.float64) / 3
            del content[name]
            content[name] = values
    assert recognise(file).frame_bytes == 2 * frame_bytes
    name = run_import(file, tmp_path).folder.name
    expected = flow_fields(file, "Vx", "Vy", "density", "pressure").astype(np.float32)
    np.testing.assert_array_equal(stored(tmp_path, name, "train"), expected[:3])


def test_flow_that_lost_its_attributes_needs_a_name(tmp_path: Path, write_flow) -> None:
    file = write_flow(tmp_path / "a")
    with h5py.File(file, "r+") as content:
        del content.attrs["eta"]
    with pytest.raises(DataError, match="does not tell which dataset it is"):
        run_import(file, tmp_path)
    assert run_import(file, tmp_path, "mine").folder.name == "mine"


def no_velocity_in_y(file: h5py.File) -> None:
    del file["Vy"]


def other_trajectories(file: h5py.File) -> None:
    del file["Vy"]
    file["Vy"] = np.zeros((3, 5, 6, 4), np.float32)


def flat(file: h5py.File) -> None:
    for name in ("Vx", "Vy", "density", "pressure"):
        values = file[name][..., 0]
        del file[name]
        file[name] = values


def no_time(file: h5py.File) -> None:
    del file["t-coordinate"]


def no_trajectories(file: h5py.File) -> None:
    for name in ("Vx", "Vy", "density", "pressure"):
        del file[name]
        file[name] = np.zeros((0, 5, 6, 4), np.float32)


def text(file: h5py.File) -> None:
    for name in ("Vx", "Vy", "density", "pressure"):
        del file[name]
        file[name] = np.full((4, 5, 6, 4), b"a")


def infinite(file: h5py.File) -> None:
    file["pressure"][1, 3, 2, 2] = np.inf


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (no_velocity_in_y, r"is of no known format \(HDF5 with: Vx, density, pressure, t-coord"),
        (other_trajectories, r"the fields have shapes .*; expected one shape \(N, T, x, y\)"),
        (flat, r"expected one shape \(N, T, x, y\)"),
        (no_time, "has no t-coordinate; download it again"),
        (no_trajectories, r"shapes .*\(0, 5, 6, 4\).*; expected one shape"),
        (text, "not real numbers"),
        (infinite, "train trajectory 1 holds NaN or infinite values, first in frame 3"),
    ],
)
def test_bad_flow_is_one_sentence_and_leaves_nothing(
    damage: Callable[[h5py.File], None], sentence: str, tmp_path: Path, write_flow
) -> None:
    bad = write_flow(tmp_path / "bad.h5", M=1.0, eta=0.1, zeta=0.1)
    with h5py.File(bad, "r+") as file:
        damage(file)
    with pytest.raises(DataError, match=sentence) as caught:
        run_import(bad, tmp_path / "data")
    assert str(bad) in str(caught.value)
    assert left_over(tmp_path / "data") == []


@pytest.mark.parametrize("kind", ["rand", "turb"])
@pytest.mark.parametrize("space", [2, 3])
def test_flow_is_called_what_the_catalogue_says(
    kind: str, space: int, tmp_path, write_flow
) -> None:
    source = recognise(write_flow(tmp_path / "164692", space=space, kind=kind))
    (name,) = source.candidates
    published = {entry.becomes.replace("M...", "M1"): entry for entry in PDEBENCH}
    assert published[name].fields == source.channels


@pytest.mark.parametrize("fields", [("tensor",), ("Vx", "density", "pressure")])
def test_data_of_one_space_dimension_are_called_that(fields: tuple[str, ...], tmp_path) -> None:
    path = tmp_path / "1D.hdf5"
    with h5py.File(path, "w") as file:
        for name in fields:
            file[name] = np.zeros((4, 5, 16), np.float32)
        file["x-coordinate"], file["t-coordinate"] = np.arange(16.0), np.arange(6.0)
    with pytest.raises(DataError, match=r"1D\.hdf5 holds PDEBench's data of one space dimension"):
        recognise(path)
