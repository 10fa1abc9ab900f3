"""Published files and plain arrays, in every container; archives write nothing anywhere."""

import contextlib
import runpy
import shutil
import struct
import zipfile
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given
from scipy.io import savemat

from dpot_scale.data.importers import matlab
from dpot_scale.data.importers.importing import Options, import_sound, recognise_files
from dpot_scale.errors import DataError, MachineError, UserError

mutations = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("mutations.py"))))

UPSTREAM = Path(__file__).parents[1] / "upstream"
FLOW = np.linspace(0, 1, 3 * 8 * 8 * 20, dtype=np.float32).reshape(3, 8, 8, 20)  # of FNO's .mat


def tolerated(file: Path, root: Path) -> None:
    """Import what a file holds, if it holds something."""
    with contextlib.suppress(UserError):  # as where it asks for more memory than there is
        found, _ = recognise_files([file], paper=False)
        for sources in found:
            with contextlib.suppress(UserError):
                import_sound(sources, Options(root=root), lambda *_: None)
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Small files of each container."""
    folder = tmp_path_factory.mktemp("good")
    fields = {"u": FLOW, "a": FLOW[..., 0], "t": np.arange(20.0, dtype=np.float32)}
    savemat(folder / "flow.mat", fields)
    np.savez(folder / "flow.npz", **fields)
    np.save(folder / "flow.npy", FLOW)
    torch.save({key: torch.from_numpy(value) for key, value in fields.items()}, folder / "flow.pt")
    with h5py.File(folder / "flow.h5", "w") as file:
        for key, value in fields.items():
            file[key] = value.T
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.timeout(900)  # each .mat is read by three processes
@pytest.mark.parametrize("name", ["flow.mat", "flow.npz", "flow.npy", "flow.pt", "flow.h5"])
def test_odd_bytes(name: str, good: dict[str, bytes], tmp_path: Path) -> None:
    @given(mutations.mutated_bytes(good[name]))
    def try_one(content: bytes) -> None:
        (tmp_path / name).write_bytes(content)
        tolerated(tmp_path / name, tmp_path / "store")

    try_one()


def test_odd_archives(tmp_path: Path) -> None:
    file = tmp_path / "dam.zip"

    @given(mutations.mutated_bytes((UPSTREAM / "cfdbench" / "dam.zip").read_bytes()))
    def try_one(content: bytes) -> None:
        file.write_bytes(content)
        tolerated(file, tmp_path / "store")

    try_one()


def test_an_archive_writes_nothing_outside_of_the_dataset(tmp_path: Path) -> None:
    inner = tmp_path / "some" / "folder"
    inner.mkdir(parents=True)
    evil = inner / "dam.zip"
    with (
        zipfile.ZipFile(UPSTREAM / "cfdbench" / "dam.zip") as good,
        zipfile.ZipFile(evil, "w") as archive,
    ):
        for name in good.namelist():
            for place in (name, f"../../{name}", f"{tmp_path}/{name}"):
                archive.writestr(place, good.read(name))
    tolerated(evil, inner / "store")
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "some", inner, evil]


@pytest.mark.parametrize("shape", [(-1, 8, 8, 20), (2**31 - 1, 8, 8, 20)])
def test_an_array_of_an_impossible_size_is_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    """As a damaged header of MATLAB says it."""
    file = tmp_path / "flow.mat"
    savemat(file, {"u": FLOW})
    right, wrong = struct.pack("<4i", *FLOW.shape), struct.pack("<4i", *shape)
    assert file.read_bytes().count(right) == 1
    file.write_bytes(file.read_bytes().replace(right, wrong))
    found, problems = recognise_files([file], paper=False)
    assert found == []
    assert "is a damaged MATLAB file (its array u is said to be of " in str(problems[0])


@pytest.mark.parametrize("kind", [14, 0x0707, 0xAA07])
def test_a_file_on_which_the_reader_crashes_is_one_sentence(kind: int, tmp_path: Path) -> None:
    """SciPy takes any number for the kind of an array's values, and goes where that leads."""
    file = tmp_path / "flow.mat"
    savemat(file, {"u": FLOW})
    right, wrong = (struct.pack("<II", one, FLOW.nbytes) for one in (7, kind))
    content = file.read_bytes()
    assert content.count(right) == 1
    file.write_bytes(content.replace(right, wrong))
    with pytest.raises(DataError, match=r"damaged MATLAB file \(.+\); download it again"):
        matlab.load(file, "u")


@pytest.mark.parametrize(
    ("ends", "error", "words"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", DataError, "SIGSEGV in SciPy's reader"),
        ("os.kill(os.getpid(), signal.SIGKILL)", MachineError, "this machine lacks memory"),
        ("raise MemoryError", MachineError, "this machine lacks memory"),
        ("raise OSError(errno.EIO, 'away')", MachineError, "its storage does not answer"),
        ("raise OSError('could not read bytes')", DataError, "could not read bytes"),
    ],
)
def test_only_what_is_a_fault_of_the_file_is_called_damage(
    ends: str, error: type[Exception], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what the reader of another process raises where it opens the file, or how that ends."""
    opens = "found = scipy.io.loadmat(path, variable_names=names)"
    reader = matlab.READER.replace(opens, f"import os, signal; {ends}")
    assert reader != matlab.READER
    monkeypatch.setattr(matlab, "READER", reader)
    savemat(tmp_path / "flow.mat", {"u": FLOW})
    with pytest.raises(error, match=words):
        matlab.load(tmp_path / "flow.mat", "u")


def test_a_cell_is_no_array_of_numbers(tmp_path: Path) -> None:
    savemat(tmp_path / "flow.mat", {"u": np.array([{}], object)})
    with pytest.raises(DataError, match="its array u holds no plain numbers"):
        matlab.load(tmp_path / "flow.mat", "u")
