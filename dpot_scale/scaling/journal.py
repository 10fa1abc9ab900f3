"""What happened to each trial, one JSON line per event, for people and for re-submitting."""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from dpot_scale.config.base import PositiveInt
from dpot_scale.config.places import JOURNAL, LOCK
from dpot_scale.config.record import Record, read_record
from dpot_scale.config.sweep import SweepConfig
from dpot_scale.errors import RecordError, UserError
from dpot_scale.files import cannot_write, held, is_held

# resized: the attempt ended because the number of its workers changes; the next one goes on.
Event = Literal["started", "resized", "finished", "failed", "interrupted", "cancelled"]


class SweepRunningError(UserError):
    """Another process runs the sweep."""


class Entry(Record):
    """One event of one trial."""

    format: PositiveInt = 3  # in which the number of workers is there, and may change
    time: datetime
    trial: str
    event: Event
    attempt: int
    reason: str = ""  # why it failed or was resized, or was started again after that
    workers: PositiveInt | None = None  # of an attempt that is started


class Journal:
    """The events of a sweep, appended by the process that holds its lock."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / JOURNAL

    def record(
        self,
        trial: str,
        event: Event,
        *,
        attempt: int,
        reason: str = "",
        workers: int | None = None,
    ) -> None:
        """Append an event; it is on the disk when this returns.

        Raises:
            DiskError: it cannot be written.
        """
        entry = Entry(
            time=datetime.now(UTC),
            trial=trial,
            event=event,
            attempt=attempt,
            reason=reason,
            workers=workers,
        )
        try:
            with self.path.open("a", encoding="utf-8") as file:
                # Begins with a line end, too: a crash may have cut the line before.
                file.write(f"\n{entry.model_dump_json()}\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def entries(self) -> list[Entry]:
        """Return all events; an empty line, or one that a crash cut short, is no event.

        Raises:
            RecordError: a whole line is no event, or one of another version.
        """
        if not self.path.exists():
            return []
        entries = []
        lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        for number, line in enumerate(lines, start=1):
            try:
                raw = json.loads(line)
            except (ValueError, RecursionError):
                continue
            try:
                place = f"line {number} of {self.path}"
                entries.append(read_record(Entry, raw, place, RecordError))
            except ValidationError as error:
                raise RecordError(
                    f"{place} is no event of a trial that this version of dpot_scale knows: use "
                    "the version that wrote it, or remove the line"
                ) from error
        return entries

    def last(self, trial: str) -> Entry | None:
        """Return the newest event of a trial."""
        return next((entry for entry in reversed(self.entries()) if entry.trial == trial), None)

    def newest(self) -> dict[str, Entry]:
        """Return the newest event of each trial."""
        return {entry.trial: entry for entry in self.entries()}

    def attempts(self, trial: str) -> int:
        """Return how often a trial has been started."""
        return sum(entry.trial == trial and entry.event == "started" for entry in self.entries())


@contextmanager
def hold_sweep(sweep: SweepConfig) -> Iterator[None]:
    """Hold the lock of a sweep; the system releases it even if this process is killed.

    Raises:
        SweepRunningError: another process holds it.
        UserError: the directory of the sweep cannot be made or written.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(held(sweep.directory / LOCK, wait=False))
        except BlockingIOError:
            raise SweepRunningError(
                f"sweep {sweep.name} is already running in {sweep.directory}; wait for it, or give "
                "this one another `name`"
            ) from None
        except OSError as error:
            raise UserError(
                f"cannot write to {sweep.directory}: {error.strerror}; choose another run.output"
            ) from error
        yield


def is_running(sweep: SweepConfig) -> bool:
    """Return whether a process holds the lock of a sweep.

    Raises:
        UserError: the directory of the sweep cannot be read.
    """
    try:
        return is_held(sweep.directory / LOCK)
    except OSError as error:
        raise UserError(
            f"cannot read {sweep.directory}: {error.strerror}; choose another run.output"
        ) from error
