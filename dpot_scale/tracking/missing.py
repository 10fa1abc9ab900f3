"""Sends to MLflow what it lacks of a run, at any time: from the spool and record of its folder."""

import logging
import os
import shlex
import socket
import time
from collections.abc import Iterable
from pathlib import Path

from dpot_scale.config.places import LOCK, RESULT_FILE, SQLITE, absolute_uri
from dpot_scale.errors import ConfigError
from dpot_scale.files import is_held
from dpot_scale.tracking.mlflow_client import client, read_run_id, reason, warn_if_deleted
from dpot_scale.tracking.opening import (
    complete,
    known_run,
    make_run,
    mark_as_sent,
    parent_of,
    remember,
    send_all,
)
from dpot_scale.tracking.patience import Beat, in_time
from dpot_scale.tracking.record import MlflowRecord, original_of, read_mlflow_record
from dpot_scale.tracking.spool import SPOOL

log = logging.getLogger(__name__)


def catch_up(directories: Iterable[Path]) -> None:
    """Send what MLflow lacks of runs that have ended; where it does not answer, warn.

    Nothing is asked of MLflow where all of them were sent.

    Args:
        directories: The folders of runs and sweeps, a sweep before its trials.
    """
    for directory in directories:
        record = read_mlflow_record(directory)
        if record is None or record.is_sent or original_of(directory, record):
            continue
        if record.status is None and is_alive(directory, record):
            continue

        def send(beat: Beat, directory: Path = directory, known: MlflowRecord = record) -> None:
            send_missing(directory, known, beat=beat)

        if (error := in_time(record.uri, send)) is not None:
            log.warning(
                "MLflow at %s lacks a part of %s: %s; `python -m dpot_scale.mirror %s` sends it",
                record.uri,
                directory,
                reason(error),
                shlex.quote(str(directory)),
            )
            return  # or each of the others would wait as long


def send_missing(
    directory: Path, record: MlflowRecord, *, elsewhere: str | None = None, beat: Beat
) -> int:
    """Send what MLflow lacks of a run, which is made if need be; return how many points were sent.

    Args:
        directory: The folder of the run or sweep.
        record: That of the folder.
        elsewhere: Another MLflow than that of the record; the folder does not remember it.
        beat: Called at each answer.

    Raises:
        ConfigError: the folder is a copy, or its database is gone.
    """
    as_read = record
    if elsewhere is None:
        record = record.model_copy(
            update={"uri": _own_uri(directory, record), "directory": directory.absolute()}
        )
    mlflow_client = client(elsewhere or record.uri)
    record = _with_end(directory, record)
    run = known_run(mlflow_client, directory, record)
    if run is not None and warn_if_deleted(mlflow_client, run.info.run_id):
        return 0
    beat()
    lacks_all = run is None
    run = run or make_run(mlflow_client, record)
    if elsewhere is None and read_run_id(directory) != run.info.run_id:
        remember(directory, run)
    if lacks_all or elsewhere is not None or not record.is_sent:
        parent = parent_of(mlflow_client, directory, record)
        complete(mlflow_client, run.info.run_id, record, parent)
        beat()
    else:
        record = record.model_copy(update={"status": None, "artifacts": {}})  # it has them
    sent = send_all(mlflow_client, run.info.run_id, directory, record, beat)
    if elsewhere is None and record.status is not None and _is_as_read(directory, as_read):
        mark_as_sent(directory, record)
    return sent


def is_alive(directory: Path, record: MlflowRecord) -> bool:
    """Return whether a process trains in a folder, or runs the sweep that it belongs to."""
    above = [] if record.parent is None else [directory / record.parent / LOCK]
    return any(is_held(lock) for lock in [directory / LOCK, *above])


def _is_as_read(directory: Path, record: MlflowRecord) -> bool:
    """Return whether nobody has started the run again since its record was read."""
    return not is_alive(directory, record) and read_mlflow_record(directory) == record


def _with_end(directory: Path, record: MlflowRecord) -> MlflowRecord:
    """Return a record that says how the run ended, also where it was killed; without lost files."""
    files = {path: to for path, to in record.artifacts.items() if (directory / path).is_file()}
    record = record.model_copy(update={"artifacts": files})
    if record.status is not None or is_alive(directory, record):
        return record
    status = "FINISHED" if (directory / RESULT_FILE).exists() else "KILLED"
    spool = directory / SPOOL
    ended = spool.stat().st_mtime if spool.exists() else time.time()
    return record.model_copy(update={"status": status, "stop": status.lower(), "ended": ended})


def _own_uri(directory: Path, record: MlflowRecord) -> str:
    """Return the MLflow of a folder; of one that was moved together with its database, the new."""
    original = original_of(directory, record)
    if original is not None:
        raise ConfigError(
            f"{directory} is a copy of {original}{_on_host(record)}, whose run in MLflow stays as "
            "it is; say with --mlflow-uri where the copy is to be shown"
        )
    if record.directory.is_dir() or not record.uri.startswith(SQLITE):
        return record.uri
    way = os.path.relpath(record.uri.removeprefix(SQLITE), record.directory)
    moved = absolute_uri(f"{SQLITE}{way}", directory)
    if not Path(moved.removeprefix(SQLITE)).resolve().is_file():
        raise ConfigError(
            f"{directory} was moved here without the database of its MLflow, {record.uri}; say "
            "with --mlflow-uri where it is to be shown"
        )
    return f"{SQLITE}{Path(moved.removeprefix(SQLITE)).resolve()}"


def _on_host(record: MlflowRecord) -> str:
    return f" on {record.host}" if record.host not in {"", socket.gethostname()} else ""
