"""Allows one training per run directory: two would remove each other's checkpoints."""

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from dpot_scale.config.places import LOCK
from dpot_scale.engine.collectives import raise_on_all
from dpot_scale.engine.runtime import World
from dpot_scale.errors import BusyError, ConfigError, UserError
from dpot_scale.files import held
from dpot_scale.runs.signs import read_sign
from dpot_scale.terminal import under_way

LOOK_SECONDS = 0.2  # between two looks
NOTICE_SECONDS = 3.0  # in which ranks notice that their launcher was killed
SILENCE_SECONDS = 30.0  # after which an orphan that gives no sign is not waited for
LONGEST = 300  # characters of what the holder says of itself


@contextlib.contextmanager
def only_run_in(directory: Path, world: World) -> Iterator[None]:
    """Make the directory of a run and hold its lock, which the system releases after a kill.

    Collective: every rank must enter it.

    Raises:
        BusyError: another process trains in it.
        ConfigError: it cannot be written.
    """
    with contextlib.ExitStack() as stack:
        raise_on_all(_hold(directory, stack) if world.is_main else None, world)
        yield


def _hold(directory: Path, stack: contextlib.ExitStack) -> UserError | None:
    """Return why the directory cannot be held, or None."""
    try:
        try:
            _take(directory / LOCK, stack)
        except BlockingIOError:
            with under_way(f"waiting for those that train in {directory} to end"):
                _wait(directory, stack)
    except BlockingIOError:
        return BusyError(
            f"another process{_holder(directory / LOCK)} is training in {directory}; wait until it "
            "ends, end it (one that was stopped goes on after `kill -CONT`, and ends after `kill "
            "-KILL`), or choose another `name`"
        )
    except OSError as error:
        return ConfigError(
            f"cannot write to {directory}: {error.strerror}; choose another `output`"
        )
    return None


def _wait(directory: Path, stack: contextlib.ExitStack) -> None:
    """Hold the lock once its holder has ended, if that is about to: its launcher was killed.

    Raises:
        BlockingIOError: it is not about to.
    """
    sign, since = read_sign(directory, 0), time.monotonic()
    patience = SILENCE_SECONDS if sign and sign.is_orphaned else NOTICE_SECONDS
    while True:
        try:
            _take(directory / LOCK, stack)
        except BlockingIOError:
            if time.monotonic() - since > patience:
                raise
        else:
            return
        time.sleep(LOOK_SECONDS)
        newest = read_sign(directory, 0)
        if newest is not None and newest != sign and newest.is_orphaned:
            sign, since, patience = newest, time.monotonic(), SILENCE_SECONDS


def _take(lock: Path, stack: contextlib.ExitStack) -> None:
    """Hold the lock and say in its file who does.

    Raises:
        BlockingIOError: another process holds it.
    """
    stack.enter_context(held(lock, wait=False))
    with contextlib.suppress(OSError):  # a full disk: a nameless holder is as good
        lock.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")


def _holder(lock: Path) -> str:
    """Return who holds the lock, in brackets; empty where it does not say so."""
    with contextlib.suppress(OSError):
        said = lock.read_text(encoding="utf-8", errors="replace").strip()[:LONGEST]
        return f" ({said})" * bool(said)
    return ""
