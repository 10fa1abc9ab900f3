"""Which split a path names, and which trajectories a split gets."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dpot_scale.data.importers.source import Source
from dpot_scale.data.importers.splits import by_folder_or_name, parts_of
from dpot_scale.data.store.dataset import Split
from dpot_scale.errors import DataError


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("data/train/seed=1/run1/output.nc", "train"),
        ("data/valid/a.hdf5", "valid"),
        ("data/Test/a.hdf5", "test"),
        ("test/train/a.hdf5", "train"),  # the nearest folder
        ("train/my_test.hdf5", "train"),  # a folder before the name
        ("ns2d_1e-3_test.hdf5", "test"),
        ("NavierStokes2D_valid_61849_0.50000.h5", "valid"),
        ("2D_Train_Rand.hdf5", "train"),
        ("latest/data.hdf5", None),
        ("latest.hdf5", None),
        ("test_data/data.hdf5", None),  # a folder is called by the word alone
        ("train/1/2/3/data.hdf5", None),  # too far away
    ],
)
def test_the_word_that_counts(path: str, split: str | None) -> None:
    assert by_folder_or_name(Path(path)) == split


def source_of(trajectories: int, split: Split | None = None, path: str = "a.h5") -> Source:
    return Source(
        path=Path(path),
        format="a test",
        candidates=("a",),
        equation="none",
        channels=("u",),
        grid=(4, 4),
        domain_length=(1.0, 1.0),
        frame_interval=1.0,
        boundary="unknown",
        trajectories=trajectories,
        frames=5,
        read=lambda *_: np.empty(0),
        split=split,
    )


Cut = tuple[str, int, int]


def cuts(*sources: Source, name: str = "a", **options: bool) -> list[Cut]:
    return [(p.split, p.first, p.trajectories) for p in parts_of(sources, name, **options)]


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        ([source_of(20)], [("train", 0, 18), ("test", 18, 2)]),
        ([source_of(2)], [("train", 0, 1), ("test", 1, 1)]),
        ([source_of(1)], [("test", 0, 1)]),
        ([source_of(1)] * 2, [("train", 0, 1), ("test", 0, 1)]),
        ([source_of(1)] * 20, [("train", 0, 1)] * 18 + [("test", 0, 1)] * 2),
        ([source_of(3, "test")], [("test", 0, 3)]),
        ([source_of(3, "valid"), source_of(2, "test")], [("valid", 0, 3), ("test", 0, 2)]),
        (
            [source_of(3, "test"), source_of(2, "valid"), source_of(4, "train")],
            [("train", 0, 4), ("valid", 0, 2), ("test", 0, 3)],
        ),
    ],
)
def test_the_split_of_every_trajectory(sources: list[Source], expected: list[Cut]) -> None:
    sources = [replace(source, path=Path(f"{i}.h5")) for i, source in enumerate(sources)]
    assert cuts(*sources) == expected


def test_the_paper_trains_on_valid_trajectories() -> None:
    sources = source_of(4, "train"), source_of(2, "valid"), source_of(3, "test")
    assert cuts(*sources, paper=True) == [("train", 0, 4), ("train", 0, 2), ("test", 0, 3)]


def test_a_dataset_without_a_test_is_refused() -> None:
    with pytest.raises(DataError, match=r"a\.h5 holds no test files of dataset a; import its"):
        cuts(source_of(4, "train"))
    with pytest.raises(DataError, match="holds no test files"):
        cuts(source_of(4, "train"), source_of(4, "valid"))


def test_a_dataset_that_lost_its_training_files_is_not_one_for_evaluation() -> None:
    with pytest.raises(DataError, match="holds no train files of dataset a"):
        cuts(source_of(4, "test"), needs_train=True)
