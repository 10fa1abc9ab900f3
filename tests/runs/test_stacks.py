"""Where a thread stands, looked at by another one while it runs."""

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from dpot_scale.runs.signs import FOLDER
from dpot_scale.runs.stacks import Place, dump_stacks

LOOKS = 500


@contextmanager
def running(work: Callable[[threading.Event], None]) -> Iterator[Place]:
    """Look at a thread that works until it is told to end."""
    ending = threading.Event()
    thread = threading.Thread(target=work, args=(ending,))
    thread.start()
    try:
        yield Place(thread.ident or 0)
    finally:
        ending.set()
        thread.join()


def descend(depth: int) -> int:
    cell = [depth]
    return sum(value for value in cell) + (descend(depth - 1) if depth else 0)


def test_a_thread_that_runs_is_seen_to_move_on() -> None:
    """Frames come and go between two looks; each look finds all of them as they are."""

    def work(ending: threading.Event) -> None:
        while not ending.is_set():
            descend(60)

    with running(work) as place:
        seen = []
        for _ in range(LOOKS):
            seen.append((place.has_changed(), place.at))
            time.sleep(0.001)
    assert sum(changed for changed, _ in seen) > LOOKS // 50
    assert any("descend (test_stacks.py:" in at for _, at in seen)
    assert not place.waits


def test_a_thread_that_waits_stands_still() -> None:
    def work(ending: threading.Event) -> None:
        ending.wait()

    with running(work) as place:
        while "wait (threading.py:" not in place.at:
            place.has_changed()
        assert not any(place.has_changed() for _ in range(20))
        assert "called by work (test_stacks.py:" in place.at


def test_a_thread_that_compiles_is_told_from_one_that_runs_what_was_compiled() -> None:
    compiled = torch.compile(lambda x: (x.sin() * x).sum())
    is_compiled = threading.Event()

    def work(ending: threading.Event) -> None:
        x = torch.ones(8, requires_grad=True)
        compiled(x).backward()
        is_compiled.set()
        while not ending.is_set():
            compiled(x).backward()

    with running(work) as place:
        before = []
        while not is_compiled.is_set():
            place.has_changed()
            before.append(place.compiles)
        after = [place.has_changed() and place.compiles for _ in range(LOOKS)]
    assert sum(before) > len(before) // 2
    assert not any(after[1:])


@pytest.mark.parametrize("what", ["enter_from_c", "leave_garbage"])
def test_whoever_looks_survives(what: str) -> None:
    """What faulthandler writes, and frames that Python code follows, crash CPython 3.11 here."""
    command = [sys.executable, str(Path(__file__).with_name("looked_at.py")), what]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


def test_a_thread_is_found_among_many_and_all_are_written(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()

    def work(ending: threading.Event) -> None:
        ending.wait()

    with contextlib.ExitStack() as others, running(work) as place:
        for _ in range(120):
            others.enter_context(running(work))
        assert place.has_changed()
        assert "called by work (test_stacks.py:" in place.at
        dump_stacks(tmp_path, 1, 0)
    text = (tmp_path / FOLDER / "stacks_1_0").read_text()
    assert text.count("in work\n") == 121
    assert "Thread MainThread (most recent call first):\n" in text
