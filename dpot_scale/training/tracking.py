"""Metrics of a run: a local JSONL spool, which is the truth, and its mirror in MLflow.

The spool gets one line per record, at once. A background thread reads the spool and sends to
MLflow what is not there yet: it never blocks a step, and what a crash or an outage held back is
sent when the run continues.
"""

import contextlib
import json
import logging
import math
import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from dpot_scale.config.load import dump
from dpot_scale.config.places import SQLITE, absolute_uri
from dpot_scale.config.schema import Section, TrackingConfig

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

SPOOL = "metrics.jsonl"
RUN_ID_FILE = "mlflow_run_id"

MIRROR_INTERVAL_SECONDS = 2.0
CLOSE_SECONDS = 60.0  # how long the end of a run waits for MLflow
LARGEST_BATCH = 1000  # metrics in one request, MLflow's limit
LARGEST_PARAM_BATCH = 100
# MLflow tries a server that does not answer for many minutes. The mirror tries again by itself.
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
TAIL_BYTES = 16384  # of a spool, to find its newest record: some dozens of them

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
        self._spool = _open_spool(directory / SPOOL) if is_main else None
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
                # The offset has not moved: tried again, less what arrived all the same.
                self._newest_step.clear()
                if closing:
                    time.sleep(MIRROR_INTERVAL_SECONDS)
                continue
            if closing:
                return

    def _send_new_records(self) -> None:
        from mlflow.entities import Metric

        records, offset = _complete_records(self._spool, self._offset)
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


def client(uri: str) -> "MlflowClient":
    """Return a client for a tracking server or sqlite database, quiet and not too patient."""
    # Imported where it is used: it takes more than a second, and 115 MiB of every rank.
    from mlflow.tracking import MlflowClient

    for variable, value in PATIENCE.items():
        os.environ.setdefault(variable, value)
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=absolute_uri(uri, Path.cwd()))


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
    with _never_fatal(f"no MLflow mirror at {tracking.mlflow_uri}"):
        mlflow_client = client(tracking.mlflow_uri)
        remembered = directory / RUN_ID_FILE
        known = remembered.read_text().strip() if remembered.exists() else None
        if known is None or not _exists(mlflow_client, known):
            experiment = _experiment(mlflow_client, tracking)
            run = mlflow_client.create_run(experiment, run_name=name, tags=dict(tags or {}))
            known = str(run.info.run_id)
            directory.mkdir(parents=True, exist_ok=True)
            remembered.write_text(known)
            with _never_fatal(f"the MLflow run {known} lacks its config"):
                _log_config(mlflow_client, known, config)
        mlflow_client.update_run(known, status="RUNNING")
        return known
    return None


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
    with _never_fatal(f"could not close the MLflow run {run_id}"):
        # The status first: files may have a store of their own, which may be out of reach.
        mlflow_client = client(tracking.mlflow_uri)
        mlflow_client.set_terminated(run_id, status=status)
        if note is not None:
            mlflow_client.set_tag(run_id, "mlflow.note.content", note)
        for path, folder in (artifacts or {}).items():
            mlflow_client.log_artifact(run_id, str(path), folder or None)


@contextlib.contextmanager
def _never_fatal(consequence: str) -> Iterator[None]:
    """Turn any failure of MLflow into a warning."""
    try:
        yield
    except Exception as error:
        log.warning("%s: %s", consequence, error)


def _experiment(mlflow_client: "MlflowClient", tracking: TrackingConfig) -> str:
    found = mlflow_client.get_experiment_by_name(tracking.experiment)
    if found is not None:
        return str(found.experiment_id)
    uri = absolute_uri(tracking.mlflow_uri or "", Path.cwd())
    location = None
    if uri.startswith(SQLITE):
        # Beside the database, wherever the training was started from.
        location = (Path(uri.removeprefix(SQLITE)).parent / "mlruns").as_uri()
    return str(mlflow_client.create_experiment(tracking.experiment, artifact_location=location))


def _exists(mlflow_client: "MlflowClient", run_id: str) -> bool:
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode

    try:
        mlflow_client.get_run(run_id)
    except MlflowException as error:
        if error.error_code == ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            return False
        raise
    return True


def _log_config(mlflow_client: "MlflowClient", run_id: str, config: Section) -> None:
    from mlflow.entities import Param

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
