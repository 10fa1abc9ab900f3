"""The store: what is written is read, and nothing half-written is ever a dataset."""

import multiprocessing
import os
import threading
from multiprocessing.connection import Connection
from pathlib import Path

import h5py
import numpy as np
import pytest

from dpot_scale.data.info import DatasetInfo
from dpot_scale.data.store import writer as writer_module
from dpot_scale.data.store.dataset import (
    INDEX,
    DatasetStore,
    dataset_folders,
    locked,
    open_store,
    stored_names,
)
from dpot_scale.data.store.index import read_index
from dpot_scale.data.store.shards import sha256
from dpot_scale.data.store.writer import StoreWriter
from dpot_scale.errors import DataError


def write(root: Path, info: DatasetInfo, *blocks: np.ndarray, **options: int) -> None:
    with StoreWriter(root, info, **options) as writer:
        for block in blocks:
            writer.append("train", block)


class Crash(BaseException):
    """Not an Exception: like a kill, nothing may catch it."""


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


def test_the_index_and_the_shards_describe_the_dataset(
    make_store, tmp_path: Path, describe
) -> None:
    store = make_store(channels=("u", "v"))
    assert store.info == describe("coded", ("u", "v"))
    assert read_index(store.folder / INDEX).info == store.info
    shard = store.shards["train"][0]
    assert sha256(store.folder / shard.file) == shard.sha256
    with h5py.File(store.folder / shard.file) as file:
        assert file["fields"].chunks is None, "contiguous: a window is one read"
        assert list(file.attrs["channels"]) == ["u", "v"]
        assert list(file.attrs["spacing"]) == [0.25, 0.25]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["coded"], "nothing is left over"


def test_parameters_are_kept_beside_their_trajectories(tmp_path: Path, coded, describe) -> None:
    info = describe("seeded")
    trajectory_bytes = 2 * 4 * 4 * 4
    with StoreWriter(tmp_path, info, shard_bytes=2 * trajectory_bytes) as writer:
        writer.append("train", coded(0, 3, 2, 1, 4), {"seed": np.array([7, 8, 9])})
    seeds = []
    for shard in open_store(tmp_path, "seeded").shards["train"]:
        with h5py.File(tmp_path / "seeded" / shard.file) as file:
            seeds.append(list(file["parameters/seed"]))
    assert seeds == [[7, 8], [9]]


def test_only_the_frames_of_a_window_are_read(make_store) -> None:
    counter = Path("/proc/self/io")
    if not counter.exists():
        pytest.skip("the system does not count the bytes that are read")

    def bytes_read() -> int:
        return int(counter.read_text().split()[1])

    store = make_store(train=2, frames=200, grid=32)
    store.read("train", 0, 0, 1)  # opens the file
    before = bytes_read()
    store.read("train", 1, 150, 10)
    window, trajectory = 10 * 32 * 32 * 4, 200 * 32 * 32 * 4
    assert window <= bytes_read() - before < 2 * window < trajectory / 8


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (np.zeros((1, 2, 1, 4, 5)), r"\(2, 1, 4, 5\) do not have C, \*space = \(1, 4, 4\)"),
        (np.zeros((1, 2, 2, 4, 4)), "do not have C"),
        (np.full((1, 2, 1, 4, 4), np.nan), "train trajectory 2 holds NaN .* in frame 0"),
        (np.full((1, 2, 1, 4, 4), 1e300), "train trajectory 2 holds NaN or infinite values"),
        (np.zeros((1, 3, 1, 4, 4)), "differ in length, 2 to 3 frames"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_nothing(
    fields: np.ndarray, sentence: str, tmp_path: Path, coded, describe
) -> None:
    with pytest.raises(DataError, match=sentence):
        write(tmp_path, describe("a"), coded(0, 2, 2, 1, 4), fields)
    assert list(tmp_path.iterdir()) == []


def test_shards_of_different_length_are_refused(tmp_path: Path, coded, describe) -> None:
    with pytest.raises(DataError, match="differ in length"):
        write(tmp_path, describe("a"), coded(0, 1, 2, 1, 4), coded(1, 1, 3, 1, 4), shard_bytes=1)
    assert stored_names(tmp_path) == []


def test_a_bad_frame_is_named(tmp_path: Path, coded, describe) -> None:
    fields = coded(0, 3, 5, 1, 4)
    fields[1, 3, 0, 2, 2] = np.inf
    with (
        pytest.raises(DataError, match=r"trajectory 1 holds .* first in frame 3"),
        StoreWriter(tmp_path, describe("a")) as writer,
    ):
        writer.append("train", fields)


@pytest.mark.parametrize("step", ["_write", "_commit", "flush_to_disk"])
def test_a_crash_leaves_no_dataset_and_is_no_obstacle(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, coded, describe
) -> None:
    def crash(*_: object) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(StoreWriter if hasattr(StoreWriter, step) else writer_module, step, crash)
        patch.setattr(writer_module.shutil, "rmtree", lambda *_, **__: None)  # killed: no clean-up
        with pytest.raises(Crash), StoreWriter(tmp_path, describe("a")) as writer:
            writer.append("train", coded(0, 1, 2, 1, 4))
    assert stored_names(tmp_path) == []
    assert dataset_folders(tmp_path) == []
    with pytest.raises(DataError, match="'a' was left unfinished under"):
        open_store(tmp_path, "a")
    with StoreWriter(tmp_path, describe("a")) as writer:
        writer.append("train", coded(0, 1, 2, 1, 4))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    np.testing.assert_array_equal(
        open_store(tmp_path, "a").read("train", 0, 0, 2), coded(0, 1, 2, 1, 4)[0]
    )


def test_a_folder_that_is_not_ours_is_never_touched(tmp_path: Path, describe) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.tex").write_text("years of work")
    with pytest.raises(DataError, match="exists and holds no dataset"):
        StoreWriter(tmp_path, describe("a"))
    assert (tmp_path / "a" / "thesis.tex").read_text() == "years of work"


def test_a_dataset_is_not_overwritten(make_store, tmp_path: Path, describe) -> None:
    make_store("a")
    with pytest.raises(DataError, match="holds a dataset already"):
        StoreWriter(tmp_path, describe("a"))


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


@pytest.mark.parametrize("cut", ["fields", "all"])
def test_a_shard_that_is_cut_while_it_is_open_is_not_read_as_zeros(cut: str, make_store) -> None:
    store = make_store("a", train=3, frames=200, grid=32, shard_bytes=2**24)
    file = store.folder / store.shards["train"][0].file
    store.read("train", 0, 0, 1)  # opens it
    size = file.stat().st_size
    os.truncate(file, 0 if cut == "all" else size // 2)
    with pytest.raises(DataError, match=rf"cannot read {file} \(cut from {size:,} to .* bytes"):
        store.read("train", 2, 0, 200)


def test_a_file_of_another_shape_or_type_is_not_read(make_store) -> None:
    store = make_store("a", channels=("u", "v"))
    for fields in (
        np.zeros((3, 6, 1, 4, 4)),
        np.zeros((3, 6, 2, 4, 4), "S3"),
        np.zeros((2, 6, 2, 4, 4)),
    ):
        with h5py.File(store.folder / store.shards["train"][0].file, "r+") as file:
            del file["fields"]
            file["fields"] = fields
        with pytest.raises(
            DataError, match=r"it holds .* where index.json says real numbers \(3, 6"
        ):
            open_store(store.folder.parent, "a").read("train", 0, 0, 1)


def test_threads_do_not_close_the_files_of_each_other(make_store) -> None:
    """Training reads in one thread and evaluates in another; a linked dataset has many files."""
    store = make_store("a", train=3)
    store.read("train", 0, 0, 1)
    thread = threading.Thread(target=lambda: (store.read("train", 1, 0, 1), store.close()))
    fields = store._files.array(str(store.folder / store.shards["train"][0].file), "fields")
    thread.start()
    thread.join()
    assert fields.shape == (3, 6, 1, 4, 4), "still open"


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path, describe) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot write to"), locked(tmp_path / "file"):
        pass
    with (
        pytest.raises(DataError, match="cannot write to"),
        StoreWriter(tmp_path / "file", describe("a")),
    ):
        pass


def _read_in_child(store: DatasetStore, answers: Connection) -> None:
    answers.send(store.read("train", 1, 0, 2).tolist())


def test_an_open_store_survives_a_fork(make_store) -> None:
    store = make_store()
    expected = store.read("train", 1, 0, 2).tolist()  # the parent's handle is open
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=_read_in_child, args=(store, theirs))
    child.start()
    assert ours.poll(30), "the child has not answered"
    assert ours.recv() == expected
    child.join()
    assert store.read("train", 1, 0, 2).tolist() == expected


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
