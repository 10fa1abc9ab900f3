"""Parts of .npy files are read as they are, wherever they lie; a file that fails ends nothing."""

import itertools
import os
from pathlib import Path

import numpy as np
import pytest

from dpot_scale.data.store import numpy_files
from dpot_scale.data.store.numpy_files import NumpyFile

SHAPE = (3, 4, 6, 5)
ROWS, FRAMES = slice(1, 2), slice(1, 3)
ORDERS = sorted(itertools.permutations(range(4)))[::5]


@pytest.mark.parametrize("at_once", [1, 40, 2**20])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "i2"])
def test_a_part_is_what_is_stored(
    at_once: int, order: tuple[int, ...], dtype: str, tmp_path: Path, monkeypatch
) -> None:
    """The axes of a published file lie in any order; `order` is that in memory."""
    monkeypatch.setattr(numpy_files, "AT_ONCE", at_once)
    values = np.random.default_rng(0).normal(0, 100, [SHAPE[axis] for axis in order]).astype(dtype)
    path = tmp_path / "fields.npy"
    for array in (values, np.asfortranarray(values)):
        np.save(path, array)
        file = NumpyFile.of(path)
        assert (file.shape, file.dtype) == (array.shape, array.dtype)
        window = tuple({0: ROWS, 1: FRAMES}.get(axis, slice(None)) for axis in order)
        row = tuple({0: 1, 1: FRAMES}.get(axis, slice(None)) for axis in order)
        for index in (window, row, (), (0,) * 4, (slice(1, 1),)):
            read = file[index]
            assert read.dtype == array.dtype
            assert np.array_equal(read, array[index])


def test_nothing_but_the_part_is_read_of_a_large_file(tmp_path: Path) -> None:
    """Here the rest of the file is a hole: its size would not fit into memory."""
    path = tmp_path / "fields.npy"
    large = np.lib.format.open_memmap(path, "w+", np.float32, (2**30, 4, 4, 4))
    large[2**29] = 7
    large.flush()
    assert (NumpyFile.of(path)[slice(2**29, 2**29 + 2), slice(0, 2)][:, 0, 0, 0] == [7, 0]).all()


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_file_that_is_cut_while_it_is_read_is_an_error(order: str, tmp_path: Path) -> None:
    """The system would end a process that reads it where it is mapped into memory."""
    path = tmp_path / "fields.npy"
    np.save(path, np.ones((4, 2**20), order=order))
    file = NumpyFile.of(path)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(OSError, match="it ends at"):
        file[2:3, :]
    os.truncate(path, 0)
    with pytest.raises(OSError, match="it ends at"):
        file[0:1, :]


def test_objects_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "fields.npy"
    np.save(path, np.array([{}], object), allow_pickle=True)
    with pytest.raises(ValueError, match="objects in dtype"):
        NumpyFile.of(path)
