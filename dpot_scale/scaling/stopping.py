"""Asks the workers of a trial to save and end, on whatever node they are.

Ray runs training outside the main thread of a worker, where it gets no signals. Workers look into a
file of the trial instead. It also reaches them if the signal that ended the sweep has ended Ray.
"""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

from dpot_scale.files import cannot_write, write_whole

STOP_FILE = ".stop"
# What the file holds while a trial may go on. Empty, it asks for the end: a full disk takes nothing
# new, but lets a file be emptied.
GO_ON = "go on"
CANCEL_FILE = ".cancelled"
LOOK_SECONDS = 0.2  # between two looks


def let_run(directory: Path) -> None:
    """Take back an earlier request to stop a trial, before a new attempt.

    The file exists while workers look for it: NFS shows a changed file at once, a new one late.

    Raises:
        DiskError: it cannot be written.
    """
    _write(directory / STOP_FILE, GO_ON)


def ask_to_stop(directory: Path) -> None:
    """Ask the workers of a trial to save and end.

    Raises:
        DiskError: the file cannot be written.
    """
    _write(directory / STOP_FILE, "")


def cancel(directory: Path) -> Path:
    """Mark a trial as one that is not to be trained; return the file that says so.

    The controller of the sweep, if there is one, sees it. Without the file the trial continues.

    Raises:
        DiskError: the file cannot be written.
    """
    write_whole(directory / CANCEL_FILE, "")
    return directory / CANCEL_FILE


def is_cancelled(directory: Path) -> bool:
    """Return whether a trial is not to be trained."""
    return (directory / CANCEL_FILE).exists()


def pause(seconds: float, is_over: Callable[[], bool]) -> None:
    """Wait, or until something is over."""
    ends = time.monotonic() + seconds
    while (left := ends - time.monotonic()) > 0 and not is_over():
        time.sleep(min(left, LOOK_SECONDS))


def _write(path: Path, content: str) -> None:
    try:
        path.write_text(content)
    except OSError as error:
        raise cannot_write(path, error) from error


def listen(directory: Path) -> Callable[[], bool]:
    """Return a function that says whether a trial is asked to stop, at most LOOK_SECONDS late."""
    last_look = time.monotonic()

    def asked() -> bool:
        nonlocal last_look
        if time.monotonic() - last_look < LOOK_SECONDS:
            return False
        last_look = time.monotonic()
        with contextlib.suppress(OSError):
            return (directory / STOP_FILE).read_bytes() == b""
        return False

    return asked
