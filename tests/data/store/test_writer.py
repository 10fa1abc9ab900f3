"""The writer: what does not fit is refused, and nothing half-written is ever a dataset."""

import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from dpot_scale.data.info import DatasetInfo
from dpot_scale.data.store import writer as writer_module
from dpot_scale.data.store.dataset import (
    INDEX,
    SPLITS,
    dataset_folders,
    open_store,
    stored_names,
)
from dpot_scale.data.store.index import read_index
from dpot_scale.data.store.shards import sha256
from dpot_scale.data.store.writer import StoreWriter
from dpot_scale.errors import DataError, MachineError
from tests.conftest import no_more_open_files


def write(root: Path, info: DatasetInfo, *blocks: np.ndarray, **options: int) -> None:
    with StoreWriter(root, info, **options) as writer:
        for block in blocks:
            writer.append("train", block)


class Crash(BaseException):
    """Not an Exception: like a kill, nothing may catch it."""


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


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (np.zeros((1, 2, 1, 4, 5)), r"\(2, 1, 4, 5\) do not have C, \*space = \(1, 4, 4\)"),
        (np.zeros((1, 2, 2, 4, 4)), "do not have C"),
        (np.full((1, 2, 1, 4, 4), np.nan), "train trajectory 2 holds NaN .* in frame 0"),
        (np.full((1, 2, 1, 4, 4), 1e300), "train trajectory 2 holds NaN or infinite values"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_nothing(
    fields: np.ndarray, sentence: str, tmp_path: Path, coded, describe
) -> None:
    with pytest.raises(DataError, match=sentence):
        write(tmp_path, describe("a"), coded(0, 2, 2, 1, 4), fields)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shard_bytes", [1, 2**20])
def test_trajectories_of_different_length_are_in_shards_of_their_own(
    shard_bytes: int, tmp_path: Path, coded, describe
) -> None:
    blocks = [coded(0, 2, 3, 1, 4), coded(2, 1, 5, 1, 4), coded(3, 2, 3, 1, 4)]
    write(tmp_path, describe("a"), *blocks, shard_bytes=shard_bytes)
    store = open_store(tmp_path, "a")
    assert store.lengths("train") == [(2, 3), (1, 5), (2, 3)]
    assert store.lengths("test") == []
    rows = [trajectory for block in blocks for trajectory in block]
    assert [store.num_frames("train", row) for row in range(5)] == [3, 3, 5, 3, 3]
    for row, expected in enumerate(rows):
        np.testing.assert_array_equal(store.read("train", row, 0, len(expected)), expected)
    assert store.statistics.mean == pytest.approx([np.concatenate(rows).mean()])


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


@pytest.mark.parametrize("at_the_end", [False, True])
def test_too_many_open_files_are_no_fault_of_the_disk(
    at_the_end: bool, tmp_path: Path, coded, describe
) -> None:
    """What is on the disk stays for the next writer."""
    two = coded(0, 2, 2, 1, 4)

    def writer() -> StoreWriter:
        return StoreWriter(tmp_path, describe("a"), shard_bytes=two.nbytes, resume=True)

    def write() -> None:
        with ExitStack() as stack, writer() as interrupted:
            interrupted.append("train", two)
            stack.enter_context(no_more_open_files())
            interrupted.append("train", two[:1] if at_the_end else two)

    with pytest.raises(MachineError, match=r"^cannot write .*Too many open files.*`ulimit -n`"):
        write()
    with writer() as going_on:
        assert going_on.written("train") == 2
        going_on.append("train", two)
    np.testing.assert_array_equal(open_store(tmp_path, "a").read("train", 3, 0, 2), two[1])


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


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"scored": (True,)}, "info.scored has 1 values for 2 channels"),
        ({"grid": (np.int64(4), 0)}, "info.grid.1=0: must be at least 1"),
        ({"domain_length": (1.0, float("nan"))}, "info.domain_length.1=.nan: must be "),
        ({"frame_interval": 0}, "info.frame_interval=0: must be more than 0"),
        ({"channels": "uv"}, "info.channels='uv': must be a list"),
    ],
)
def test_an_info_that_no_index_can_hold_is_refused_before_anything_is_written(
    changed: dict[str, Any], sentence: str, describe: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=re.escape(f"dataset a cannot be stored: {sentence}")):
        StoreWriter(tmp_path, replace(describe("a", ("u", "v")), **changed))


def test_numbers_of_numpy_are_stored_as_plain_ones(describe, coded, tmp_path: Path) -> None:
    info = replace(describe("a"), grid=tuple(np.array([4, 4])), frame_interval=np.float32(0.5))
    with StoreWriter(tmp_path, info) as writer:
        writer.append("train", coded(0, 1, 2, 1, 4))
    assert open_store(tmp_path, "a").info == describe("a")


def test_three_splits_in_order(make_store, coded) -> None:
    store = make_store(train=3, valid=2, test=2, frames=6)
    assert [store.num_trajectories(split) for split in SPLITS] == [3, 2, 2]
    np.testing.assert_array_equal(store.read("valid", 1, 0, 6), coded(6, 1, 6, 1, 4)[0])
    assert store.described_split == "train"
    assert store.statistics.mean[0] == pytest.approx(coded(0, 3, 6, 1, 4).mean())
    assert not store.is_for_evaluation


def test_a_split_is_not_gone_back_to(tmp_path: Path, coded, describe) -> None:
    sentence = "train trajectories are written before those of the test split"
    with StoreWriter(tmp_path, describe("a")) as writer:
        writer.append("test", coded(0, 1, 2, 1, 4))
        with pytest.raises(DataError, match=sentence):
            writer.append("train", coded(1, 1, 2, 1, 4))


def test_the_statistics_of_data_for_evaluation_are_those_of_their_first_split(
    make_store, coded
) -> None:
    store = make_store(train=0, test=2)
    assert store.is_for_evaluation
    assert store.described_split == "test"
    assert store.statistics.mean[0] == pytest.approx(coded(0, 2, 6, 1, 4).mean())
    assert make_store("both", train=0, valid=1, test=2).described_split == "valid"
