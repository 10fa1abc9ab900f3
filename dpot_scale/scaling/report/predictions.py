"""What reports foretold of trials before they ran, kept beside what they measured later.

`foretold.jsonl` lies in the folder of a trial. A report that is written before the trial has
finished adds a line where its law says something new; none is changed or added afterwards.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from dpot_scale.config.record import Record, read_record
from dpot_scale.errors import RecordError
from dpot_scale.files import cannot_write
from dpot_scale.runs.result import read_result
from dpot_scale.scaling.report.laws.fit import Interval

FORETOLD = "foretold.jsonl"


class Prediction(Record):
    """The error of a trial, as a law of other trials foretold it."""

    time: datetime
    value: float
    low: float  # of the 95 % interval of one trial
    high: float
    law: str
    trials: int  # that the law went through

    def holds(self, measured: float) -> bool:
        """Return whether an error is inside the interval."""
        return self.low <= measured <= self.high


def keep(directory: Path, expected: Interval, law: str, trials: int) -> None:
    """Note what a law says of a trial that has not finished, if that is new.

    Args:
        directory: The folder of the trial, which need not exist.
        expected: Its error.
        law: The law in words.
        trials: Through how many it went.

    Raises:
        DiskError: it cannot be written.
    """
    found = Prediction(
        time=datetime.now(UTC),
        value=expected.value,
        low=expected.low,
        high=expected.high,
        law=law,
        trials=trials,
    )
    before = kept(directory)
    said = found.model_copy(update={"time": before[-1].time}) if before else None
    if read_result(directory) is not None or (before and said == before[-1]):
        return
    path = directory / FORETOLD
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            # Begins with a line end, too: a crash may have cut the line before.
            file.write(f"\n{found.model_dump_json()}\n")
    except OSError as error:
        raise cannot_write(path, error) from error


def kept(directory: Path) -> Sequence[Prediction]:
    """Return what was foretold of a trial, the oldest first; a line that was cut is left out.

    Raises:
        RecordError: another version wrote it.
    """
    path = directory / FORETOLD
    if not path.exists():
        return []
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            found.append(read_record(Prediction, json.loads(line), path, RecordError))
        except (ValueError, RecursionError):
            continue
    return found
