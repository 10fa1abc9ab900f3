"""Mirrors the spool of a run to MLflow, from a thread that never blocks a step.

It sends what the MLflow run does not have yet, so what a crash or an outage held back is sent when
the run continues, or by `python -m dpot_scale.mirror`.
"""

import contextlib
import logging
import threading
import time
from pathlib import Path

from dpot_scale.tracking.mlflow_client import client, read_run_id, warn_if_deleted
from dpot_scale.tracking.patience import Pulse
from dpot_scale.tracking.points import Points
from dpot_scale.tracking.spool import SPOOL

MIRROR_INTERVAL_SECONDS = 2.0

log = logging.getLogger(__name__)


class Mirror:
    """Sends a spool to an MLflow run, from a thread of its own.

    The owner of the MLflow run is this process or the driver of a sweep. It opens the run when
    MLflow answers, and writes the id into the directory; sending begins then.
    """

    def __init__(self, directory: Path, uri: str) -> None:
        self._directory = directory
        self._uri = uri
        self._points: Points | None = None
        self._pulse = Pulse(uri)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mlflow mirror", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Wait for the rest to be sent while MLflow answers, then leave the thread alone.

        Whoever closes the MLflow run looks for what is missing, and says so.
        """
        self._closing.set()
        if not self._pulse.wait_for(self._thread):
            log.debug("MLflow did not take all metrics in time")

    def _run(self) -> None:
        closing = False
        while not closing:
            closing = self._closing.wait(MIRROR_INTERVAL_SECONDS)
            try:
                self._send()
            except Exception as error:
                log.debug("MLflow mirror: %s", error)
                if not self._is_gone() and closing:
                    time.sleep(MIRROR_INTERVAL_SECONDS)
                    closing = False

    def _send(self) -> None:
        """Send what is new. A new run gets the whole spool."""
        run_id = read_run_id(self._directory)
        if run_id is None:
            return
        if self._points is None or self._points.run_id != run_id:
            self._points = Points(client(self._uri), run_id, self._directory / SPOOL)
        self._points.send(self._pulse.beat)

    def _is_gone(self) -> bool:
        """Return whether the run was deleted in MLflow, so that there is nothing to wait for."""
        with contextlib.suppress(Exception):
            points = self._points
            return points is not None and warn_if_deleted(client(self._uri), points.run_id)
        return False
