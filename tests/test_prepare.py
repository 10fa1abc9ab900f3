"""The entry for data: what users type, what they read, and the exit code."""

import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from dpot_scale.data.store import open_store, stored_names
from dpot_scale.prepare import main

UPSTREAM = Path(__file__).parent / "upstream"
DIFFUSION_REACTION = UPSTREAM / "pdebench_diffusion_reaction.h5"
SHALLOW_WATER = UPSTREAM / "pdebench_shallow_water.h5"
FNO = UPSTREAM / "fno_v5.mat"

SUITE = """
name: tiny
datasets:
  dr_small:
    {equation: reaction_diffusion, train: 3, test: 2, grid: 8, frames: 4, frame_interval: 0.1}
  swe_small:
    {equation: shallow_water, train: 3, test: 2, grid: 8, frames: 3, frame_interval: 0.1}
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    file = tmp_path / "tiny.yaml"
    file.write_text(SUITE)
    return file


@pytest.fixture
def generated(suite: Path, tmp_path: Path, capsys) -> Path:
    root = tmp_path / "data"
    assert main(["generate", "--suite", str(suite), "--out", str(root)]) == 0
    capsys.readouterr()
    return root


def test_generate_says_what_it_made_and_makes_it_once(suite, tmp_path, capsys) -> None:
    root = tmp_path / "data"
    command = ["generate", "--suite", str(suite), "--out", str(root)]
    assert main(command) == 0
    first = capsys.readouterr().out
    assert "generated dr_small: 3 train and 2 test trajectories of 4 frames at 8 x 8" in first
    assert first.splitlines()[-1] == f"2 datasets of suite tiny are in {root}"
    assert main(command) == 0
    assert capsys.readouterr().out == f"2 datasets of suite tiny are in {root}\n"
    assert stored_names(root) == ["dr_small", "swe_small"]


def test_generate_goes_where_training_looks(suite, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["generate", "--suite", str(suite)]) == 0
    assert stored_names(tmp_path / "data" / "tiny") == ["dr_small", "swe_small"]


def test_import_of_a_folder(tmp_path, capsys) -> None:
    source, root = tmp_path / "downloads", tmp_path / "data"
    (source / "deep" / "deeper").mkdir(parents=True)
    shutil.copy(FNO, source / "deep" / "no suffix")
    shutil.copy(DIFFUSION_REACTION, source / "deep" / "deeper" / "133017")
    shutil.copy(SHALLOW_WATER, source / "133021.txt")
    (source / ".hidden").write_text("not for us")
    assert main(["import", str(source), "--out", str(root)]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "133021.txt: PDEBench shallow water: 2 trajectories of 101 frames" in captured.out
    assert captured.out.splitlines()[-1] == f"3 of 3 files are in {root}, 0 failed"
    assert stored_names(root) == ["dr_pdb", "ns2d_fno_1e-5", "swe_pdb"]


def test_a_second_import_is_a_no_op_that_says_so(tmp_path, capsys) -> None:
    command = ["import", str(SHALLOW_WATER), "--out", str(tmp_path / "data")]
    assert main(command) == 0
    assert "imported" in capsys.readouterr().out
    assert main(command) == 0
    *_, last = capsys.readouterr().out.splitlines()
    assert last == f"{tmp_path / 'data' / 'swe_pdb'} already holds {SHALLOW_WATER}; nothing to do"


def test_bad_files_are_named_one_by_one_and_the_others_imported(tmp_path, capsys) -> None:
    source, root = tmp_path / "downloads", tmp_path / "data"
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
    assert main(["import", str(source), "--out", str(root)]) == 1
    captured = capsys.readouterr()
    errors = captured.err.splitlines()
    assert len(errors) == 5
    for error, (name, words) in zip(
        errors,
        [
            ("cut.h5", "truncated"),
            ("empty.h5", "group 0000 holds no data"),
            ("pointer.mat", "git lfs pull"),
            ("readme.txt", "no known format"),
            ("nan.h5", "train trajectory 0 holds NaN"),
        ],
        strict=True,
    ):
        assert error.startswith("error: ")
        assert str(source / name) in error
        assert words in error
    assert captured.out.splitlines()[-1] == f"1 of 6 files are in {root}, 5 failed"
    assert sorted(path.name for path in root.iterdir()) == [".lock", "swe_pdb"]


def test_a_name_is_for_one_file(tmp_path, capsys) -> None:
    command = ["import", str(UPSTREAM / "fno_v73.mat"), "--out", str(tmp_path)]
    assert main(command) == 1
    assert "--name: ns2d_fno_1e-4, or ns2d_fno_1e-3" in capsys.readouterr().err
    assert main([*command, "--name", "ns2d_fno_1e-3"]) == 0
    assert stored_names(tmp_path) == ["ns2d_fno_1e-3"]
    assert main(["import", str(UPSTREAM), "--out", str(tmp_path), "--name", "a"]) == 2
    assert "--name names one dataset, but there are" in capsys.readouterr().err


def test_an_import_in_place_never_touches_what_is_there(tmp_path, capsys) -> None:
    (tmp_path / "swe_pdb").mkdir()
    (tmp_path / "swe_pdb" / "notes.txt").write_text("mine")
    assert main(["import", str(SHALLOW_WATER), "--out", str(tmp_path)]) == 1
    assert "exists and holds no dataset" in capsys.readouterr().err
    assert (tmp_path / "swe_pdb" / "notes.txt").read_text() == "mine"


def test_our_own_datasets_are_not_searched_for_files(generated, capsys) -> None:
    assert main(["import", str(generated), "--out", str(generated)]) == 2
    assert "there is no file to import in" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["import", "absent.h5"],
        ["generate", "--suite", "absent"],
        ["list", "absent"],
        ["verify", "absent"],
        ["verify", "."],
        ["generate", "--suite", "quickstart", "--out", "file"],
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_code_2(
    arguments, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert len(captured.err.splitlines()) == 1
    assert captured.out == ""


@pytest.mark.parametrize(
    "arguments", [[], ["improt"], ["import"], ["import", "a", "--name", "a/b"]]
)
def test_what_the_parser_refuses(arguments, capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_list_is_a_table(generated, tmp_path, capsys) -> None:
    assert main(["import", str(SHALLOW_WATER), "--out", str(generated / "published")]) == 0
    capsys.readouterr()
    assert main(["list", str(generated)]) == 0
    header, first, second, third = capsys.readouterr().out.splitlines()
    assert header.split() == [
        "name", "equation", "grid", "frames", "channels", "train", "test", "size", "origin"
    ]  # fmt: skip
    assert first.split()[:7] == ["dr_small", "reaction_diffusion", "8x8", "4", "u,v", "3", "2"]
    assert second.split()[0] == "published/swe_pdb"
    assert second.split()[-1] == "imported"
    assert third.split()[-1] == "generated"
    assert third.split()[3] == "3"
    size = sum(f.stat().st_size for f in (generated / "swe_small").rglob("*") if f.is_file())
    assert float(third.split()[-3]) == pytest.approx(size / 2**20, abs=0.06)


def test_list_and_verify_accept_one_dataset(generated, capsys) -> None:
    for command in ("list", "verify"):
        assert main([command, str(generated / "swe_small")]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in lines] == ["name", "swe_small"]


def test_verify_finds_nothing_wrong_with_generated_data(generated, capsys) -> None:
    assert main(["verify", str(generated)]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert [line.split()[-1] for line in captured.out.splitlines()[1:]] == ["ok", "ok"]
    assert captured.out.splitlines()[2].split()[1:6] == ["5", "h", "1", "to", "1.67"]


def test_verify_names_what_is_wrong_and_goes_on(generated, capsys) -> None:
    shard = generated / "dr_small" / "train" / "shard-00000.h5"
    with h5py.File(shard, "r+") as file:
        file["fields"][1, 0, 0, 0, 0] = np.inf
    (generated / "broken").mkdir()
    (generated / "broken" / "index.json").write_text("{}")
    assert main(["verify", str(generated)]) == 1
    captured = capsys.readouterr()
    assert [line.split()[0] for line in captured.out.splitlines()[1:]] == ["dr_small", "swe_small"]
    assert captured.err.splitlines() == [
        f"error: {generated}/broken/index.json is not a dataset index ('info'); "
        "make the dataset anew",
        "error: dr_small: train/shard-00000.h5 has changed since it was written (other sha256)",
        "error: dr_small: train 1 holds 1 values that are not finite",
    ]
    assert main(["list", str(generated)]) == 1
    assert "broken/index.json" in capsys.readouterr().err


def test_verify_finds_the_leak_in_the_published_shallow_water_data(tmp_path, capsys) -> None:
    """Seeds 0 and 1 cover the same cells at 32 x 32: the test trajectory was trained on."""
    assert main(["import", str(SHALLOW_WATER), "--out", str(tmp_path)]) == 0
    assert main(["verify", str(tmp_path)]) == 0  # nothing that another download would mend
    notes = capsys.readouterr().out
    assert "note: swe_pdb: 1 test trajectories are also in the train split" in notes
    assert "known of the published data" in notes


def test_imported_data_reaches_training(tmp_path) -> None:
    assert main(["import", str(FNO), "--out", str(tmp_path)]) == 0
    store = open_store(tmp_path, "ns2d_fno_1e-5")
    assert store.read("train", 0, 5, 11).shape == (11, 1, 64, 64)


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)


def test_help_is_there_for_every_command() -> None:
    shown = python("-m", "dpot_scale.prepare", "--help").stdout
    assert all(command in shown for command in ("generate", "import", "list", "verify"))
    assert "PDEBench" in python("-m", "dpot_scale.prepare", "import", "--help").stdout


def test_looking_at_data_imports_no_torch(generated) -> None:
    program = (
        "import sys; from dpot_scale.prepare import main; "
        f"codes = [main([command, {str(generated)!r}]) for command in ('list', 'verify')]; "
        "sys.exit(any(codes) or 'torch' in sys.modules)"
    )
    assert python("-c", program).returncode == 0
