"""Many files at once: each is imported, or named with what is wrong with it."""

import pickle
import shutil
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from dpot_scale.data.importers.collection import Outcome, import_all
from dpot_scale.data.importers.importing import Options
from dpot_scale.errors import UserError

UPSTREAM = Path(__file__).parents[2] / "upstream"
DIFFUSION_REACTION = UPSTREAM / "pdebench_diffusion_reaction.h5"
SHALLOW_WATER = UPSTREAM / "pdebench_shallow_water.h5"


def test_a_second_import_is_a_no_op_that_says_so(tmp_path, capsys) -> None:
    options = Options(tmp_path / "data")
    once = import_all([SHALLOW_WATER], options)
    assert "imported" in capsys.readouterr().out
    assert import_all([SHALLOW_WATER], options) == once
    *_, last = capsys.readouterr().out.splitlines()
    assert last == f"{tmp_path / 'data' / 'swe_pdb'} already holds {SHALLOW_WATER}; nothing to do"


def make_bad_downloads(source: Path) -> dict[str, str]:
    """Put bad files into a folder; what is said of each, in the order of the sentences."""
    source.mkdir()
    shutil.copy(SHALLOW_WATER, source / "z_good.h5")
    (source / "cut.h5").write_bytes(DIFFUSION_REACTION.read_bytes()[:700_000])
    (source / "pointer.mat").write_text("version https://git-lfs.github.com/spec/v1\n")
    (source / "readme.txt").write_text("hello")
    shutil.copy(DIFFUSION_REACTION, source / "nan.h5")
    with h5py.File(source / "nan.h5", "r+") as file:
        file["0000/data"][7] = np.nan
    with h5py.File(source / "empty.h5", "w") as file:
        file.create_group("0000")
    with h5py.File(source / "keys.h5", "w") as file:
        file["velocity"] = np.zeros((2, 5, 4, 4))
    np.save(source / "rank.npy", np.zeros((5, 4, 4)))
    shutil.copy(SHALLOW_WATER, source / "shapes.h5")
    with h5py.File(source / "shapes.h5", "r+") as file:
        del file["0001/data"]
        file["0001/data"] = np.zeros((101, 16, 16, 1))
    with zipfile.ZipFile(source / "slip.zip", "w") as archive:
        archive.writestr("../../case0000/case.json", "{}")
    (source / "z.pkl").write_bytes(pickle.dumps({"u": print}))
    return {
        "cut.h5": "truncated",
        "empty.h5": "group 0000 holds no data",
        "keys.h5": "is of no known format (HDF5 with: velocity)",
        "pointer.mat": "git lfs pull",
        "rank.npy": "is of no known format (arrays: float64 (5, 4, 4))",
        "readme.txt": "no known format",
        "shapes.h5": "groups differ in shape",
        "slip.zip": "points outside of its folder",
        "z.pkl": "could run anything",
        "nan.h5": "train trajectory 0 holds NaN",
    }


def test_bad_files_are_named_one_by_one_and_the_others_imported(tmp_path, capsys) -> None:
    source, root = tmp_path / "downloads", tmp_path / "data"
    expected = make_bad_downloads(source)
    outcome = import_all([source], Options(root))
    captured = capsys.readouterr()
    for error, (name, words) in zip(captured.err.splitlines(), expected.items(), strict=True):
        assert error.startswith("error: ")
        assert str(source / name) in error
        assert words in error
    assert outcome == Outcome(files=11, imported=1, problems=10)
    assert sorted(path.name for path in root.iterdir()) == [".lock", "swe_pdb"]


def test_one_name_is_not_for_several_datasets(tmp_path) -> None:
    files = [SHALLOW_WATER, DIFFUSION_REACTION]
    with pytest.raises(UserError, match="there are 2 datasets to import"):
        import_all(files, Options(tmp_path, name="mine"))
    assert list(tmp_path.iterdir()) == []
