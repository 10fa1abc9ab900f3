"""What MLflow is to know of a run beside its points: kept in its folder, to be sent at any time."""

import contextlib
import socket
import time
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError
from pydantic_core import from_json

from dpot_scale.config.base import PositiveInt
from dpot_scale.config.places import MLFLOW_RECORD, SQLITE
from dpot_scale.config.record import Record, read_record
from dpot_scale.errors import DiskError, RecordError
from dpot_scale.files import is_another, write_whole
from dpot_scale.tracking.trained_on import TrainedOn

RECORD = MLFLOW_RECORD

Status = Literal["FINISHED", "FAILED", "KILLED"]


class MlflowRecord(Record):
    """The MLflow run of a folder: all that it takes to make it, and how it ended."""

    format: PositiveInt = 2
    directory: Path
    """Where the folder was; it may be a copy by now."""
    host: str = ""
    """The machine that wrote it; since format 2."""
    uri: str
    experiment: str
    key: str
    """A tag by which the run is found, also one that was made while nobody waited any more."""
    name: str
    params: dict[str, str] = Field(default_factory=dict)
    tags: dict[str, str] = Field(default_factory=dict)
    config: str = ""
    """YAML."""
    datasets: tuple[TrainedOn, ...] = ()
    parent: str | None = None
    """The folder of the run under which it is shown, as seen from this one."""
    begun: float
    """Seconds since 1970, as `ended`."""
    ended: float | None = None
    status: Status | None = None
    """How it ended; None while it lasts, and if it was killed."""
    stop: str = ""
    """Why it ended: a word, and behind ": " the reason (`ending.py`)."""
    artifacts: dict[str, str] = Field(default_factory=dict)
    """File in the folder -> folder in MLflow."""
    is_sent: bool = False
    """Whether MLflow has all of it."""


def read_mlflow_record(directory: Path) -> MlflowRecord | None:
    """Return the record of a folder; None if it has none that can be read.

    Raises:
        RecordError: another version wrote it.
    """
    path = directory / RECORD
    with contextlib.suppress(OSError, ValueError, ValidationError):
        return read_record(MlflowRecord, from_json(path.read_bytes()), path, RecordError)
    return None


def write_mlflow_record(directory: Path, record: MlflowRecord) -> None:
    """Write the record of a folder.

    Raises:
        DiskError: it cannot be written.
    """
    write_whole(directory / RECORD, record.model_dump_json(indent=2))


def record_end(directory: Path, stop: str) -> None:
    """Record that a run failed, where its owner cannot do so any more; MLflow hears of it later.

    Args:
        directory: The folder of the run.
        stop: Why: a word, and behind ": " a sentence.
    """
    with contextlib.suppress(RecordError, DiskError):
        record = read_mlflow_record(directory)
        if record is not None and record.status is None:
            ended = {"status": "FAILED", "stop": stop, "ended": time.time(), "is_sent": False}
            write_mlflow_record(directory, record.model_copy(update=ended))


def original_of(directory: Path, record: MlflowRecord) -> Path | None:
    """Return the folder that a folder is a copy of; None if it is the only one, or was moved.

    Where the original is not to be seen, another machine may have it, and MLflow's server shows it.
    A database of SQLite lies beside the folders that it shows, and is asked itself.
    """
    original = record.directory
    if is_another(original, directory):
        return original
    is_elsewhere = record.host not in {"", socket.gethostname()}
    has_moved = original != directory.absolute()
    return original if is_elsewhere and has_moved and not record.uri.startswith(SQLITE) else None
