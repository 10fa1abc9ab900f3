"""A checkpoint is a transaction: whatever is interrupted, the one before stays."""

import json
import logging
import os
import shutil
from pathlib import Path

import pytest
import torch

from dpot_scale.engine.runtime import World, start_world
from dpot_scale.errors import CheckpointError
from dpot_scale.training import checkpoint
from dpot_scale.training.checkpoint import MARKER, CheckpointStore, TrainState


class Counter:
    """The smallest engine with a state: files of two sizes, one in a subfolder."""

    def __init__(self, value: int = 0) -> None:
        self.value = value

    def save_shards(self, folder: Path) -> None:
        (folder / "shards").mkdir()
        torch.save({"value": self.value}, folder / "shards" / "rank_0.pt")
        (folder / "notes.txt").write_text("notes")

    def load_shards(self, folder: Path) -> None:
        self.value = torch.load(folder / "shards" / "rank_0.pt")["value"]


class Crash(BaseException):
    """Not an Exception: like a kill, nothing may catch it."""


@pytest.fixture(scope="module")
def world() -> World:
    return start_world()


def store_in(directory: Path, world: World, config_hash: str = "hash") -> CheckpointStore:
    return CheckpointStore(directory, keep=2, config_hash=config_hash, world=world)


def state_at(step: int) -> TrainState:
    return TrainState(step=step, windows_seen=4 * step)


def save_steps(directory: Path, world: World, *steps: int) -> CheckpointStore:
    store = store_in(directory, world)
    for step in steps:
        store.save(Counter(step), state_at(step))
    return store


def test_nothing_to_restore(tmp_path: Path, world: World) -> None:
    store = store_in(tmp_path / "absent", world)
    assert store.restore(Counter()) is None


def test_restore_gives_back_what_was_saved(tmp_path: Path, world: World) -> None:
    store = save_steps(tmp_path, world, 5, 1000000)
    engine = Counter()
    assert store.restore(engine) == state_at(1000000)
    assert engine.value == 1000000


def test_old_checkpoints_and_debris_are_removed(tmp_path: Path, world: World) -> None:
    (tmp_path / "step_000001").mkdir()
    save_steps(tmp_path, world, 2, 3, 4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_000003", "step_000004"]


def test_saving_a_step_again_replaces_it(tmp_path: Path, world: World) -> None:
    store = save_steps(tmp_path, world, 1)
    store.save(Counter(77), state_at(1))
    engine = Counter()
    store.restore(engine)
    assert engine.value == 77


def crash(*_: object, **__: object) -> None:
    raise Crash


def write_half_then_crash(engine: Counter, folder: Path) -> None:
    (folder / "shards").mkdir()
    (folder / "shards" / "rank_0.pt").write_bytes(b"half")
    raise Crash


@pytest.mark.parametrize(
    ("owner", "name", "interruption"),
    [
        (Path, "mkdir", crash),
        (Counter, "save_shards", write_half_then_crash),
        (torch, "save", crash),
        (checkpoint, "_examine", crash),
        (json, "dumps", crash),
        (os, "fsync", crash),
        (os, "replace", crash),
    ],
)
def test_a_crash_before_the_commit_leaves_the_one_before(
    owner: object,
    name: str,
    interruption: object,
    tmp_path: Path,
    world: World,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = save_steps(tmp_path, world, 1, 2)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, interruption)
        with pytest.raises(Crash):
            store.save(Counter(3), state_at(3))
    assert_restores(tmp_path, world, 2)
    # What the crash left behind is no obstacle.
    store.save(Counter(3), state_at(3))
    assert_restores(tmp_path, world, 3)


def test_a_crash_while_removing_leaves_the_new_one(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = save_steps(tmp_path, world, 1, 2)
    removed: list[Path] = []

    def remove_then_crash(folder: Path, **_: object) -> None:
        removed.append(folder)
        if folder.exists():  # not the folder that the save makes sure is absent
            raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", remove_then_crash)
        with pytest.raises(Crash):
            store.save(Counter(3), state_at(3))
    assert removed[-1] == tmp_path / "step_000001"
    assert not (removed[-1] / MARKER).exists(), "half removed, it no longer counts"
    assert_restores(tmp_path, world, 3)


def assert_restores(directory: Path, world: World, step: int) -> None:
    engine = Counter()
    assert store_in(directory, world).restore(engine) == state_at(step)
    assert engine.value == step


@pytest.mark.parametrize("damage", ["truncated", "changed", "missing", "marker"])
def test_a_damaged_shard_falls_back(
    damage: str, tmp_path: Path, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    store = save_steps(tmp_path, world, 1, 2)
    shard = tmp_path / "step_000002" / "shards" / "rank_0.pt"
    content = shard.read_bytes()
    match damage:
        case "truncated":
            shard.write_bytes(content[:-10])
        case "changed":
            shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        case "missing":
            shard.unlink()
        case "marker":
            (tmp_path / "step_000002" / MARKER).write_text("{")
    engine = Counter()
    with caplog.at_level(logging.WARNING):
        assert store.restore(engine) == state_at(1)
    assert engine.value == 1
    assert "step_000002 is damaged" in caplog.text


def test_all_damaged_is_an_error(tmp_path: Path, world: World) -> None:
    store = save_steps(tmp_path, world, 1)
    (tmp_path / "step_000001" / "notes.txt").unlink()
    with pytest.raises(CheckpointError, match=r"no checkpoint under .* is intact"):
        store.restore(Counter())


def test_another_config_is_refused(tmp_path: Path, world: World) -> None:
    save_steps(tmp_path, world, 1)
    with pytest.raises(CheckpointError, match=r"another config \(hash, this run has other"):
        store_in(tmp_path, world, "other").restore(Counter())


def test_another_number_of_workers_is_refused(tmp_path: Path, world: World) -> None:
    save_steps(tmp_path, world, 1)
    marker = tmp_path / "step_000001" / MARKER
    marker.write_text(marker.read_text().replace('"world_size": 1', '"world_size": 4'))
    with pytest.raises(CheckpointError, match=r"made by 4 workers .* continue on 4 workers, or"):
        store_in(tmp_path, world).restore(Counter())
