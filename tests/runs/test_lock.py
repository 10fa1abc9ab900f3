"""One training per run directory."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from dpot_scale.config.places import LOCK
from dpot_scale.engine.runtime import World, start_world
from dpot_scale.errors import BusyError, ConfigError
from dpot_scale.runs.lock import only_run_in


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
