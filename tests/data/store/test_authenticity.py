"""PDEBench's files begin as their seeds say; others that claim to be theirs do not."""

import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest

from dpot_scale.data.importers.formats import recognise
from dpot_scale.data.importers.importing import Options, import_dataset
from dpot_scale.data.store.dataset import LINKED, DatasetStore, open_store
from dpot_scale.data.store.verify import verify_dataset

UPSTREAM = Path(__file__).parents[2] / "upstream"
FILES = {
    "dr_pdb": UPSTREAM / "pdebench_diffusion_reaction.h5",
    "swe_pdb": UPSTREAM / "pdebench_shallow_water.h5",
}


def imported(name: str, file: Path, root: Path, *, link: bool, paper: bool) -> DatasetStore:
    options = Options(root, name, link, paper)
    import_dataset(recognise(file, paper=paper), options, progress=lambda *_: None)
    return open_store(root, name)


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("paper", [False, True])
@pytest.mark.parametrize("name", FILES)
def test_genuine_files_pass(name: str, paper: bool, link: bool, tmp_path: Path) -> None:
    store = imported(name, FILES[name], tmp_path, link=link, paper=paper)
    assert verify_dataset(store).problems == []


def swap(file: h5py.File) -> None:
    file.move("0000", "kept")
    file.move("0001", "0000")
    file.move("kept", "0001")


def rename(file: h5py.File) -> None:
    """Seed 4 draws a radius that covers more cells."""
    file.move("0001", "0004")


def exchange_axes(file: h5py.File) -> None:
    for group in file.values():
        group["data"][...] = group["data"][()].swapaxes(1, 2)


@pytest.mark.parametrize(
    ("name", "damage", "number", "places"),
    [
        ("dr_pdb", swap, 2, "train 0 of seed 0; test 0 of seed 1"),
        ("dr_pdb", exchange_axes, 2, "train 0 of seed 0; test 0 of seed 1"),
        ("swe_pdb", rename, 1, "test 0 of seed 4"),
    ],
)
@pytest.mark.parametrize("link", [False, True])
def test_groups_that_are_not_of_their_seed_are_found(
    name: str,
    damage: Callable[[h5py.File], None],
    number: int,
    places: str,
    link: bool,
    tmp_path: Path,
) -> None:
    path = Path(shutil.copy(FILES[name], tmp_path / "download"))
    with h5py.File(path, "r+") as file:
        damage(file)
    (problem,) = verify_dataset(imported(name, path, tmp_path, link=link, paper=False)).problems
    assert problem == f"{number} trajectories do not begin as PDEBench draws them ({places})"


def test_a_dataset_of_ones_own_name_is_not_held_to_the_seeds(tmp_path: Path) -> None:
    path = Path(shutil.copy(FILES["dr_pdb"], tmp_path / "download"))
    with h5py.File(path, "r+") as file:
        swap(file)
    store = imported("mine", path, tmp_path, link=False, paper=False)
    assert verify_dataset(store).problems == []


def test_seeds_that_cannot_be_read_are_a_problem(tmp_path: Path) -> None:
    path = Path(shutil.copy(FILES["swe_pdb"], tmp_path / "download"))
    store = imported("swe_pdb", path, tmp_path, link=True, paper=False)
    (store.folder / LINKED).write_bytes(b"")
    (problem,) = verify_dataset(store).problems
    assert problem.startswith(f"cannot read {store.folder / LINKED} (")
