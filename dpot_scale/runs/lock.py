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
from dpot_scale.processes import this_place
from dpot_scale.runs.signs import read_sign, sign_file
from dpot_scale.terminal import under_way

LOOK_SECONDS = 0.2  # between two looks
NOTICE_SECONDS = 3.0  # in which ranks notice that their launcher was killed
SILENCE_SECONDS = 30.0  # after which an orphan that gives no sign is not waited for
WATCH_SECONDS = 11.0  # in which a rank gives two signs
FRESH_SECONDS = 60.0  # older than the lock that was just taken, a sign is of a dead rank
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
        elsewhere = _trains_elsewhere(directory)
        if elsewhere is not None:
            return BusyError(
                f"{elsewhere} is training in {directory}, and no lock kept this process out: its "
                "file system has locks for one machine alone; wait until it ends, mount with "
                "`flock` (not `localflock` or `nolock`), or choose another `name`"
            )
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


def _trains_elsewhere(directory: Path) -> str | None:
    """Return who trains here on another machine, whatever the lock says; None if nobody does.

    That costs some seconds where a run was killed a moment ago on another machine.
    """
    sign = read_sign(directory, 0)
    if sign is None or sign.is_closed or sign.place == this_place() or not _is_fresh(directory):
        return None
    with under_way(f"watching whether {sign.who} still trains in {directory}"):
        since = time.monotonic()
        while time.monotonic() - since < WATCH_SECONDS:
            time.sleep(LOOK_SECONDS)
            newest = read_sign(directory, 0)
            if newest is not None and newest != sign:
                return None if newest.is_closed else newest.who
    return None


def _is_fresh(directory: Path) -> bool:
    """Return whether the sign is new, by the clock that also the lock just taken is stamped by."""
    taken = (directory / LOCK).stat().st_mtime
    return taken - sign_file(directory, 0).stat().st_mtime < FRESH_SECONDS


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
