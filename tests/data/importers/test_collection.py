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
from dpot_scale.data.store.overview import verify_datasets
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


@pytest.mark.parametrize("link", [False, True])
def test_what_no_solver_computes_is_said_at_import_and_by_verify(
    link: bool, tmp_path: Path, write_flow, capsys
) -> None:
    file = write_flow(tmp_path / "164691", M=1.0, eta=0.1, zeta=0.1, trajectories=10)
    with h5py.File(file, "r+") as content:
        content["pressure"][2, 3, 2, 1] = 2e7
        for name in ("Vx", "Vy", "density", "pressure"):
            content[name][9, 2:] = 0
    import_all([file], Options(tmp_path / "data", link=link))
    folder = tmp_path / "data" / "ns2d_pdb_M1_eta1e-1_zeta1e-1"
    warnings = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    assert warnings == [
        f"warning: {folder}: train trajectory 2 holds 2e+07 in pressure, frame 3, at (2, 1), where "
        "no value beside it is nearly as large",
        f"warning: {folder}: test trajectory 0 is zero everywhere in frames 2 to 4, after frames "
        "that are not",
    ]
    problems = verify_datasets(folder).problems
    assert [problem.partition(": ")[2][:16] for problem in problems] == [
        "train 2 holds 2e",
        "test 0 is zero e",
    ]


def test_many_suspect_trajectories_are_few_sentences(tmp_path: Path, write_flow, capsys) -> None:
    file = write_flow(tmp_path / "164691", M=1.0, eta=0.1, zeta=0.1, trajectories=12)
    with h5py.File(file, "r+") as content:
        content["pressure"][:, 3, 2, 1] = 2e7
    import_all([file], Options(tmp_path / "data"))
    warnings = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    assert len(warnings) == 6
    assert warnings[-1].endswith(": 7 more trajectories are like these")
