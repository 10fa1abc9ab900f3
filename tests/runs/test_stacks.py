"""Where a thread stands, looked at by another one while it runs."""

import contextlib
import resource
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch

from dpot_scale.runs.stacks import Place

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
        seen = [(place.has_changed(), place.at) for _ in range(LOOKS)]
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


def waits_for_ever(ending: threading.Event) -> None:
    ending.wait()


def test_what_cannot_be_written_is_unknown() -> None:
    """Faulthandler says nothing of a write that failed."""
    with running(waits_for_ever) as place:
        place.has_changed()
        least, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, most))
        try:
            with pytest.raises(OSError, match="the stack of a thread was not written"):
                place.has_changed()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (least, most))
        place.has_changed()
        assert "waits_for_ever" in place.at


def test_no_folder_for_temporary_files_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/dev/full")
    with running(waits_for_ever) as place:
        assert place.has_changed()


def test_of_too_many_threads_it_is_unknown_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """Faulthandler writes those that were started last."""
    with contextlib.ExitStack() as others, running(waits_for_ever) as place:
        place.has_changed()
        assert "waits_for_ever" in place.at
        for _ in range(120):
            others.enter_context(running(waits_for_ever))
        for _ in range(3):
            with pytest.raises(OSError, match="the stack of a thread was not written"):
                place.has_changed()
        others.close()
        place.has_changed()
    (record,) = caplog.records
    assert "threads run here, and only 100 can be looked at" in record.getMessage()
