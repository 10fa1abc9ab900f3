"""A save that is killed at any of its operations on files leaves a checkpoint to go on from."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

from dpot_scale.checkpoints.checkpoint import TrainState, committed, verify
from dpot_scale.checkpoints.store import CheckpointStore
from dpot_scale.config.places import MARKER
from dpot_scale.config.run import CheckpointConfig
from dpot_scale.engine.runtime import World
from dpot_scale.engine.state import OF_ADAM, WEIGHT, Part, Snapshot, StoredState

# What changes files, as Python's own modules call it.
OPERATIONS = {
    *("open", "write", "fsync", "mkdir", "rename", "replace", "unlink", "remove", "rmdir"),
    *("truncate", "ftruncate", "link", "symlink", "close", "sendfile"),
}
KILLED, LOST_PEER = 137, 3
RANKS = Path(__file__).with_name("killed_ranks.py")
WORLD = World(rank=0, local_rank=0, world_size=1, device=torch.device("cpu"))


class Engine:
    """Keeps a number, in as many places as it takes to have some files and some writes."""

    def __init__(self, value: float = 0) -> None:
        self.value = value

    def snapshot(self) -> Snapshot:
        numbers = torch.full((5,), float(self.value))
        parts = [Part(name, kind, 0, numbers) for name in "ab" for kind in (WEIGHT, OF_ADAM)]
        return Snapshot({"a": (5,), "b": (5,)}, parts, {"adam_steps": self.value})

    def load_state(self, stored: StoredState) -> None:
        found = {float(x) for name in "ab" for x in stored.read(WEIGHT, name)}
        found |= {float(x) for name in "ab" for x in stored.read(OF_ADAM, name)}
        (self.value,) = found | {stored.numbers["adam_steps"]}

    def save_shards(self, folder: Path) -> None:
        raise NotImplementedError

    def load_shards(self, folder: Path) -> None:
        raise NotImplementedError


def store_in(directory: Path, copy_gib: float = 0) -> CheckpointStore:
    config = CheckpointConfig(copy_gib=copy_gib)
    return CheckpointStore(directory, config=config, identity="hash", world=WORLD)


def save(directory: Path, step: int, copy_gib: float = 0) -> None:
    """Save, in a thread where there may be a copy of the state."""
    store = store_in(directory, copy_gib)
    store.save(Engine(step), TrainState(step=step))
    store.finish()


def operations(act: Callable[[], object], killed_at: int = -1) -> list[str]:
    """Run something and return its operations on files; end this process before one of them."""
    seen: list[str] = []

    def look(_: FrameType, event: str, called: Any) -> None:
        if event == "c_call" and getattr(called, "__name__", "") in OPERATIONS:
            if len(seen) == killed_at:
                os._exit(KILLED)
            seen.append(called.__name__)

    sys.setprofile(look)
    threading.setprofile(look)  # of threads that it starts
    try:
        act()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return seen


def killed(act: Callable[[], object], at: int) -> None:
    """Run something in a process of its own that ends without a word at one of its operations."""
    child = os.fork()
    if child == 0:
        operations(act, killed_at=at)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == KILLED


@pytest.fixture
def two_saved(tmp_path: Path) -> Path:
    for step in (1, 2):
        save(tmp_path / "saved", step)
    return tmp_path / "saved"


@pytest.mark.parametrize("copy_gib", [0.0, 1.0])
def test_a_save_may_be_killed_at_any_operation(
    copy_gib: float, two_saved: Path, tmp_path: Path
) -> None:
    """Before the marker is in its place the one before counts, then the new one; none is lost."""
    whole = shutil.copytree(two_saved, tmp_path / "whole")
    table = operations(lambda: save(whole, 3, copy_gib))
    assert {"open", "write", "fsync", "mkdir", "replace", "unlink", "rmdir"} <= set(table), table
    found = []
    for number, _ in enumerate(table):
        directory = shutil.copytree(two_saved, tmp_path / f"{number}")
        killed(partial(save, directory, 3, copy_gib), at=number)
        is_new = (directory / "step_000003" / MARKER).is_file()
        engine = Engine()
        assert store_in(directory).restore(engine) == TrainState(step=3 if is_new else 2)
        assert engine.value == (3 if is_new else 2)
        assert all(verify(one) == [] for one in committed(directory))
        found.append(is_new)
        save(directory, 4)  # what was left is no obstacle
        assert {path.name for path in directory.iterdir()} == {
            "step_000004",
            "step_000003" if is_new else "step_000002",
        }
    assert found == sorted(found), "once there, it stays"
    assert set(found) == {False, True}


@pytest.mark.parametrize("copy_gib", [0, 1])
def test_each_rank_may_be_killed_at_any_operation_of_a_save(copy_gib: int, tmp_path: Path) -> None:
    """The other one says that it lost its peer; two new ones go on, from what both had written."""
    done = subprocess.run(
        [sys.executable, RANKS, tmp_path, str(copy_gib)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    of_main, of_other = found["operations"]
    assert {"mkdir", "fsync", "replace", "unlink", "rmdir"} <= set(of_main)
    assert {"open", "write", "fsync"} <= set(of_other)
    assert len(found["cases"]) == len(of_main) + len(of_other)
    for case in found["cases"]:
        killed, newest = case["killed"], case["newest"]
        assert case["codes"] == ([KILLED, LOST_PEER] if killed == 0 else [LOST_PEER, KILLED]), case
        assert case["damaged"] == [], case
        assert case["goes_on"] == [0, 0], (case, done.stderr)
        assert case["left"] == [f"step_{newest:06d}", "step_000004"], case
    newest = [case["newest"] for case in found["cases"] if case["killed"] == 0]
    assert newest == sorted(newest), "once there, it stays"
    assert set(newest) == {2, 3}
    assert {case["newest"] for case in found["cases"] if case["killed"] == 1} == {2}


def test_saves_may_be_killed_one_after_another(two_saved: Path) -> None:
    """Again and again, each time one operation later, in one folder."""
    for number in range(len(operations(lambda: save(two_saved, 3)))):
        newest = committed(two_saved)[0].state.step
        killed(lambda: save(two_saved, newest + 1), at=number)  # noqa: B023 - runs at once
        now = committed(two_saved)[0]
        assert now.state.step in (newest, newest + 1)
        assert verify(now) == []
