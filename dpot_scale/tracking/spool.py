"""Metrics of a run: a local JSONL spool, which is the truth, and its mirror in MLflow.

The spool gets one line per record, at once. A background thread reads the spool and sends to
MLflow what is not there yet: it never blocks a step, and what a crash or an outage held back is
sent when the run continues.
"""

import contextlib
import functools
import json
import logging
import math
import os
import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from dpot_scale.config.run import TrackingConfig
from dpot_scale.tracking.mlflow_client import client, remembered_run, warn_if_deleted

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

SPOOL = "metrics.jsonl"

MIRROR_INTERVAL_SECONDS = 2.0
CLOSE_SECONDS = 60.0  # how long the end of a run waits for MLflow
LARGEST_BATCH = 1000  # metrics in one request, MLflow's limit
TAIL_BYTES = 16384  # of a spool, to find its newest record: some dozens of them

log = logging.getLogger(__name__)


class Tracker:
    """Records the metrics of one run. Only the main rank writes.

    Args:
        directory: The run's. Once it remembers an MLflow run, the metrics are mirrored there.
        config: Where MLflow is, if it is used.
        is_main: Whether this process is the main rank.
    """

    def __init__(self, directory: Path, config: TrackingConfig, *, is_main: bool) -> None:
        self._spool = _open_spool(directory / SPOOL) if is_main else None
        self._mirror: _Mirror | None = None
        if is_main and config.mlflow_uri:
            self._mirror = _Mirror(directory, config.mlflow_uri)

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Record metrics of a step."""
        if self._spool is not None:
            record = {"step": step, "time": time.time(), **metrics}
            self._spool.write(json.dumps(record) + "\n")
            self._spool.flush()

    def close(self) -> None:
        """Close the spool and give the mirror some time to catch up."""
        if self._spool is not None:
            with contextlib.suppress(OSError):  # said when it was written: the disk is full
                self._spool.close()
        if self._mirror is not None:
            self._mirror.close()


def read_metrics(path: Path) -> dict[str, dict[int, float]]:
    """Return metric -> step -> value from a spool; of a step recorded twice, the last value.

    A run that was killed and resumed records the steps since its checkpoint again.
    """
    metrics: dict[str, dict[int, float]] = defaultdict(dict)
    for record in _complete_records(path, 0)[0]:
        for key, value in _values(record).items():
            metrics[key][record["step"]] = value
    return dict(metrics)


def newest_record(spool: Path, *, containing: str) -> dict[str, float] | None:
    """Return the last record of a spool that has a metric, looking at its end only."""
    if not spool.exists():
        return None
    with spool.open("rb") as file:
        start = max(0, spool.stat().st_size - TAIL_BYTES)
        file.seek(start)
        lines = file.read().split(b"\n")
    # The first line may be cut off by the seek, the last is not finished yet.
    for line in reversed(lines[1 if start else 0 : -1]):
        if containing.encode() in line:
            record: dict[str, float] = json.loads(line)
            return record
    return None


def send_rest(directory: Path, uri: str) -> None:
    """Send what the MLflow run of a directory does not have yet, if the directory has a spool."""
    if (directory / SPOOL).exists():
        _Sender(directory, uri).send()


class _Mirror:
    """Sends a spool to an MLflow run, once there is one, from a thread of its own.

    Whoever owns the MLflow run, this process or the driver of a sweep, opens it when MLflow
    answers, and writes its id into the directory.
    """

    def __init__(self, directory: Path, uri: str) -> None:
        self._sender = _Sender(directory, uri)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mlflow mirror", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            log.warning(
                "MLflow did not take all metrics in time; all are in %s", self._sender.spool
            )

    def _run(self) -> None:
        closing = False
        while not closing:
            closing = self._closing.wait(MIRROR_INTERVAL_SECONDS)
            try:
                self._sender.send()
            except Exception as error:
                log.debug("MLflow mirror: %s", error)
                if not self._sender.is_gone() and closing:
                    time.sleep(MIRROR_INTERVAL_SECONDS)
                    closing = False


class _Sender:
    """Sends the records of a spool that an MLflow run does not have yet."""

    def __init__(self, directory: Path, uri: str) -> None:
        self.spool = directory / SPOOL
        self._directory = directory
        self._uri = uri
        self._run_id: str | None = None
        self._offset = 0
        self._newest_step: dict[str, int] = {}  # metric -> last step that MLflow has

    def send(self) -> None:
        """Send the records since the last call; after a failure, less what arrived all the same."""
        try:
            self._find_run()
            self._send_new_records()
        except Exception:
            self._newest_step.clear()  # the offset has not moved
            raise

    def is_gone(self) -> bool:
        """Return whether the run was deleted in MLflow: it may be restored, but not waited for."""
        with contextlib.suppress(Exception):
            return self._run_id is not None and warn_if_deleted(self._client, self._run_id)
        return False

    def _find_run(self) -> None:
        """Read which MLflow run is the directory's: a new one gets the whole spool."""
        run_id = remembered_run(self._directory)
        if run_id != self._run_id:
            self._run_id = run_id
            self._offset = 0
            self._newest_step.clear()

    def _send_new_records(self) -> None:
        if self._run_id is None:
            return
        from mlflow.entities import Metric

        records, offset = _complete_records(self.spool, self._offset)
        # MLflow would show a step sent twice as two points, and infinity as 1.8e308.
        unique = {
            (key, record["step"]): Metric(key, value, int(record["time"] * 1000), record["step"])
            for record in records
            for key, value in _values(record).items()
            if math.isfinite(value) and record["step"] > self._newest(key)
        }
        metrics = list(unique.values())
        for first in range(0, len(metrics), LARGEST_BATCH):
            batch = metrics[first : first + LARGEST_BATCH]
            self._client.log_batch(self._run_id, metrics=batch)
            for metric in batch:
                self._newest_step[metric.key] = metric.step
        self._offset = offset

    def _newest(self, key: str) -> int:
        if key not in self._newest_step:
            history = self._client.get_metric_history(self._run_id, key)
            self._newest_step[key] = max((metric.step for metric in history), default=-1)
        return self._newest_step[key]

    @functools.cached_property
    def _client(self) -> "MlflowClient":
        return client(self._uri)


def _values(record: Mapping[str, Any]) -> dict[str, float]:
    return {key: float(value) for key, value in record.items() if key not in {"step", "time"}}


def _open_spool(path: Path) -> IO[str]:
    """Open a spool to append to, without the half record that a crash may have left."""
    if path.exists():
        os.truncate(path, _complete_records(path, 0)[1])
    return path.open("a", encoding="utf-8")


def _complete_records(path: Path, offset: int) -> tuple[list[dict[str, Any]], int]:
    """Return the records from a byte offset on, and the offset behind the last complete line.

    A line that cannot be read, after a disk failed, is left out.
    """
    with path.open("rb") as spool:
        spool.seek(offset)
        content = spool.read()
    end = content.rfind(b"\n") + 1
    records = []
    for line in content[:end].splitlines():
        with contextlib.suppress(ValueError):
            records.append(json.loads(line))
    return records, offset + end
