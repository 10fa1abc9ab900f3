"""A killed launcher is noticed by what it has started, and a killed shell is not."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
CHILD = """
import time
from dpot_scale.training import launchers
launchers.LOOK_SECONDS = 0.0
found = launchers.Launchers()
print("ready", found.are_gone(), flush=True)
until = time.monotonic() + 20
while not found.are_gone() and time.monotonic() < until:
    time.sleep(0.05)
print(found.are_gone(), flush=True)
"""
# Starts the child and waits for it, as a launcher or a shell does.
PARENT = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"


@pytest.mark.parametrize(("name", "is_gone"), [("torch.distributed.run", "True"), ("sh", "False")])
def test_the_end_of_a_launcher_is_noticed(name: str, is_gone: str) -> None:
    child = CHILD if name != "sh" else CHILD.replace("+ 20", "+ 1")
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, child, name],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "ready False\n"
    parent.send_signal(signal.SIGKILL)  # not waited for: it stays as a zombie
    assert parent.stdout.readline() == f"{is_gone}\n"
    parent.wait()
