"""A file is recognised by its content, and what is no data file is named for what it is."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from dpot_scale.data.importers.formats import recognise
from dpot_scale.errors import DataError

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


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs pointer"),
        (b"\x89HDF\r\n\x1a\n" + bytes(88), "truncated or damaged HDF5"),
        (b"<html>not found</html>", "is of no known format; `python -m dpot_scale.prepare import"),
        (bytes(1000), "is of no known format"),
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
