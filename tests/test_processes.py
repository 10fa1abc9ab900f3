"""Processes are told apart, also where numbers are used again."""

import os
import subprocess
import sys

import pytest

from dpot_scale.processes import start_time, this_place
from tests.conftest import no_more_open_files


def test_two_processes_of_a_machine_differ_by_when_they_were_started() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert start_time(str(os.getpid())) == start_time("self") != ""
        assert start_time(str(child.pid)) not in {"", start_time("self")}
    assert start_time(str(child.pid)) == ""


@pytest.mark.parametrize("number", ["none", "1/../2/x", "\0"])
def test_what_is_no_process_was_never_started(number: str) -> None:
    assert start_time(number) == ""


def test_all_processes_of_a_machine_are_at_one_place() -> None:
    code = "from dpot_scale.processes import this_place; print(this_place())"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == this_place()


def test_of_too_many_open_files_a_process_is_not_taken_for_ended() -> None:
    with no_more_open_files():
        for known in (this_place, lambda: start_time("self")):
            with pytest.raises(OSError, match="Too many open files"):
                known()
