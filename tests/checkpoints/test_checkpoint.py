"""What cannot be read is not damaged: a run never goes back behind it."""

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dpot_scale.checkpoints import checkpoint as module
from dpot_scale.checkpoints.checkpoint import checkpoint_folders, newest_intact, verify
from dpot_scale.checkpoints.search import Search
from dpot_scale.config.places import MARKER
from dpot_scale.engine.runtime import start_world
from dpot_scale.errors import CheckpointError

RUNS = Path(__file__).parents[1] / "golden" / "formats" / "runs"


@pytest.fixture
def checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0.0)
    return shutil.copytree(RUNS / "stopped" / "checkpoints", tmp_path / "checkpoints")


def fails(path: Path, number: int, times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the system fail to open one file so often."""
    left = iter(range(times))
    opens = Path.open

    def opened(self: Path, *args: Any, **kwargs: Any) -> Any:
        if self == path and next(left, None) is not None:
            raise OSError(number, os.strerror(number), str(path))
        return opens(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", opened)


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


def test_a_folder_that_is_not_there_has_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert checkpoint_folders(tmp_path / "none") == checkpoint_folders(tmp_path / "file") == {}
