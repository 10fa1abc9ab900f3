"""The metrics of a run: a local JSONL file with one line per record, which is the truth."""

import contextlib
import errno
import json
import logging
import os
from collections import defaultdict, deque
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from typing import Any

from dpot_scale.config.places import METRICS
from dpot_scale.config.record import FORMAT_KEY, require_format
from dpot_scale.errors import DiskError, RecordError
from dpot_scale.files import cannot_write, going_on

SPOOL = METRICS
FORMAT = 1  # of the records, the first: so they do not say it
STEP, TIME = "step", "time"  # of a record; all its other keys are metrics
TAIL_BYTES = 16384  # of a spool, to find its newest record: some dozens of them

log = logging.getLogger(__name__)


def read_metrics(path: Path) -> dict[str, dict[int, float]]:
    """Return metric -> step -> value from a spool; of a step recorded twice, the last value.

    A run that was killed and resumed records the steps since its checkpoint again. One without a
    spool has no metrics.

    Raises:
        RecordError: another version wrote the spool.
    """
    metrics: dict[str, dict[int, float]] = defaultdict(dict)
    for record in complete_records(path, 0)[0]:
        for key, value in values_of(record).items():
            metrics[key][record[STEP]] = value
    return dict(metrics)


def newest_record(spool: Path, *, containing: str) -> dict[str, float] | None:
    """Return the last record of a spool that has a metric, looking at its end only.

    Raises:
        RecordError: another version wrote it.
    """
    if not spool.exists():
        return None
    with spool.open("rb") as file:
        start = max(0, spool.stat().st_size - TAIL_BYTES)
        file.seek(start)
        lines = file.read().split(b"\n")
    # The first line may be cut off by the seek, the last is not finished yet.
    for line in reversed(lines[1 if start else 0 : -1]):
        if containing.encode() in line and (record := _record(line, spool)) is not None:
            return record
    return None


def values_of(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics of a record."""
    return {
        key: float(value) for key, value in record.items() if key not in {STEP, TIME, FORMAT_KEY}
    }


def open_spool(path: Path) -> "Spool":
    """Open a spool to append to, without the half record that a crash may have left.

    Raises:
        OSError: it cannot be opened.
        RecordError: another version wrote it.
    """
    end = complete_records(path, 0)[1]
    file = path.open("ab", buffering=0)
    file.truncate(end)
    return Spool(path, file, end)


class Spool:
    """A spool to append to.

    What a full disk does not take is kept in memory and written before the next record, so that
    the spool lacks nothing once there is room again.

    Args:
        path: Of the file.
        file: The file, opened to append to, without a buffer.
        end: How long it is.
    """

    def __init__(self, path: Path, file: FileIO, end: int) -> None:
        self._path = path
        self._file = file
        self._end = end
        self._waiting: deque[bytes] = deque()

    def append(self, record: Mapping[str, float]) -> None:
        """Write a record, and those that wait; say so where the disk takes them no more."""
        was_full = bool(self._waiting)
        self._waiting.append(f"{json.dumps(record)}\n".encode())
        try:
            self.flush()
        except DiskError as error:
            if not was_full:
                log.warning("%s; metrics are kept in memory until then", going_on(error))

    def flush(self) -> None:
        """Write the records that wait.

        Raises:
            DiskError: they cannot be written.
        """
        while self._waiting:
            line = self._waiting[0]
            try:
                if self._file.write(line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # noqa: TRY301
            except OSError as error:
                with contextlib.suppress(OSError):
                    self._file.truncate(self._end)
                raise cannot_write(self._path, error) from error
            self._end += len(line)
            self._waiting.popleft()

    def close(self) -> None:
        """Close the file; say how many records it lacks, if there are some."""
        with contextlib.suppress(DiskError):
            self.flush()
        if self._waiting:
            log.warning("%s lacks its newest %d records", self._path, len(self._waiting))
        self._file.close()


def complete_records(path: Path, offset: int) -> tuple[list[dict[str, Any]], int]:
    """Return the records from a byte offset on, and the offset behind the last complete line.

    A line that cannot be read, after a disk failed, is left out. A spool that is not there, or no
    longer, has no records.

    Raises:
        RecordError: another version wrote one.
    """
    content = b""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as spool:
        spool.seek(offset)
        content = spool.read()
    end = content.rfind(b"\n") + 1
    found = (_record(line, path) for line in content[:end].splitlines())
    return [record for record in found if record is not None], offset + end


def _record(line: bytes, path: Path) -> dict[str, Any] | None:
    """Return the record in a line; None if that is damaged."""
    with contextlib.suppress(ValueError, TypeError, OverflowError, RecursionError):
        record = json.loads(line)
        if isinstance(record, dict) and type(record.get(STEP)) is int:
            require_format(record, FORMAT, path, RecordError)
            float(record.get(TIME, "none"))  # raises where it is no number, as for the others:
            values_of(record)
            return record
    return None
