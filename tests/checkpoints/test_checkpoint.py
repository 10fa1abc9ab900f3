"""What cannot be read is not damaged: a run never goes back behind it."""

import errno
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from test_kills import WORLD, save

from dpot_scale.checkpoints import checkpoint as module
from dpot_scale.checkpoints import shards
from dpot_scale.checkpoints.checkpoint import (
    checkpoint_folders,
    committed,
    newest_intact,
    require_none,
    saved_step,
    verify,
)
from dpot_scale.checkpoints.search import Search
from dpot_scale.checkpoints.weights import find
from dpot_scale.config.places import MARKER
from dpot_scale.engine.runtime import start_world
from dpot_scale.errors import CheckpointError

RUNS = Path(__file__).parents[1] / "golden" / "formats" / "runs"


@pytest.fixture
def checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0.0)
    return shutil.copytree(RUNS / "stopped" / "checkpoints", tmp_path / "checkpoints")


def fails(
    path: Path, number: int, times: int, monkeypatch: pytest.MonkeyPatch, call: str = "open"
) -> None:
    """Let the system fail so often to open one file, or in another call."""
    left = iter(range(times))
    calls = getattr(Path, call)

    def called(self: Path, *args: Any, **kwargs: Any) -> Any:
        if self == path and next(left, None) is not None:
            raise OSError(number, os.strerror(number), str(path))
        return calls(self, *args, **kwargs)

    monkeypatch.setattr(Path, call, called)


def files(checkpoints: Path) -> list[Path]:
    newest = newest_intact(checkpoints)
    assert newest is not None
    return [newest.folder / MARKER, newest.folder / next(iter(newest.marker.files))]


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES])
@pytest.mark.parametrize("which", [0, 1])
def test_a_file_that_cannot_be_read_ends_the_start_and_removes_nothing(
    checkpoints: Path, number: int, which: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = files(checkpoints)[which]
    before = sorted(checkpoints.rglob("*"))
    fails(path, number, 4, monkeypatch)
    found = f"cannot read {path}: {os.strerror(number)}; nothing is removed"
    with pytest.raises(CheckpointError, match=found):
        newest_intact(checkpoints)
    with pytest.raises(CheckpointError, match=found):
        Search(checkpoints, None, "", {}, start_world()).newest_intact()
    assert sorted(checkpoints.rglob("*")) == before


@pytest.mark.parametrize("which", [0, 1])
def test_an_error_that_passes_costs_nothing(
    checkpoints: Path, which: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = newest_intact(checkpoints)
    fails(files(checkpoints)[which], errno.EIO, 1, monkeypatch)
    assert newest_intact(checkpoints) == expected


@pytest.mark.distributed
@pytest.mark.timeout(290)
@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_a_file_that_one_rank_cannot_read_ends_the_start_of_all(
    number: int, tmp_path: Path, ranks: Any
) -> None:
    """Neither goes back to the checkpoint before, nor waits for the other one."""
    script = Path(__file__).with_name("reading_ranks.py")
    assert ranks.run(script, "restored", str(tmp_path), number, 1) == ["2 TrainState(step=2)"] * 2
    one, other = ranks.run(script, "restored", str(tmp_path), number, 2)
    path = tmp_path / "step_000002" / "shards" / "rank_00001.safetensors"
    assert one == other
    assert one.startswith(f"0 cannot read {path}: {os.strerror(number)}; nothing is removed")
    assert [checkpoint.state.step for checkpoint in committed(tmp_path)] == [2, 1]


def test_a_file_that_is_gone_is_damage(checkpoints: Path) -> None:
    newest = newest_intact(checkpoints)
    assert newest is not None
    name = next(iter(newest.marker.files))
    (newest.folder / name).unlink()
    assert verify(newest) == [name]
    (newest.folder / name).mkdir()
    assert verify(newest) == [name]


@pytest.fixture
def not_root() -> Iterator[None]:
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # root may look everywhere
    yield
    os.seteuid(user)


def test_a_folder_that_may_not_be_read_is_not_an_empty_one(
    checkpoints: Path, request: pytest.FixtureRequest
) -> None:
    checkpoints.chmod(0)
    request.getfixturevalue("not_root")
    with pytest.raises(CheckpointError, match=r"cannot read .*: Permission denied"):
        checkpoint_folders(checkpoints)


@pytest.fixture
def reached_by_all(checkpoints: Path) -> Iterator[Path]:
    """A copy that lies below no folder of this user alone."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield shutil.copytree(checkpoints, Path(folder) / "run" / "checkpoints")


ASKED: dict[str, Callable[[Path], object]] = {
    "all": committed,
    "the newest step": saved_step,
    "whether there are some": require_none,
    "where a run goes on": lambda it: Search(it, None, "", {}, WORLD).newest_intact(),
    "weights": lambda it: find(it.parent),
}


@pytest.mark.parametrize("asked", ASKED)
def test_a_checkpoint_that_may_not_be_looked_into_is_not_absent(
    reached_by_all: Path, asked: str, request: pytest.FixtureRequest
) -> None:
    checkpoints = reached_by_all
    marker = files(checkpoints)[0]
    marker.parent.chmod(0)
    request.getfixturevalue("not_root")
    with pytest.raises(CheckpointError, match=f"cannot read {marker}: Permission denied; nothing"):
        ASKED[asked](checkpoints)


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two checkpoints of a run."""
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0.0)
    for step in (1, 2):
        save(tmp_path, step)
    return tmp_path


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("place", ["", MARKER, "shards/rank_00000.safetensors"])
def test_what_the_system_does_not_say_is_not_taken_for_no(
    saved: Path, place: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved / "step_000002" / place

    def ask() -> tuple[int, bool]:
        return saved_step(saved), shards.is_ours(saved / "step_000002")

    fails(path, number, 1, monkeypatch, "stat")
    assert ask() == (2, True), "an error that passes costs nothing"
    fails(path, number, 2, monkeypatch, "stat")
    found = f"cannot read {path}: {os.strerror(number)}; nothing is removed"
    with pytest.raises(CheckpointError, match=found):
        ask()


def test_shards_that_fail_while_they_are_opened_are_no_others_files(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(shards, "safe_open", fail)
    with pytest.raises(CheckpointError, match=r"cannot read .*/shards: Input/output error"):
        shards.open_state(saved / "step_000002")


@pytest.mark.parametrize("call", ["open", "stat", "unlink"])
def test_what_cannot_be_read_or_removed_costs_no_save(
    saved: Path, call: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What it replaces stays until the next one."""
    with monkeypatch.context() as patch:
        fails(saved / "step_000001" / MARKER, errno.EIO, 2, patch, call)
        save(saved, 3)
    assert "Input/output error" in caplog.text
    assert [one.state.step for one in committed(saved)] == [3, 2, 1]
    save(saved, 4)
    assert [one.state.step for one in committed(saved)] == [4, 3]


def test_a_folder_that_is_not_there_has_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert checkpoint_folders(tmp_path / "none") == checkpoint_folders(tmp_path / "file") == {}
