"""One training per run directory."""

import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from dpot_scale.config.places import LOCK
from dpot_scale.engine.runtime import World, start_world
from dpot_scale.errors import BusyError, ConfigError
from dpot_scale.runs import lock
from dpot_scale.runs.lock import only_run_in
from dpot_scale.runs.signs import FOLDER, Sign, sign_file, write_sign


@pytest.fixture(scope="module")
def world() -> World:
    return start_world()


def test_a_second_training_is_refused_until_the_first_ends(tmp_path: Path, world: World) -> None:
    directory = tmp_path / "runs" / "name"
    me = rf"another process \(process {os.getpid()} on {socket.gethostname()}\)"
    refused = pytest.raises(BusyError, match=rf"{me} is training in .*/name; wait until it ends")
    with only_run_in(directory, world):
        with refused, only_run_in(directory, world):
            pass
        with only_run_in(tmp_path / "other", world):
            pass
    with only_run_in(directory, world):
        pass


def test_a_killed_process_holds_nothing(tmp_path: Path, world: World) -> None:
    code = (
        "import fcntl, os, signal, sys\n"
        "file = open(sys.argv[1], 'w')\n"
        "fcntl.flock(file, fcntl.LOCK_EX)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / LOCK)], check=False)
    with only_run_in(tmp_path, world):
        pass


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path, world: World) -> None:
    (tmp_path / "file").touch()
    refused = pytest.raises(ConfigError, match=r"cannot write to .*: Not a directory; choose")
    with refused, only_run_in(tmp_path / "file" / "run", world):
        pass


def put_sign(directory: Path, beats: int = 0, *, is_closed: bool = False) -> None:
    """Write the sign of the main rank of a run on another machine."""
    (directory / FOLDER).mkdir(exist_ok=True)
    place = "node7/pid:[1]/x"
    sign = Sign(attempt=1, rank=0, place=place, pid=9, started="1", beats=beats)
    write_sign(directory, replace(sign, is_closed=is_closed))


def test_who_trains_on_another_machine_is_seen_where_locks_are_of_one_machine(
    tmp_path: Path, world: World
) -> None:
    put_sign(tmp_path)
    beat = threading.Timer(0.5, put_sign, (tmp_path, 1))
    beat.start()
    refused = pytest.raises(BusyError, match=r"rank 0 on node7 \(process 9\) is training in .* no ")
    with refused, only_run_in(tmp_path, world):
        pass
    beat.join()


@pytest.mark.parametrize(
    ("age", "is_closed", "is_watched"), [(0, False, True), (90, False, False), (0, True, False)]
)
def test_a_run_that_was_killed_on_another_machine_is_started_again(
    tmp_path: Path,
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    age: float,
    is_closed: bool,
    is_watched: bool,
) -> None:
    """It is watched for a while if it gave a sign a moment ago."""
    put_sign(tmp_path, is_closed=is_closed)
    then = time.time() - age
    os.utime(sign_file(tmp_path, 0), (then, then))
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(lock, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    with only_run_in(tmp_path, world):
        pass
    assert (now[0] >= lock.WATCH_SECONDS) == is_watched
