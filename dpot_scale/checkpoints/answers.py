"""Calls to a store over a network, which are given up where it does not answer.

Packages for such stores have limits of their own, or none: s3fs tries for seven minutes.
"""

import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from fsspec.callbacks import Callback

Answer = TypeVar("Answer")

ANSWER_SECONDS = 30.0  # for a question; well below `limits.hang`, whose default is 5 minutes
SLOWEST = 1e6  # bytes per second of a transfer whose package does not report what it has moved
LOOK_SECONDS = 1.0  # between two looks at what a transfer reports


class _Moved(Callback):
    """Notes when a transfer has last reported some bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.newest = time.monotonic()

    def call(self, *_: object, **__: object) -> None:
        """Note that some bytes were moved."""
        self.newest = time.monotonic()


class Answers:
    """Makes calls, each in a thread that is left behind where the call does not come back.

    As what is left behind may still write, no other call is made before it has ended.
    """

    def __init__(self) -> None:
        self._left: list[threading.Thread] = []

    def of(
        self, ask: Callable[..., Answer], *args: object, size: int = 0, **kwargs: object
    ) -> Answer:
        """Return what a call returns, of which so many bytes are moved; raise what it raises.

        Raises:
            TimeoutError: it did not answer in `ANSWER_SECONDS`, and what the bytes take at the
                slowest.
        """
        seconds = ANSWER_SECONDS + size / SLOWEST
        return self._wait(lambda: ask(*args, **kwargs), seconds, _Moved())

    def transfer(self, move: Callable[..., Any], source: str, target: str, size: int) -> None:
        """Move a file by `put_file` or `get_file`, however long that takes while it moves on.

        Args:
            move: The call.
            source: The file.
            target: Where to.
            size: Its bytes.

        Raises:
            TimeoutError: for `ANSWER_SECONDS`, and as long as all of it takes at the slowest, it
                reported nothing and did not come back.
        """
        moved = _Moved()
        seconds = ANSWER_SECONDS + size / SLOWEST
        self._wait(lambda: move(source, target, callback=moved), seconds, moved)

    def _wait(self, call: Callable[[], Answer], seconds: float, moved: _Moved) -> Answer:
        """Return what a call returns, unless it is silent for so many seconds."""
        self._wait_for_left()
        result: list[Answer] = []
        problem: list[BaseException] = []

        def run() -> None:
            try:
                result.append(call())
            except BaseException as error:  # it belongs to whoever waits
                problem.append(error)

        # The pulse of a rank looks at threads of this name.
        thread = threading.Thread(target=run, name="archive", daemon=True)
        thread.start()
        while thread.is_alive():
            left = moved.newest + seconds - time.monotonic()
            if left <= 0:
                self._left.append(thread)
                raise _silent(seconds)
            thread.join(min(left, LOOK_SECONDS))
        if problem:
            raise problem[0]
        return result[0]

    def _wait_for_left(self) -> None:
        end = time.monotonic() + ANSWER_SECONDS
        for thread in self._left:
            thread.join(max(0.0, end - time.monotonic()))
        self._left = [thread for thread in self._left if thread.is_alive()]
        if self._left:
            raise _silent(ANSWER_SECONDS)


def _silent(seconds: float) -> TimeoutError:
    return TimeoutError(f"it did not answer for {seconds:.0f} seconds")
