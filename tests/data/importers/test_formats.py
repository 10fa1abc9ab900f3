"""A file is recognised by its content, and what is no data file is named for what it is."""

import contextlib
import errno
import shutil
import struct
from pathlib import Path

import h5py
import numpy as np
import pytest

from dpot_scale.data.importers import formats
from dpot_scale.data.importers.formats import recognise
from dpot_scale.errors import DataError, MachineError, UserError

UPSTREAM = Path(__file__).parents[2] / "upstream"
SHALLOW_WATER = UPSTREAM / "pdebench_shallow_water.h5"


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("fno_v5.mat", "FNO Navier-Stokes, MATLAB v5"),
        ("fno_v73.mat", "FNO Navier-Stokes, MATLAB v7.3"),
        ("pdebench_diffusion_reaction.h5", "PDEBench diffusion-reaction"),
        ("pdebench_shallow_water.h5", "PDEBench shallow water"),
        ("pdearena_smoke.h5", "PDEArena smoke"),
        ("darcy_test_16.pt", "steady Darcy flow, neuraloperator"),
        ("cfdbench/cylinder/geo.zip", "CFDBench cylinder"),
        ("cfdbench/dam.zip", "CFDBench dam"),
    ],
)
@pytest.mark.parametrize("renamed", ["164687", "misleading.h5", "misleading.mat"])
def test_the_name_of_a_file_decides_nothing(
    file: str, kind: str, renamed: str, tmp_path: Path
) -> None:
    shutil.copy(UPSTREAM / file, tmp_path / renamed)
    assert {source.format for source in recognise(tmp_path / renamed)} == {kind}


def test_hdf5_of_another_kind_is_not_taken_for_ours(tmp_path: Path) -> None:
    """Velocity components called u and v in one file are no vorticity called u."""
    file = tmp_path / "output.nc"
    with h5py.File(file, "w") as content:
        for name in ("u", "v", "vor", "div", "lat", "lon"):
            content[name] = np.zeros((4, 1, 6, 8), np.float32)
    with pytest.raises(DataError, match=r"HDF5 with: div, lat, lon, u, v, vor\)"):
        recognise(file)


# Its end says that the zip file has three parts.
# As one Python says it, and another.
OF_A_ZIP_IN_PARTS = (
    r"is damaged \(zipfiles that span multiple disks are not supported\)|is a truncated zip file"
)
PARTS_OF_A_ZIP = (
    b"PK\x03\x04"
    + bytes(60)
    + struct.pack("<4sLQL", b"PK\x06\x07", 1, 0, 3)
    + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0, 0, 0, 0, 0)
)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs pointer"),
        (b"\x89HDF\r\n\x1a\n" + bytes(88), "truncated or damaged HDF5"),
        (b"<html>not found</html>", "is a web page: the download failed"),
        (b"\x1f\x8b\x08" + bytes(90), r"is of no known format \(gzip; unpack it first\); `python"),
        (bytes(1000), "is of no known format"),
        (PARTS_OF_A_ZIP, OF_A_ZIP_IN_PARTS),
    ],
)
def test_what_is_no_data_file(content: bytes, sentence: str, tmp_path: Path) -> None:
    file = tmp_path / "file.h5"
    file.write_bytes(content)
    with pytest.raises(DataError, match=sentence):
        recognise(file)


def test_a_truncated_download(tmp_path: Path) -> None:
    cut = tmp_path / "cut.h5"
    cut.write_bytes(SHALLOW_WATER.read_bytes()[:500_000])
    with pytest.raises(DataError, match=r"truncated or damaged HDF5 file .* download it again"):
        recognise(cut)


@pytest.mark.parametrize("name", ["a.mat", "a.hdf5", "a.pt", "a.npy", "164687"])
def test_a_web_page_in_place_of_data(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_text("<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head></html>")
    with pytest.raises(DataError, match=rf"^{file} is a web page: the download failed \(404 Not F"):
        recognise(file)
    file.write_text('{"status": "ERROR", "message": "no such file"}')
    with pytest.raises(DataError, match=r"is a web page: the download failed \(no such file; ERR"):
        recognise(file)


@pytest.mark.parametrize(
    ("number", "kind", "sentence"),
    [
        (errno.EIO, MachineError, r" \(Input/output error\); the file may be intact, but its stor"),
        (
            errno.EMFILE,
            MachineError,
            r" \(.*\); the file may be intact, but this machine lacks mem",
        ),
        (errno.EACCES, DataError, ": Permission denied$"),
    ],
)
def test_what_the_system_does_not_let_read_is_not_downloaded_again(
    number: int, kind: type[UserError], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broken disk, too many open files, a file that may not be read."""

    def fail(path: Path, *, paper: bool) -> None:
        raise OSError(number, "Can't synchronously read data (file read failed)", str(path))

    monkeypatch.setattr(formats, "FORMATS", {"broken": fail})
    with pytest.raises(kind, match=rf"^cannot read {SHALLOW_WATER}{sentence}"):
        recognise(SHALLOW_WATER)


def test_a_damaged_header_of_npy_is_a_sentence(tmp_path: Path) -> None:
    """Whatever byte of it is damaged: NumPy raises errors of many kinds."""
    np.save(tmp_path / "good.npy", np.zeros((3, 4, 4, 5), np.float32))
    content = (tmp_path / "good.npy").read_bytes()
    file = tmp_path / "a.npy"
    for position in range(6, 128):
        for byte in (0, 10, *b"'({,9x", 200, 255):
            damaged = bytearray(content)
            damaged[position] = byte
            file.write_bytes(damaged)
            with contextlib.suppress(DataError):  # a few changes give another sound header
                recognise(file)
    for header in (b"{'descr': '<f4', (", b"{'descr':\n  ", b"(" * 500, b"'a' 'b"):
        file.write_bytes(content[:8] + len(header).to_bytes(2, "little") + header)
        with pytest.raises(DataError, match=rf"{file} is damaged, or holds objects"):
            recognise(file)


def test_a_web_page_in_place_of_an_array_of_a_case(tmp_path: Path) -> None:
    (tmp_path / "case.json").write_text('{"vel_in": 1.0}')
    np.save(tmp_path / "u.npy", np.zeros((20, 4, 4)))
    (tmp_path / "v.npy").write_text("<html><title>Too many requests</title></html>")
    (error,) = recognise(tmp_path / "case.json")
    assert str(error).startswith(f"{tmp_path / 'v.npy'} is a web page: the download failed (Too")
