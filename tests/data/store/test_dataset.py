"""The store: what is written is read, and found below its folder."""

from pathlib import Path

import numpy as np
import pytest

from dpot_scale.data.store.dataset import (
    INDEX,
    dataset_folders,
    hold_folder,
    open_store,
    stored_names,
)
from dpot_scale.data.store.writer import StoreWriter
from dpot_scale.errors import DataError


def test_windows_come_back_from_every_shard(make_store, coded) -> None:
    trajectory_bytes = 6 * 2 * 4 * 4 * 4
    store = make_store(train=5, test=3, channels=("u", "v"), shard_bytes=2 * trajectory_bytes)
    assert [shard.trajectories for shard in store.shards["train"]] == [2, 2, 1]
    assert [store.num_trajectories(split) for split in ("train", "test")] == [5, 3]
    assert store.num_frames("train") == 6
    expected = coded(0, 8, 6, 2, 4)
    for trajectory in range(5):
        window = store.read("train", trajectory, 2, 3)
        assert window.dtype == np.float32
        np.testing.assert_array_equal(window, expected[trajectory, 2:5])
    np.testing.assert_array_equal(store.read("test", 2, 0, 6), expected[7])


def test_an_unreadable_store_is_one_sentence(make_store, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'b' is missing under .* \(there is: nothing\)"):
        open_store(tmp_path, "b")
    store = make_store("a")
    with pytest.raises(DataError, match=r"'b' is missing under .* \(there is: a\)"):
        open_store(tmp_path, "b")
    shard = store.folder / store.shards["train"][0].file
    shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(DataError, match="prepare verify"):
        open_store(tmp_path, "a").read("train", 0, 0, 1)
    for broken in ("{", "{}", '{"info": {"name": "a"}, "splits": {}}'):
        (store.folder / INDEX).write_text(broken)
        with pytest.raises(DataError, match="is not a dataset index"):
            open_store(tmp_path, "a")


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path, describe) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot write to"), hold_folder(tmp_path / "file"):
        pass
    with (
        pytest.raises(DataError, match="cannot write to"),
        StoreWriter(tmp_path / "file", describe("a")),
    ):
        pass


def test_stores_are_found_below_a_folder(make_store, tmp_path: Path) -> None:
    make_store("b")
    make_store("a")
    (tmp_path / ".c.partial").mkdir()
    (tmp_path / ".c.partial" / INDEX).touch()
    assert stored_names(tmp_path) == ["a", "b"]
    assert dataset_folders(tmp_path) == [tmp_path / "a", tmp_path / "b"]
    assert dataset_folders(tmp_path / "a") == [tmp_path / "a"]
    (tmp_path / "nested").mkdir()
    (tmp_path / "b").rename(tmp_path / "nested" / "b")
    assert dataset_folders(tmp_path) == [tmp_path / "a", tmp_path / "nested" / "b"]
    assert dataset_folders(tmp_path / "absent") == []
