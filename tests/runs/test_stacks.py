"""Where a thread stands, looked at by another one while it runs."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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
