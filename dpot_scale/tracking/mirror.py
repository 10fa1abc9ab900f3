"""Mirrors the spool of a run to MLflow, from a thread that never blocks a step.

It sends what the MLflow run does not have yet, so what a crash or an outage held back is sent when
the run continues.
"""

import contextlib
import functools
import logging
import math
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from dpot_scale.tracking.mlflow_client import client, read_run_id, warn_if_deleted
from dpot_scale.tracking.spool import SPOOL, STEP, TIME, complete_records, values_of

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

MIRROR_INTERVAL_SECONDS = 2.0
CLOSE_SECONDS = 60.0  # how long the end of a run waits for MLflow
LARGEST_BATCH = 1000  # metrics in one request, MLflow's limit

log = logging.getLogger(__name__)


class Mirror:
    """Sends a spool to an MLflow run, from a thread of its own.

    The owner of the MLflow run is this process or the driver of a sweep. It opens the run when
    MLflow answers, and writes the id into the directory; sending begins then.
    """

    def __init__(self, directory: Path, uri: str) -> None:
        self._sender = _Sender(directory, uri)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mlflow mirror", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Wait a while for the rest to be sent, then end the thread."""
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


def send_rest(directory: Path, uri: str) -> None:
    """Send what the MLflow run of a directory does not have yet, if the directory has a spool."""
    if (directory / SPOOL).exists():
        _Sender(directory, uri).send()


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
        """Send the records since the last call; after a failure, only those that did not arrive."""
        try:
            self._find_run()
            self._send_new_records()
        except Exception:
            self._newest_step.clear()  # the offset has not moved
            raise

    def is_gone(self) -> bool:
        """Return whether the run was deleted in MLflow, so that there is nothing to wait for."""
        with contextlib.suppress(Exception):
            return self._run_id is not None and warn_if_deleted(self._client, self._run_id)
        return False

    def _find_run(self) -> None:
        """Read the id of the directory's MLflow run. A new run gets the whole spool."""
        run_id = read_run_id(self._directory)
        if run_id != self._run_id:
            self._run_id = run_id
            self._offset = 0
            self._newest_step.clear()

    def _send_new_records(self) -> None:
        if self._run_id is None:
            return
        from mlflow.entities import Metric

        records, offset = complete_records(self.spool, self._offset)
        # MLflow would show a step sent twice as two points, and infinity as 1.8e308.
        unique = {
            (key, record[STEP]): Metric(key, value, int(record[TIME] * 1000), record[STEP])
            for record in records
            for key, value in values_of(record).items()
            if math.isfinite(value) and record[STEP] > self._newest(key)
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
