"""Imports as a whole: linked instead of copied, killed and continued, refused, repeated."""

import errno
import pickle
import random
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest

from dpot_scale.data.importers import arrays, importing, transfer
from dpot_scale.data.importers.importing import Options, import_sound, recognise_files
from dpot_scale.data.store import open_files, writer
from dpot_scale.data.store.dataset import INDEX, SPLITS, open_store
from dpot_scale.data.store.shards import sha256
from dpot_scale.data.store.verify import verify_dataset
from dpot_scale.errors import DataError, MachineError
from dpot_scale.prepare import main

HDF5_SAYS = "Can't read data (file read failed: errno = 5, error message = 'Input/output error')"
UPSTREAM = Path(__file__).parents[2] / "upstream"
SHALLOW_WATER = UPSTREAM / "pdebench_shallow_water.h5"
DIFFUSION_REACTION = UPSTREAM / "pdebench_diffusion_reaction.h5"


@pytest.fixture
def downloads(tmp_path: Path, write_flow, write_sphere, write_well) -> dict[str, Path]:
    """What can be read as it lies: a file, or a folder, of each layout."""
    for seed, split in enumerate(("train", "valid", "test")):
        write_sphere(tmp_path / "sphere" / split / f"seed={seed}" / "output.nc", seed=seed)
        write_well(tmp_path / "well" / split / "a.hdf5", seed=seed)
    for problem in ("tube", "dam", "cylinder/bc"):
        with zipfile.ZipFile(UPSTREAM / "cfdbench" / f"{problem}.zip") as archive:
            archive.extractall(tmp_path / f"unpacked {problem.partition('/')[0]}")
    return {
        "diffusion-reaction": shutil.copy(DIFFUSION_REACTION, tmp_path / "dr"),
        "shallow water": shutil.copy(SHALLOW_WATER, tmp_path / "swe"),
        "flow": write_flow(tmp_path / "flow", M=0.1, eta=0.01, zeta=0.01),
        "turbulence": write_flow(tmp_path / "turbulence", kind="turb"),
        "flow 3D": write_flow(tmp_path / "flow3", space=3),
        "smoke": UPSTREAM / "pdearena",
        "sphere": tmp_path / "sphere",
        "The Well": tmp_path / "well",
        **{problem: tmp_path / f"unpacked {problem}" for problem in ("tube", "dam", "cylinder")},
    }


LINKABLE = (
    "diffusion-reaction", "shallow water", "flow", "turbulence", "flow 3D", "smoke", "sphere",
    "The Well", "tube", "dam", "cylinder",
)  # fmt: skip


@pytest.mark.parametrize("kind", LINKABLE)
def test_a_linked_dataset_has_the_windows_of_a_copied_one(
    kind: str, tmp_path: Path, downloads: dict[str, Path], import_files
) -> None:
    name = import_files(tmp_path / "copies", downloads[kind]).folder.name
    assert import_files(tmp_path / "links", downloads[kind], link=True).folder.name == name
    copy, link = (open_store(tmp_path / root, name) for root in ("copies", "links"))
    assert not list(link.folder.rglob("shard-*"))
    np.testing.assert_allclose(link.statistics.mean, copy.statistics.mean, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(link.statistics.std, copy.statistics.std, rtol=1e-12)
    assert copy.num_trajectories("test") > 0
    for split in SPLITS:
        assert link.num_trajectories(split) == copy.num_trajectories(split)
        for row in range(copy.num_trajectories(split)):
            for start in (0, 1, copy.num_frames(split) - 2):
                window, expected = (store.read(split, row, start, 2) for store in (link, copy))
                assert window.dtype == expected.dtype == np.float32
                assert window.tobytes() == expected.tobytes()
        assert link.parameters(split).keys() == copy.parameters(split).keys()
        for key, values in copy.parameters(split).items():
            np.testing.assert_array_equal(link.parameters(split)[key], values)
    assert [problem for problem in verify_dataset(link).problems if "repeat" not in problem] == []


@pytest.mark.parametrize(
    "file", ["fno_v5.mat", "fno_v73.mat", "darcy_test_16.pt", "cfdbench/tube.zip"]
)
def test_what_cannot_be_linked_says_so(file: str, tmp_path: Path, import_files) -> None:
    with pytest.raises(DataError, match=r"cannot be read as it lies; import it without --link"):
        import_files(tmp_path, UPSTREAM / file, link=True, name="mine")
    assert not (tmp_path / "mine").exists()


def move(file: Path) -> None:
    file.rename(file.with_name("elsewhere"))


def overwrite(file: Path) -> None:
    file.write_text("something else")


def shorten(file: Path) -> None:
    with h5py.File(file, "r+") as content:
        shorter = content["0000/data"][:50]
        del content["0000/data"]
        content["0000/data"] = shorter


def empty(file: Path) -> None:
    with h5py.File(file, "w"):
        pass


@pytest.mark.parametrize("happens", [move, overwrite, shorten, empty])
def test_a_linked_file_that_is_not_there_any_more(
    happens: Callable[[Path], None], tmp_path: Path, import_files
) -> None:
    file = Path(shutil.copy(SHALLOW_WATER, tmp_path / "133021"))
    import_files(tmp_path / "data", file, link=True)
    happens(file)
    store = open_store(tmp_path / "data", "swe_pdb")
    with pytest.raises(DataError, match=rf"cannot read {file} .*prepare verify {store.folder}"):
        store.read("train", 0, 80, 11)
    problems = verify_dataset(store).problems
    assert problems
    assert all(str(file) in problem for problem in problems)


def test_a_linked_file_with_other_numbers_is_found_by_its_checksum(
    tmp_path: Path, import_files
) -> None:
    file = Path(shutil.copy(SHALLOW_WATER, tmp_path / "133021"))
    import_files(tmp_path / "data", file, link=True)
    with h5py.File(file, "r+") as content:
        content["0000/data"][3, 3, 3] = 1.5
    problems = verify_dataset(open_store(tmp_path / "data", "swe_pdb")).problems
    assert problems == [f"{file} has changed since it was written (other sha256)"]


def test_a_linked_folder_with_another_array(tmp_path: Path, downloads, import_files) -> None:
    import_files(tmp_path / "data", downloads["tube"], link=True)
    case = next(downloads["tube"].rglob("u.npy")).parent
    np.save(case / "u.npy", np.load(case / "u.npy")[:5])
    problems = verify_dataset(open_store(tmp_path / "data", "cfdbench")).problems
    assert f"{case}/ has changed since it was written (other sha256)" in problems


def test_a_copy_does_not_become_a_link(tmp_path: Path, import_files) -> None:
    assert import_files(tmp_path, SHALLOW_WATER).is_new
    with pytest.raises(DataError, match="was made from something else"):
        import_files(tmp_path, SHALLOW_WATER, link=True)
    assert import_files(tmp_path / "links", SHALLOW_WATER, link=True).is_new
    assert not import_files(tmp_path / "links", SHALLOW_WATER, link=True).is_new


# An import of six shards that ends itself, with no chance to clean up, at a moment of its work.
KILLED = """
import os, signal, sys
from functools import partial
from pathlib import Path
from dpot_scale.data.store import writer, written
from dpot_scale.data.importers import importing, transfer
from dpot_scale.prepare import main

transfer.BLOCK_BYTES = 1  # a trajectory
importing.StoreWriter = partial(writer.StoreWriter, shard_bytes={shard_bytes})
moment, left = {moment!r}, {count}

def killing(do):
    def done(*arguments):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return do(*arguments)
    return done

if moment:
    killer = killing(getattr(writer, moment))
    for module in (writer, written):
        if hasattr(module, moment):
            setattr(module, moment, killer)
sys.exit(main(["import", {file!r}, "--out", {root!r}]))
"""


def run(moment: str, count: int, file: Path, root: Path) -> int:
    # Two trajectories of 21 frames of 1 x 8 x 8.
    program = KILLED.format(
        moment=moment, count=count, file=str(file), root=str(root), shard_bytes=2 * 21 * 8 * 8 * 4
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert "Traceback" not in ended.stderr, ended.stderr
    return ended.returncode


def many_seeds(path: Path) -> Path:
    """Ten trajectories in PDEBench's layout: five shards of the train split, one of the test."""
    noise = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for seed in range(10):
            file[f"{seed:04d}/data"] = noise.standard_normal((21, 8, 8, 1)).astype(np.float32)
            file[f"{seed:04d}/grid/t"] = np.arange(21) / 20
            for axis in "xy":
                file[f"{seed:04d}/grid/{axis}"] = np.arange(8) + 0.5
    return path


def content_of(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {str(path.relative_to(folder)): sha256(path) for path in files}


@pytest.mark.parametrize(
    ("moment", "count", "safe"),
    [
        ("write_shard", 0, 0),
        ("write_shard", 3, 3),  # before the fourth is begun
        ("flush_to_disk", 2, 2),  # the third lies there, but perhaps not on the disk
        ("write_whole", 3, 3),  # the fourth is written, but not noted
        ("write_whole", 6, 6),  # all are written, but the index is not
    ],
)
def test_a_killed_import_continues_and_gives_the_same_dataset(
    moment: str, count: int, safe: int, tmp_path: Path
) -> None:
    file = many_seeds(tmp_path / "133021")
    assert run("", 0, file, tmp_path / "whole") == 0
    root = tmp_path / "data"
    assert run(moment, count, file, root) == -signal.SIGKILL
    with pytest.raises(DataError, match="'swe_pdb' was left unfinished"):
        open_store(root, "swe_pdb")
    shards = sorted((root / ".swe_pdb.partial").rglob("shard-*"))
    kept = {shard: shard.stat().st_mtime_ns for shard in shards[:safe]}
    assert run("", 0, file, root) == 0
    for shard, written in kept.items():
        final = root / "swe_pdb" / shard.parent.name / shard.name
        assert final.stat().st_mtime_ns == written, "was not written again"
    assert content_of(root / "swe_pdb") == content_of(tmp_path / "whole" / "swe_pdb")
    assert {path.name for path in root.iterdir()} == {".lock", "swe_pdb"}


NOT_NOW = [OSError(errno.EMFILE, "x"), OSError(errno.EIO, "x"), OSError(HDF5_SAYS), MemoryError()]


@pytest.mark.parametrize("failure", NOT_NOW)
def test_what_a_machine_cannot_read_now_is_not_left_out(
    failure: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """The import ends with a sentence, keeps what it has, and the next one goes on."""
    file, root = many_seeds(tmp_path / "133021"), tmp_path / "data"
    monkeypatch.setattr(transfer, "BLOCK_BYTES", 1)  # a trajectory
    small = partial(writer.StoreWriter, shard_bytes=2 * 21 * 8 * 8 * 4)
    monkeypatch.setattr(importing, "StoreWriter", small)
    open_hdf5, opened = open_files.open_hdf5, []

    def disturbed(path: str, mode: str = "r") -> h5py.File:
        opened.extend([path] * (mode == "r"))
        if mode == "r" and len(opened) > 5:
            raise failure
        return open_hdf5(path, mode)

    with monkeypatch.context() as patched:
        patched.setattr(open_files, "open_hdf5", disturbed)
        assert main(["import", str(file), "--out", str(root)]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"error: cannot read {file} (")
    assert "the file may be intact" in said
    kept = sorted((root / ".swe_pdb.partial").rglob("shard-*"))
    assert len(kept) == 2
    written = kept[0].stat().st_mtime_ns
    assert main(["import", str(file), "--out", str(root)]) == 0
    store = open_store(root, "swe_pdb")
    assert sum(store.num_trajectories(split) for split in SPLITS) == 10
    assert "without" not in store.info.source
    assert (root / "swe_pdb" / "train" / kept[0].name).stat().st_mtime_ns == written


@pytest.mark.parametrize("kind", ["npy", "pkl"])
def test_a_machine_without_memory_is_not_a_damaged_array(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / f"u.{kind}"
    if kind == "npy":
        np.save(file, np.zeros((3, 4)))
    else:
        file.write_bytes(pickle.dumps(np.zeros((3, 4))))

    def refuse(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(arrays.np, "load", refuse)
    monkeypatch.setattr(arrays, "_ArrayUnpickler", refuse)
    with pytest.raises(MachineError, match=rf"cannot read {file} \(out of memory\)"):
        recognise_files([file], paper=False)


def test_what_another_file_left_unfinished_is_not_continued(tmp_path: Path) -> None:
    first, second = many_seeds(tmp_path / "first"), many_seeds(tmp_path / "second")
    with h5py.File(second, "r+") as file:
        file["0000/data"][...] = 7
    root = tmp_path / "data"
    assert run("write_shard", 3, first, root) == -signal.SIGKILL
    assert run("", 0, second, root) == 0
    assert open_store(root, "swe_pdb").read("train", 0, 0, 1).max() == 7


def test_a_second_import_of_several_files_is_a_no_op(tmp_path: Path, import_files) -> None:
    """Whatever the folder is called that they lie in."""
    assert import_files(tmp_path, UPSTREAM / "pdearena").is_new
    index = tmp_path / "ns2d_pda" / INDEX
    before = index.stat().st_mtime_ns
    copied = shutil.copytree(UPSTREAM / "pdearena", tmp_path / "copied")
    assert not import_files(tmp_path, copied).is_new
    assert index.stat().st_mtime_ns == before


def test_a_damaged_file_among_others_is_read_once(tmp_path: Path, capsys) -> None:
    """The import without it is that of the same files: a second one only says so."""
    source = shutil.copytree(UPSTREAM / "pdearena", tmp_path / "downloads")
    with h5py.File(next(source.glob("*valid*"))) as valid:
        with h5py.File(source / "NavierStokes2D_train_3_0.50000_1.h5", "w") as file:
            valid.copy("valid", file, "train")
        for seed in (1, 2):
            with h5py.File(source / f"NavierStokes2D_train_{seed}_0.50000_1.h5", "w") as file:
                valid.copy("valid", file, "train")
                file["train/u"][0, 3 + seed] = np.nan
    command = ["import", str(source), "--out", str(tmp_path / "data")]
    assert main(command) == 1
    captured = capsys.readouterr()
    frames = ["first in frame 4", "first in frame 5"]
    for error, frame in zip(captured.err.splitlines(), frames, strict=True):
        assert frame in error
    assert captured.out.splitlines()[-1] == f"3 of 5 files are in {tmp_path / 'data'}, 2 failed"
    store = open_store(tmp_path / "data", "ns2d_pda")
    assert store.num_trajectories("train") == store.num_trajectories("test") == 1
    assert store.info.source.endswith(", without 2 that were damaged")
    assert main(command) == 1
    captured = capsys.readouterr()
    assert "already holds a part of 5 files" in captured.out
    assert "ns2d_pda is without what was damaged when it was imported" in captured.err


@pytest.mark.parametrize(
    "file",
    [
        "fno_v5.mat",
        "fno_v73.mat",
        "pdebench_shallow_water.h5",
        "pdebench_diffusion_reaction.h5",
        "pdearena_smoke.h5",
        "darcy_test_16.pt",
        "cfdbench/cylinder/geo.zip",
    ],
)
def test_whatever_is_damaged_the_answer_is_a_sentence(file: str, tmp_path: Path) -> None:
    """Some bytes changed, mostly in the part that describes the rest: no other exception."""
    content = (UPSTREAM / file).read_bytes()
    for seed in range(25):
        noise, damaged = random.Random(seed), bytearray(content)
        end = noise.choice([2048, 8192, len(content)])
        for _ in range(noise.choice([1, 5, 50])):
            damaged[noise.randrange(min(end, len(content)))] = noise.randrange(256)
        path = tmp_path / f"{seed}"
        path.write_bytes(damaged)
        datasets, problems = recognise_files([path], paper=False)
        for sources in datasets:
            options = Options(tmp_path / f"{seed} out", "mine")
            imported, found = import_sound(sources, options, lambda *_: None)
            problems += found
            assert imported or found
        assert datasets or problems
        assert all(str(path) in str(problem) for problem in problems)
