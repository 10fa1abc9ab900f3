"""The guard of a build that a killed process left behind."""

import signal
import subprocess
import sys
import time
from pathlib import Path

from torch.utils.file_baton import FileBaton

from dpot_scale.engine.operators import OPERATOR, remove_abandoned

BUILDS = """
import sys, time
from torch.utils.file_baton import FileBaton
FileBaton(sys.argv[1]).try_acquire()
time.sleep(600)
"""


def guard_in(folder: Path) -> Path:
    guard = folder / "py311_cpu" / OPERATOR / "lock"
    guard.parent.mkdir(parents=True)
    return guard


def test_the_guard_of_a_killed_build_is_removed(tmp_path: Path) -> None:
    guard = guard_in(tmp_path)
    builder = subprocess.Popen([sys.executable, "-c", BUILDS, str(guard)])
    while not guard.exists():
        assert builder.poll() is None
        time.sleep(0.05)
    remove_abandoned(tmp_path)
    assert guard.exists()  # it is still building
    builder.send_signal(signal.SIGKILL)
    builder.wait()
    remove_abandoned(tmp_path)
    assert not guard.exists()


def test_the_guard_of_a_build_in_this_process_stays(tmp_path: Path) -> None:
    guard = guard_in(tmp_path)
    baton = FileBaton(str(guard))
    assert baton.try_acquire()
    remove_abandoned(tmp_path)
    assert guard.exists()
    baton.release()
