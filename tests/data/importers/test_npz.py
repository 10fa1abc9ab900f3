"""Arrays of a .npz: mapped where they lie in the file, or read as a whole if compressed."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from dpot_scale.data.importers import npz
from dpot_scale.errors import DataError

ARRAYS = {
    "u": np.arange(24.0).reshape(2, 3, 4),
    "by_column": np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3)),
    "dt": np.float32(0.1),
    "empty": np.zeros((0, 3)),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_are_read_as_numpy_reads_them(save, tmp_path: Path) -> None:
    save(tmp_path / "a.npz", **ARRAYS)
    found = npz.members(tmp_path / "a.npz")
    assert found.keys() == ARRAYS.keys()
    for name, expected in ARRAYS.items():
        assert (found[name].shape, found[name].dtype) == (expected.shape, expected.dtype)
        np.testing.assert_array_equal(found[name][...], expected)
    np.testing.assert_array_equal(found["u"][1:, :2], ARRAYS["u"][1:, :2])
    assert isinstance(found["u"], np.memmap) == (save is np.savez)


def test_a_file_that_changed_is_read_anew(tmp_path: Path) -> None:
    for factor in (1, 2):
        np.savez_compressed(tmp_path / "a.npz", u=np.full(1000 * factor, factor))
        assert npz.members(tmp_path / "a.npz")["u"][0] == factor


def test_a_compressed_array_that_does_not_fit_memory(tmp_path: Path, monkeypatch) -> None:
    np.savez_compressed(tmp_path / "a.npz", u=ARRAYS["u"])
    monkeypatch.setattr(npz.os, "sysconf", lambda _: 16)
    found = npz.members(tmp_path / "a.npz")
    with pytest.raises(DataError, match=r"a\.npz: its array u .* `unzip` the file and import u\.n"):
        found["u"][0]


def test_a_zip_file_of_other_things_is_none(tmp_path: Path) -> None:
    for name in ("case0000/u.npy", "case0000/case.json"):
        with zipfile.ZipFile(tmp_path / "a.zip", "a") as archive:
            archive.writestr(name, b"")
    assert not npz.is_npz(tmp_path / "a.zip")
    assert not npz.is_npz(Path(__file__))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"not NumPy's", "u.npy is damaged"), (b"\x93NUMPY\x07\x00", "u.npy is damaged")],
)
def test_a_member_that_is_no_array(content: bytes, sentence: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("u.npy", content)
    with pytest.raises(DataError, match=sentence):
        npz.members(tmp_path / "a.npz")


def test_objects_are_not_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", u=np.array([{}], dtype=object))
    with pytest.raises(DataError, match=r"its member u\.npy holds objects instead of numbers"):
        npz.members(tmp_path / "a.npz")
