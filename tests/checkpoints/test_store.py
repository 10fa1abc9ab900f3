"""A checkpoint is a transaction: whatever is interrupted, the one before stays."""

import errno
import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from dpot_scale.checkpoints import store as store_module
from dpot_scale.checkpoints.checkpoint import (
    MARKER,
    Checkpoint,
    TrainState,
    committed,
    examine,
    newest_intact,
)
from dpot_scale.checkpoints.deepspeed_files import refuse_code
from dpot_scale.checkpoints.shards import shard_file
from dpot_scale.checkpoints.store import CheckpointStore
from dpot_scale.config.run import CheckpointConfig
from dpot_scale.engine.runtime import World, start_world
from dpot_scale.engine.shards import errors_at_the_end
from dpot_scale.engine.state import Part, Snapshot, StoredState
from dpot_scale.errors import CheckpointError, DiskError

KEEP = CheckpointConfig()


class Counter:
    """The smallest engine with a state: files of two sizes, one in a subfolder."""

    def __init__(self, value: int = 0) -> None:
        self.value = value

    def snapshot(self) -> None:
        """Only this engine reaches its state."""

    def load_state(self, stored: StoredState) -> None:
        raise NotImplementedError

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


def store_in(directory: Path, world: World, identity: str = "hash") -> CheckpointStore:
    model = {"family": "dpot"}
    return CheckpointStore(directory, config=KEEP, identity=identity, world=world, model=model)


def state_at(step: int) -> TrainState:
    return TrainState(step=step)


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


def test_milestones_stay_and_what_the_run_went_back_behind_goes(
    tmp_path: Path, world: World
) -> None:
    config = CheckpointConfig(keep_every=2)
    store = CheckpointStore(tmp_path, config=config, identity="hash", world=world)
    for step in range(1, 8):
        store.save(Counter(step), state_at(step))
    assert [found.state.step for found in committed(tmp_path)] == [7, 6, 4, 2]
    for step in (6, 7):
        (tmp_path / f"step_{step:06d}" / "notes.txt").unlink()
    assert store.restore(Counter()) == state_at(4)
    store.save(Counter(5), state_at(5))
    assert [found.state.step for found in committed(tmp_path)] == [5, 4, 2]
    assert_restores(tmp_path, world, 5)


def test_saving_a_step_again_replaces_it(tmp_path: Path, world: World) -> None:
    store = save_steps(tmp_path, world, 1)
    store.save(Counter(77), state_at(1))
    engine = Counter()
    store.restore(engine)
    assert engine.value == 77


def test_a_folder_in_the_place_of_a_marker_is_debris(tmp_path: Path, world: World) -> None:
    save_steps(tmp_path, world, 1, 2)
    marker = tmp_path / "step_000002" / MARKER
    marker.unlink()
    marker.mkdir()
    assert_restores(tmp_path, world, 1)
    save_steps(tmp_path, world, 2)
    assert_restores(tmp_path, world, 2)


def newest(directory: Path) -> Checkpoint:
    found = newest_intact(directory)
    assert found is not None
    return found


def test_everything_is_on_the_disk_before_the_marker_is(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a loss of power, what has a marker is whole."""
    happened: list[str] = []
    fsync, rename = os.fsync, Path.replace

    def flush(number: int) -> None:
        fsync(number)
        path = Path(f"/proc/self/fd/{number}").readlink()
        happened.append(str(path.relative_to(tmp_path)))

    def replace(path: Path, target: Path) -> Path:
        happened.append("committed")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(Path, "replace", replace)
    save_steps(tmp_path, world, 1)
    before = happened[: happened.index("committed")]
    written = {
        ".",
        "step_000001",
        "step_000001/shards",
        "step_000001/shards/rank_0.pt",
        "step_000001/notes.txt",
    }
    assert written <= set(before)
    assert happened[-1] == "step_000001", "the name of the marker"


def test_a_shard_counts_that_no_listing_shows(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a shared disk, one rank may not see yet what another has written."""
    snapshot = Snapshot({"w": (1,)}, [Part("w", "value", 0, torch.ones(1))], {})
    monkeypatch.setattr(Counter, "snapshot", lambda _: snapshot)
    monkeypatch.setattr(Path, "rglob", lambda *_: iter(()))
    save_steps(tmp_path, world, 1)
    assert list(newest(tmp_path).marker.files) == [shard_file(0)]


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
        (store_module, "examine", crash),
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


def test_another_number_of_workers_is_refused_where_only_the_engine_reaches_its_state(
    tmp_path: Path, world: World
) -> None:
    save_steps(tmp_path, world, 1)
    marker = tmp_path / "step_000001" / MARKER
    marker.write_text(marker.read_text().replace('"world_size": 1', '"world_size": 4'))
    with pytest.raises(
        CheckpointError, match=r"made by 4 CPU workers .* continue on 4 CPU workers"
    ):
        store_in(tmp_path, world).restore(Counter())


def test_another_kind_of_device_is_refused(tmp_path: Path, world: World) -> None:
    save_steps(tmp_path, world, 1)
    marker = tmp_path / "step_000001" / MARKER
    marker.write_text(marker.read_text().replace('"device": "cpu"', '"device": "cuda"'))
    with pytest.raises(CheckpointError, match=r"made by 1 GPU workers and this run has 1 CPU work"):
        store_in(tmp_path, world).restore(Counter())


@pytest.mark.parametrize("has_marker", [True, False])
def test_a_copy_that_a_user_made_is_left_alone(
    has_marker: bool, tmp_path: Path, world: World
) -> None:
    save_steps(tmp_path, world, 4)
    copies = [tmp_path / name for name in ("step_000004_backup", "step_4", "step_", "step_000٤")]
    for copy in copies:
        shutil.copytree(tmp_path / "step_000004", copy)
        if not has_marker:
            (copy / MARKER).unlink()
    assert_restores(tmp_path, world, 4)
    save_steps(tmp_path, world, 5, 6)
    assert all((copy / "shards" / "rank_0.pt").exists() for copy in copies)
    assert [found.folder.name for found in committed(tmp_path)] == ["step_000006", "step_000005"]


def test_whatever_a_user_puts_beside_checkpoints_stays(tmp_path: Path, world: World) -> None:
    save_steps(tmp_path / "elsewhere", world, 1)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "step_000003").write_text("a file")
    (tmp_path / "run" / "step_000001").symlink_to(tmp_path / "elsewhere" / "step_000001")
    (tmp_path / "run" / "step_000002").symlink_to(tmp_path / "nowhere")
    assert_restores(tmp_path / "run", world, 1)
    save_steps(tmp_path / "run", world, 2, 4)
    assert (tmp_path / "run" / "step_000003").read_text() == "a file"
    assert_restores(tmp_path / "elsewhere", world, 1)
    with pytest.raises(DiskError, match=r"cannot write .*step_000003: File exists"):
        save_steps(tmp_path / "run", world, 3)
    assert_restores(tmp_path / "run", world, 4)


def mutations(marker: dict[str, Any]) -> Iterator[object]:
    """Everything that can be wrong with a marker, once."""
    yield from (None, [], 7, "text", {})
    for key in marker:
        if key not in ("format", "contents", "model", "data", "time"):
            yield {name: value for name, value in marker.items() if name != key}
        yield from (marker | {key: wrong} for wrong in (None, "text", -1, 1.5, [1], {"a": 1}, True))
    yield marker | {"step": marker["step"] + 1}
    yield marker | {"files": {}}
    (name, entry), *_ = marker["files"].items()
    others = {key: value for key, value in marker["files"].items() if key != name}
    for wrong in ("../x", "/etc/passwd", "a/../../x", "", "absent"):
        yield marker | {"files": others | {wrong: entry}}
    for wrong_entry in (
        None,
        {},
        entry | {"bytes": -1},
        entry | {"bytes": 10**30},
        entry | {"bytes": str(entry["bytes"])},
        entry | {"sha256": "0" * 64},
        entry | {"sha256": 5},
    ):
        yield marker | {"files": others | {name: wrong_entry}}


def test_a_marker_that_is_wrong_in_any_way_falls_back(tmp_path: Path, world: World) -> None:
    save_steps(tmp_path, world, 1, 2)
    path = tmp_path / "step_000002" / MARKER
    intact = json.loads(path.read_text())
    of_an_older_version = {key: value for key, value in intact.items() if key != "device"}
    mutated = [
        m
        for m in mutations(intact)
        if m not in (intact, of_an_older_version) and not (isinstance(m, dict) and is_sound(m))
    ]
    assert len(mutated) > 50
    for mutation in mutated:
        path.write_text(json.dumps(mutation))
        engine = Counter()
        assert store_in(tmp_path, world).restore(engine) == state_at(1), mutation
    path.write_text("[" * 100_000)
    assert_restores(tmp_path, world, 1)
    path.write_text(json.dumps(intact))
    assert_restores(tmp_path, world, 2)


def is_sound(marker: dict[str, Any]) -> bool:
    """Whether it is the marker of another run, or one that is sound until weights are read."""
    other_run = marker.get("identity") == "text" or marker.get("contents") == {"a": 1}
    model, data = marker.get("model"), marker.get("data")
    other_run |= marker.get("time") in (None, -1, 1.5)
    return other_run or model in (None, {"a": 1}) or data == {"a": 1}


def test_the_marker_of_the_first_version_is_read(tmp_path: Path, world: World) -> None:
    save_steps(tmp_path, world, 2)
    path = tmp_path / "step_000002" / MARKER
    marker = json.loads(path.read_text())
    del marker["format"], marker["contents"], marker["identity"]
    marker |= {"windows_seen": 8, "config_hash": "of another kind"}
    path.write_text(json.dumps(marker))
    store = CheckpointStore(
        tmp_path,
        config=KEEP,
        identity="hash",
        world=world,
        contents={"dataset a": "1"},
    )
    assert store.restore(Counter()) == state_at(2)
    for broken in ({"config_hash": 5}, {"step": "2"}, {"world_size": 0}):
        path.write_text(json.dumps(marker | broken))
        with pytest.raises(CheckpointError, match=r"no checkpoint under .* is intact"):
            store.restore(Counter())


class Hostile:
    """What a pickle may do when it is loaded."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.file,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_with_code_is_refused_before_it_runs(
    zipped: bool, tmp_path: Path, world: World
) -> None:
    touched = tmp_path / "touched"
    torch.save(Hostile(touched), tmp_path / "hostile.pt", _use_new_zipfile_serialization=zipped)
    store = save_steps(tmp_path, world, 1)
    shard = tmp_path / "step_000001" / "shards" / "rank_0.pt"
    shutil.copy(tmp_path / "hostile.pt", shard)
    path = shard.parents[1] / MARKER
    marker = json.loads(path.read_text())
    marker["files"]["shards/rank_0.pt"] = examine(shard).model_dump()
    path.write_text(json.dumps(marker))
    with pytest.raises(CheckpointError, match=r"rank_0.pt would run .* when it is loaded"):
        store.restore(Counter())
    with pytest.raises(CheckpointError, match=r"rank_0.pt would run "):
        refuse_code(newest(tmp_path))
    assert not touched.exists()


@pytest.mark.parametrize("folder_is_a_link", [True, False])
def test_code_is_found_in_files_that_the_marker_does_not_name(
    folder_is_a_link: bool, tmp_path: Path, world: World
) -> None:
    """DeepSpeed reads what lies there under the names that it knows."""
    touched = tmp_path / "touched"
    store = save_steps(tmp_path / "run", world, 1)
    shards = tmp_path / "run" / "step_000001" / "shards"
    torch.save(Hostile(touched), shards / "rank_0.pt")
    path = shards.parent / MARKER
    marker = json.loads(path.read_text())
    del marker["files"]["shards/rank_0.pt"]
    path.write_text(json.dumps(marker))
    if folder_is_a_link:
        shards.rename(tmp_path / "elsewhere")
        shards.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=r"rank_0.pt would run .* when it is loaded"):
        store.restore(Counter())
    with pytest.raises(CheckpointError, match=r"rank_0.pt would run "):
        refuse_code(newest(tmp_path / "run"))
    assert not touched.exists()


class Large(Counter):
    """An engine that needs two thirds of a small disk."""

    def save_shards(self, folder: Path) -> None:
        super().save_shards(folder)
        (folder / "large").write_bytes(bytes(700_000))


def test_a_full_disk_leaves_the_one_before(small_disk: Path, world: World) -> None:
    directory = small_disk / "checkpoints"
    store = store_in(directory, world)
    store.save(Large(1), state_at(1))
    sentence = r"cannot write .*/step_000002: No space left on device; [\d,]+ bytes are free in "
    with pytest.raises(DiskError, match=sentence):
        store.save(Large(2), state_at(2))
    assert_restores(directory, world, 1)
    assert [path.name for path in directory.iterdir()] == ["step_000001"]


def test_other_data_are_refused(tmp_path: Path, world: World) -> None:
    def store(**contents: str) -> CheckpointStore:
        return CheckpointStore(
            tmp_path, config=KEEP, identity="hash", world=world, contents=contents
        )

    store(a="1", b="2").save(Counter(), state_at(1))
    assert store(a="1", b="2").restore(Counter()) == state_at(1)
    for now in ({"a": "1", "b": "3"}, {"a": "1"}, {"a": "1", "b": "2", "c": "4"}):
        with pytest.raises(CheckpointError, match=r"with another [bc] \(.*: restore what it was"):
            store(**now).restore(Counter())
    # The identity differs, too, as other data are another run: the sentence names the data.
    other = CheckpointStore(
        tmp_path, config=KEEP, identity="other", world=world, contents={"a": "1", "b": "3"}
    )
    with pytest.raises(CheckpointError, match=r"another b \(2, now 3\)"):
        other.restore(Counter())


class Writer:
    """What DeepSpeed writes with."""

    def save(self, state: object, path: Path) -> None:
        torch.save(state, path)


class DeepSpeed:
    """As far as it writes: a file, a script beside it, and then it waits for the other ranks."""

    def __init__(self) -> None:
        self.checkpoint_engine = Writer()
        self.has_waited = False

    def _copy_recovery_script(self, folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(folder))

    def save_checkpoint(self, folder: Path) -> None:
        self.checkpoint_engine.save(torch.zeros(300_000), folder / "rank_0.pt")
        self._copy_recovery_script(folder)
        self.has_waited = True


def test_a_rank_that_cannot_write_still_waits_for_the_others(small_disk: Path) -> None:
    engine = DeepSpeed()
    sentence = r"cannot write .*: not all of it was taken; [\d,]+ bytes are free in "
    with pytest.raises(DiskError, match=sentence), errors_at_the_end(engine, small_disk / "step"):
        engine.save_checkpoint(small_disk)
    assert engine.has_waited
    assert "save" not in vars(engine.checkpoint_engine), "it is as it was"
