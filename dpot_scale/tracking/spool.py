"""The metrics of a run: a local JSONL file with one line per record, which is the truth."""

import contextlib
import json
import os
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from dpot_scale.config.record import FORMAT_KEY, require_format
from dpot_scale.errors import RecordError

SPOOL = "metrics.jsonl"
FORMAT = 1  # of the records, the first: so they do not say it
STEP, TIME = "step", "time"  # of a record; all its other keys are metrics
TAIL_BYTES = 16384  # of a spool, to find its newest record: some dozens of them


def read_metrics(path: Path) -> dict[str, dict[int, float]]:
    """Return metric -> step -> value from a spool; of a step recorded twice, the last value.

    A run that was killed and resumed records the steps since its checkpoint again.

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


def open_spool(path: Path) -> IO[str]:
    """Open a spool to append to, without the half record that a crash may have left."""
    if path.exists():
        os.truncate(path, complete_records(path, 0)[1])
    return path.open("a", encoding="utf-8")


def complete_records(path: Path, offset: int) -> tuple[list[dict[str, Any]], int]:
    """Return the records from a byte offset on, and the offset behind the last complete line.

    A line that cannot be read, after a disk failed, is left out.

    Raises:
        RecordError: another version wrote one.
    """
    with path.open("rb") as spool:
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
