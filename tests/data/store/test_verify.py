"""Every fault of a stored dataset is found and named."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from dpot_scale.data.store import verify
from dpot_scale.data.store.dataset import INDEX, DatasetStore, Split, open_store
from dpot_scale.data.store.overview import verify_datasets
from dpot_scale.data.store.shards import sha256
from dpot_scale.data.store.verify import verify_dataset
from dpot_scale.data.store.writer import StoreWriter


def shard_of(store: DatasetStore, split: Split, number: int = 0) -> Path:
    return store.folder / store.shards[split][number].file


def change(store: DatasetStore, edit: Callable[[h5py.File], None], *, resign: bool) -> DatasetStore:
    """Edit the first training shard; `resign` makes its checksum right again."""
    shard = shard_of(store, "train")
    with h5py.File(shard, "r+") as file:
        edit(file)
    if resign:
        index = store.folder / INDEX
        content = json.loads(index.read_text())
        content["splits"]["train"][0]["sha256"] = sha256(shard)
        index.write_text(json.dumps(content))
    return open_store(store.folder.parent, store.info.name)


def test_a_sound_dataset(make_store) -> None:
    store = make_store(channels=("u", "v"), train=3, test=2, shard_bytes=1)
    found = verify_dataset(store)
    assert found.problems == []
    assert found.trajectories == 5
    np.testing.assert_array_equal(found.minimum_C, [0, 1])
    np.testing.assert_allclose(found.maximum_C, [4050 + 15 / 16, 4051 + 15 / 16])


def test_one_changed_value(make_store) -> None:
    def edit(file: h5py.File) -> None:
        file["fields"][0, 0, 0, 0, 0] = 0.25

    found = verify_dataset(change(make_store(), edit, resign=False))
    assert found.problems == [
        "train/shard-00000.h5 has changed since it was written (other sha256)"
    ]


def test_values_that_are_not_finite(make_store) -> None:
    def edit(file: h5py.File) -> None:
        file["fields"][1, 2, 0, 0, :3] = np.nan

    found = verify_dataset(change(make_store(), edit, resign=True))
    assert found.problems == ["train 1 holds 3 values that are not finite"]
    assert np.isfinite(found.maximum_C).all()


@pytest.mark.parametrize(
    "fields", [None, np.zeros((3, 5, 1, 4, 4), "f4"), np.zeros((3, 6, 1, 4, 4), "f8")]
)
def test_another_shape_or_type(fields, make_store) -> None:
    def edit(file: h5py.File) -> None:
        del file["fields"]
        if fields is not None:
            file["fields"] = fields

    found = verify_dataset(change(make_store(), edit, resign=True))
    assert found.problems == [
        "train/shard-00000.h5 does not hold fields (3, 6, 1, 4, 4) in float32"
    ]


def test_missing_and_truncated_files(make_store) -> None:
    store = make_store(train=2, shard_bytes=1)
    shard_of(store, "train", 0).unlink()
    shard = shard_of(store, "train", 1)
    shard.write_bytes(shard.read_bytes()[:-50])
    missing, changed, unreadable = verify_dataset(store).problems
    assert "train/shard-00000.h5 cannot be read (" in missing
    assert "train/shard-00001.h5 has changed" in changed
    assert "train/shard-00001.h5 cannot be read (" in unreadable


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO])
def test_what_a_machine_cannot_read_now_is_not_called_damaged(
    number: int, make_store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other datasets are verified."""
    away = make_store("a").folder
    make_store("b")
    digest = verify.digest

    def disturbed(path: Path) -> str:
        if away in path.parents:
            raise OSError(number, os.strerror(number))
        return digest(path)

    monkeypatch.setattr(verify, "digest", disturbed)
    overview = verify_datasets(away.parent)
    assert [(row[0], row[-1]) for row in overview.rows] == [("a", "not verified"), ("b", "ok")]
    (problem,) = overview.problems
    assert problem.startswith(f"a: cannot read {away / 'train' / 'shard-00000.h5'} (")
    assert "the file may be intact" in problem


def test_test_trajectories_that_were_trained_on(tmp_path: Path, coded, describe) -> None:
    with StoreWriter(tmp_path, describe("a")) as writer:
        writer.append("train", coded(0, 3, 2, 1, 4))
        writer.append("test", coded(1, 3, 2, 1, 4))  # trajectories 1 and 2 again, and a new one
    assert verify_dataset(open_store(tmp_path, "a")).problems == [
        "2 test trajectories are also in the train split (train 1 = test 0; train 2 = test 1)",
        "2 trajectories repeat another one (train 1 = test 0; train 2 = test 1)",
    ]


def test_repetition_within_a_split_is_no_leak(tmp_path: Path, coded, describe) -> None:
    with StoreWriter(tmp_path, describe("a")) as writer:
        for _ in range(3):
            writer.append("train", coded(0, 1, 2, 1, 4))
        writer.append("test", coded(1, 1, 2, 1, 4))
    assert verify_dataset(open_store(tmp_path, "a")).problems == [
        "2 trajectories repeat another one (train 0 = train 1 = train 2)"
    ]


def test_an_empty_split(tmp_path: Path, coded, describe) -> None:
    with StoreWriter(tmp_path, describe("a")) as writer:
        writer.append("train", coded(0, 1, 2, 1, 4))
    assert verify_dataset(open_store(tmp_path, "a")).problems == ["the test split is empty"]


def test_data_for_evaluation_alone_are_noted(make_store) -> None:
    store = make_store(train=0, test=2)
    found = verify_dataset(store)
    assert found.problems == []
    assert found.notes == ["it is for evaluation alone: there is no trajectory to train on"]


def test_trajectories_that_two_splits_share(tmp_path: Path, coded, describe) -> None:
    with StoreWriter(tmp_path, describe("a")) as writer:
        for split, first in (("train", 0), ("valid", 1), ("test", 2)):
            writer.append(split, coded(first, 2, 2, 1, 4))
    assert verify_dataset(open_store(tmp_path, "a")).problems == [
        "1 valid trajectories are also in the train split (train 1 = valid 0)",
        "1 test trajectories are also in the valid split (valid 1 = test 0)",
        "2 trajectories repeat another one (train 1 = valid 0; valid 1 = test 0)",
    ]
