"""Metrics of a run: a local JSONL spool, which is the truth, and its mirror in MLflow.

The spool gets one line per record, at once. A background thread reads the spool and sends to
MLflow what is not there yet: it never blocks a step, and what a crash or an outage held back is
sent when the run continues.
"""

import json
import logging
import math
import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from dpot_scale.config.load import dump
from dpot_scale.config.schema import Section, TrackingConfig

SPOOL = "metrics.jsonl"
RUN_ID_FILE = "mlflow_run_id"
SQLITE = "sqlite:///"

MIRROR_INTERVAL_SECONDS = 2.0
CLOSE_SECONDS = 60.0  # how long the end of a run waits for MLflow
LARGEST_BATCH = 1000  # metrics in one request, MLflow's limit
LARGEST_PARAM_BATCH = 100

Status = Literal["FINISHED", "FAILED", "KILLED"]

log = logging.getLogger(__name__)


class Tracker:
    """Records the metrics of one run. Only the main rank writes.

    Args:
        directory: The run's.
        config: Where the mirror is, if there is one.
        run_id: The MLflow run to mirror to; None for no mirror.
        is_main: Whether this process is the main rank.
    """

    def __init__(
        self, directory: Path, config: TrackingConfig, *, run_id: str | None, is_main: bool
    ) -> None:
        self._spool = (directory / SPOOL).open("a", encoding="utf-8") if is_main else None
        self._mirror: _Mirror | None = None
        if is_main and config.mlflow_uri and run_id:
            self._mirror = _Mirror(directory / SPOOL, config.mlflow_uri, run_id)

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Record metrics of a step."""
        if self._spool is not None:
            record = {"step": step, "time": time.time(), **metrics}
            self._spool.write(json.dumps(record) + "\n")
            self._spool.flush()

    def close(self) -> None:
        """Close the spool and give the mirror some time to catch up."""
        if self._spool is not None:
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
            metrics[key][int(record["step"])] = value
    return dict(metrics)


class _Mirror:
    """Sends a spool to an MLflow run from a thread of its own."""

    def __init__(self, spool: Path, uri: str, run_id: str) -> None:
        self._spool = spool
        self._client = client(uri)
        self._run_id = run_id
        self._offset = 0
        self._newest_step: dict[str, int] = {}  # metric -> last step that MLflow has
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mlflow mirror", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            log.warning("MLflow did not take all metrics in time; all are in %s", self._spool)

    def _run(self) -> None:
        while True:
            closing = self._closing.wait(MIRROR_INTERVAL_SECONDS)
            try:
                self._send_new_records()
            except Exception as error:
                log.debug("MLflow mirror: %s", error)
                continue  # the offset has not moved: tried again
            if closing:
                return

    def _send_new_records(self) -> None:
        records, offset = _complete_records(self._spool, self._offset)
        metrics = [
            Metric(key, value, int(record["time"] * 1000), int(record["step"]))
            for record in records
            for key, value in _values(record).items()
            # MLflow would show a step sent twice as two points, and infinity as 1.8e308.
            if math.isfinite(value) and int(record["step"]) > self._newest(key)
        ]
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


def client(uri: str) -> MlflowClient:
    """Return a client for a tracking server or sqlite database, without start-up chatter."""
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=absolute_uri(uri))


def absolute_uri(uri: str) -> str:
    """Return a URI that means the same in any working directory."""
    path = uri.removeprefix(SQLITE)
    return uri if path == uri else f"{SQLITE}{Path(path).resolve()}"


def open_run(
    directory: Path,
    config: Section,
    tracking: TrackingConfig,
    *,
    name: str,
    tags: Mapping[str, str] | None = None,
) -> str | None:
    """Return the MLflow run of a directory, made on the first call; None without a mirror.

    Only one process may call this at a time: the first call on a fresh sqlite database creates
    its tables. An unreachable server costs a warning, not the training.
    """
    if tracking.mlflow_uri is None:
        return None
    try:
        mlflow_client = client(tracking.mlflow_uri)
        remembered = directory / RUN_ID_FILE
        run_id = remembered.read_text().strip() if remembered.exists() else None
        if run_id is None or not _exists(mlflow_client, run_id):
            experiment = _experiment(mlflow_client, tracking)
            run = mlflow_client.create_run(experiment, run_name=name, tags=dict(tags or {}))
            run_id = str(run.info.run_id)
            _log_config(mlflow_client, run_id, config)
            directory.mkdir(parents=True, exist_ok=True)
            remembered.write_text(run_id)
        mlflow_client.update_run(run_id, status="RUNNING")
    except Exception as error:
        log.warning("no MLflow mirror at %s: %s", tracking.mlflow_uri, error)
        return None
    return run_id


def close_run(
    run_id: str | None,
    tracking: TrackingConfig,
    status: Status,
    *,
    artifacts: Mapping[Path, str] | None = None,
    note: str | None = None,
) -> None:
    """End an MLflow run, with files to attach (path -> folder there) and a Markdown note."""
    if run_id is None or tracking.mlflow_uri is None:
        return
    try:
        mlflow_client = client(tracking.mlflow_uri)
        for path, folder in (artifacts or {}).items():
            mlflow_client.log_artifact(run_id, str(path), folder or None)
        if note is not None:
            mlflow_client.set_tag(run_id, "mlflow.note.content", note)
        mlflow_client.set_terminated(run_id, status=status)
    except Exception as error:
        log.warning("could not close the MLflow run %s: %s", run_id, error)


def _experiment(mlflow_client: MlflowClient, tracking: TrackingConfig) -> str:
    found = mlflow_client.get_experiment_by_name(tracking.experiment)
    if found is not None:
        return str(found.experiment_id)
    uri = absolute_uri(tracking.mlflow_uri or "")
    location = None
    if uri.startswith(SQLITE):
        # Beside the database, wherever the training was started from.
        location = (Path(uri.removeprefix(SQLITE)).parent / "mlruns").as_uri()
    return str(mlflow_client.create_experiment(tracking.experiment, artifact_location=location))


def _exists(mlflow_client: MlflowClient, run_id: str) -> bool:
    try:
        mlflow_client.get_run(run_id)
    except MlflowException:
        return False
    return True


def _log_config(mlflow_client: MlflowClient, run_id: str, config: Section) -> None:
    params = [Param(key, str(value)) for key, value in _flat(config.model_dump(mode="json"))]
    for first in range(0, len(params), LARGEST_PARAM_BATCH):
        mlflow_client.log_batch(run_id, params=params[first : first + LARGEST_PARAM_BATCH])
    mlflow_client.log_text(run_id, dump(config), "config.yaml")


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in values.items():
        if isinstance(value, dict):
            pairs.extend(_flat(value, f"{prefix}{key}."))
        else:
            pairs.append((f"{prefix}{key}", value))
    return pairs


def _values(record: Mapping[str, Any]) -> dict[str, float]:
    return {key: float(value) for key, value in record.items() if key not in {"step", "time"}}


def _complete_records(path: Path, offset: int) -> tuple[list[dict[str, Any]], int]:
    """Return the records from a byte offset on, and the offset behind the last complete line."""
    with path.open("rb") as spool:
        spool.seek(offset)
        content = spool.read()
    end = content.rfind(b"\n") + 1
    return [json.loads(line) for line in content[:end].splitlines()], offset + end
