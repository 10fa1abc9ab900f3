"""Which split a path names."""

from pathlib import Path

import pytest

from dpot_scale.data.importers.splits import by_folder_or_name


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("data/train/seed=1/run1/output.nc", "train"),
        ("data/valid/a.hdf5", "train"),  # as the reference does
        ("data/Test/a.hdf5", "test"),
        ("test/train/a.hdf5", "train"),  # the nearest folder
        ("train/my_test.hdf5", "train"),  # a folder before the name
        ("ns2d_1e-3_test.hdf5", "test"),
        ("NavierStokes2D_valid_61849_0.50000.h5", "train"),
        ("2D_Train_Rand.hdf5", "train"),
        ("latest/data.hdf5", None),
        ("latest.hdf5", None),
        ("test_data/data.hdf5", None),  # a folder is called by the word alone
        ("train/1/2/3/data.hdf5", None),  # too far away
    ],
)
def test_the_word_that_counts(path: str, split: str | None) -> None:
    assert by_folder_or_name(Path(path)) == split
