"""The entry for data: what users type, what they read, and the exit code."""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest

import dpot_scale
from dpot_scale.data.store.dataset import open_store, stored_names
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


def test_what_is_no_file_is_named_and_never_opened(tmp_path, capsys) -> None:
    """To open a pipe that nobody writes to takes for ever."""
    source, root = tmp_path / "downloads", tmp_path / "data"
    shutil.unpack_archive(UPSTREAM / "cfdbench" / "cavity.zip", tmp_path / "cavity")
    case = shutil.copytree(next((tmp_path / "cavity").rglob("case.json")).parent, source / "case")
    (case / "u.npy").unlink()
    shutil.copy(SHALLOW_WATER, source / "133021")
    (source / "folder.h5").mkdir()
    (source / "gone").symlink_to("nowhere")
    (source / "loop").symlink_to("loop")
    for pipe in (source / "pipe.h5", case / "u.npy"):
        os.mkfifo(pipe)
    with socket.socket(socket.AF_UNIX) as listening, contextlib.chdir(source):
        listening.bind("socket.h5")
        (source / "zeros").symlink_to("/dev/zero")
        assert main(["import", str(source), "--out", str(root)]) == 1
        assert main(["import", str(source / "pipe.h5"), "--out", str(root)]) == 1
    errors = capsys.readouterr().err.splitlines()
    said = {
        "gone": "No such file or directory",
        "loop": "Too many levels of symbolic links",
        "pipe.h5": "it is a pipe, not a file",
        "socket.h5": "it is a socket, not a file",
        "zeros": "it is a device, not a file",
    }
    named = [f"error: cannot read {source / name}: {reason}" for name, reason in said.items()]
    assert [e for e in errors if f"cannot read {source}" in e] == [*named, named[2]]
    assert any(str(case) in error and "it is a pipe, not a file" in error for error in errors)
    assert stored_names(root) == ["swe_pdb"]


def test_a_dataset_of_pipes_is_a_sentence(generated, capsys) -> None:
    for pipe in ("dr_small/train/shard-00000.h5", "swe_small/index.json"):
        (generated / pipe).unlink()
        os.mkfifo(generated / pipe)
    assert main(["verify", str(generated)]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert all("it is a pipe, not a file" in error for error in errors)


@contextmanager
def without_rights() -> Iterator[None]:
    """Give up for a while what root may do."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        if not os.access(dpot_scale.__file__, os.R_OK, effective_ids=True):
            pytest.skip("the package is in a folder of root alone")
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody may write to; no folder above it is closed, as that of pytest is."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


def test_what_may_not_be_read_is_named_and_the_rest_imported(open_folder, capsys) -> None:
    source, root = open_folder / "downloads", open_folder / "data"
    (source / "closed").mkdir(parents=True)
    shutil.copy(SHALLOW_WATER, source / "133021").chmod(0o644)
    shutil.copy(DIFFUSION_REACTION, source / "133017").chmod(0)
    (source / "closed").chmod(0)
    with without_rights():
        assert main(["import", str(source), "--out", str(root)]) == 1
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [
        f"error: cannot read {source}/closed: Permission denied",
        f"error: cannot read {source}/133017: Permission denied",
    ]
    assert captured.out.splitlines()[-1] == f"1 of 2 files are in {root}, 2 failed"
    assert stored_names(root) == ["swe_pdb"]
    with without_rights():
        assert main(["import", str(source / "closed" / "file"), "--out", str(root)]) == 2
    assert (
        capsys.readouterr().err == f"error: cannot read {source}/closed/file: Permission denied\n"
    )


def test_a_folder_that_may_not_be_written_to(open_folder, capsys) -> None:
    source, root = shutil.copy(SHALLOW_WATER, open_folder / "133021"), open_folder / "data"
    source.chmod(0o644)
    root.mkdir(mode=0o555)
    with without_rights():
        assert main(["import", str(source), "--out", str(root)]) == 1
    assert capsys.readouterr().err == f"error: cannot write to {root}: Permission denied\n"
    assert list(root.iterdir()) == []


@pytest.fixture
def tiny_disk(tmp_path) -> Iterator[Path]:
    """A disk of half a megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(disk)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only root may mount a disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def assert_says_that_it_cannot_write(
    done: subprocess.CompletedProcess[str], root: Path, reason: str
) -> None:
    assert done.returncode == 1
    (error,) = done.stderr.splitlines()
    assert re.fullmatch(rf"error: cannot write {root}/mine: {reason}", error)
    assert done.stdout.splitlines()[-1] == f"0 of 1 files are in {root}, 1 failed"
    assert [path.name for path in root.iterdir()] == [".lock"], "nothing is left of it"


@pytest.mark.parametrize("frames", [2100, 1500])
def test_a_full_disk(frames: int, tiny_disk, tmp_path) -> None:
    """Full in the middle of the first shard, or of the second."""
    file = tmp_path / "133021"
    write_depths(file, frames)
    command = ["-m", "dpot_scale.prepare", "import", str(file), "--name", "mine"]
    done = python(*command, "--out", str(tiny_disk))
    free = rf"[\d,]+ bytes are free in {tiny_disk} and {256 * frames + 2**16:,} are needed"
    reason = f"No space left on device; {free}: make room there and start again"
    assert_says_that_it_cannot_write(done, tiny_disk, reason)


def test_a_file_that_may_not_grow_further(tmp_path) -> None:
    """Where no disk can be mounted: a limit of the system on the size of a file."""
    program = (
        "import resource, sys; from dpot_scale.prepare import main; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000)); "
        f"options = ['--name', 'mine', '--out', {str(tmp_path)!r}]; "
        f"sys.exit(main(['import', {str(SHALLOW_WATER)!r}, *options]))"
    )
    assert_says_that_it_cannot_write(python("-c", program), tmp_path, "File too large")


def test_generating_onto_a_full_disk(suite, tiny_disk) -> None:
    (tiny_disk / "other").write_bytes(bytes(2**19 - 2**15))
    command = ["generate", "--suite", str(suite), "--out", str(tiny_disk / "data")]
    done = python("-m", "dpot_scale.prepare", *command)
    assert done.returncode == 2
    (error,) = done.stderr.splitlines()
    said = rf"cannot write {tiny_disk}/data/\w+: No space left on device; [\d,]+ bytes are free in "
    assert re.fullmatch(rf"error: {said}{tiny_disk}/data and [\d,]+ are needed: make .*", error)
    assert stored_names(tiny_disk / "data") == []


def write_depths(path: Path, frames: int) -> None:
    """Two trajectories in PDEBench's layout, 256 bytes a frame."""
    with h5py.File(path, "w") as file:
        for seed in range(2):
            file[f"{seed:04d}/data"] = np.ones((frames, 8, 8, 1), np.float32)
            file[f"{seed:04d}/grid/t"] = np.arange(frames) / 20
            for axis in "xy":
                file[f"{seed:04d}/grid/{axis}"] = np.arange(8) + 0.5


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
        "name", "equation", "grid", "frames", "channels", "train", "valid", "test", "size",
        "origin",
    ]  # fmt: skip
    assert first.split()[:8] == ["dr_small", "reaction_diffusion", "8x8", "4", "u,v", "3", "0", "2"]
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
        f"error: {generated}/broken/index.json is not a dataset index ('info' is "
        "missing (and 2 more)); make the dataset anew",
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


def test_every_command_looks_where_the_others_write(suite, tmp_path, monkeypatch, capsys) -> None:
    """In a Ray job, results lie below a home and not in the temporary working directory."""
    here, home = tmp_path / "here", tmp_path / "home"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("DPOT_SCALE_HOME", str(home))
    assert main(["generate", "--suite", str(suite)]) == 0
    assert main(["import", str(DIFFUSION_REACTION)]) == 0
    capsys.readouterr()
    for command in ("list", "verify"):
        assert main([command]) == 0
        names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
        assert names[1:4] == ["dr_pdb", "tiny/dr_small", "tiny/swe_small"]
    assert list(here.iterdir()) == []
