"""MLflow mirrors the spool, and may fail as it likes."""

import json
import math
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from mlflow.tracking import MlflowClient

from dpot_scale.config.batch import BatchConfig
from dpot_scale.config.data import DataConfig
from dpot_scale.config.run import RunConfig, TrackingConfig
from dpot_scale.tracking.mlflow_client import RUN_ID_FILE, client
from dpot_scale.tracking.mlflow_run import MlflowRun
from dpot_scale.tracking.spool import SPOOL, read_metrics
from dpot_scale.tracking.tracker import Tracker

Record = Callable[..., None]
CONFIG = RunConfig(
    name="run",
    windows=8,
    # More parameters than MLflow takes in one request.
    data=DataConfig(weights={f"dataset_{i}": 1 + i for i in range(120)}),
    batch=BatchConfig(global_batch=4, micro_batch=2),
)
NOWHERE = TrackingConfig(mlflow_uri=None)


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory: pytest.TempPathFactory) -> TrackingConfig:
    """A fresh sqlite database, as `mlflow ui` opens it."""
    database = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    return TrackingConfig(mlflow_uri=f"sqlite:///{database}")


def the_run(directory: Path, tracking: TrackingConfig) -> MlflowRun:
    return MlflowRun(directory, CONFIG, tracking, name="run")


def opened(directory: Path, tracking: TrackingConfig) -> str:
    run_id = the_run(directory, tracking).open()
    assert run_id is not None
    return run_id


def in_mlflow(tracking: TrackingConfig, run_id: str, key: str) -> list[tuple[int, float]]:
    history = client_of(tracking).get_metric_history(run_id, key)
    return [(point.step, point.value) for point in history]


def client_of(tracking: TrackingConfig) -> MlflowClient:
    assert tracking.mlflow_uri is not None
    return client(tracking.mlflow_uri)


def test_the_mirror_has_what_the_spool_has(
    record: Record, tmp_path: Path, mirrored: TrackingConfig
) -> None:
    run_id = opened(tmp_path, mirrored)
    record(tmp_path, mirrored, *range(1, 6))
    spooled = read_metrics(tmp_path / SPOOL)["train/loss"]
    assert in_mlflow(mirrored, run_id, "train/loss") == list(spooled.items())


def test_a_resumed_run_has_each_step_once(
    record: Record, tmp_path: Path, mirrored: TrackingConfig
) -> None:
    """Some steps were mirrored before the crash, others only spooled, others are recorded anew."""
    run_id = opened(tmp_path, mirrored)
    record(tmp_path, mirrored, 1, 2)
    record(tmp_path, NOWHERE, 3, 4)
    assert opened(tmp_path, mirrored) == run_id
    record(tmp_path, mirrored, 2, 3, 4, 5)
    assert [step for step, _ in in_mlflow(mirrored, run_id, "train/loss")] == [1, 2, 3, 4, 5]


def test_mlflow_gets_finite_values_only(tmp_path: Path, mirrored: TrackingConfig) -> None:
    run_id = opened(tmp_path, mirrored)
    tracker = Tracker(tmp_path, mirrored, is_main=True)
    for step, value in enumerate([1.0, math.nan, math.inf, 2.0]):
        tracker.log({"train/loss": value}, step=step)
    tracker.close()
    assert in_mlflow(mirrored, run_id, "train/loss") == [(0, 1.0), (3, 2.0)]


def test_a_run_made_anew_gets_the_whole_spool(tmp_path: Path, mirrored: TrackingConfig) -> None:
    tracker = Tracker(tmp_path, mirrored, is_main=True)
    tracker.log({"train/loss": 0.5}, step=1)
    run_id = opened(tmp_path, mirrored)
    wait_for(lambda: in_mlflow(mirrored, run_id, "train/loss") == [(1, 0.5)])
    client_of(mirrored).delete_run(run_id)
    another = opened(tmp_path, mirrored)
    tracker.log({"train/loss": 0.25}, step=2)
    tracker.close()
    assert in_mlflow(mirrored, another, "train/loss") == [(1, 0.5), (2, 0.25)]


def test_a_run_deleted_on_the_way_is_said_once_and_can_be_restored(
    tmp_path: Path, mirrored: TrackingConfig, caplog: pytest.LogCaptureFixture
) -> None:
    run = the_run(tmp_path, mirrored)
    run_id = run.open()
    assert run_id is not None
    tracker = Tracker(tmp_path, mirrored, is_main=True)
    client_of(mirrored).delete_run(run_id)
    tracker.log({"train/loss": 0.5}, step=1)
    wait_for(lambda: bool(caplog.messages))
    client_of(mirrored).restore_run(run_id)
    tracker.log({"train/loss": 0.25}, step=2)
    tracker.close()
    assert in_mlflow(mirrored, run_id, "train/loss") == [(1, 0.5), (2, 0.25)]
    client_of(mirrored).delete_run(run_id)
    run.close("FINISHED")
    (said,) = caplog.messages
    assert f"the MLflow run {run_id} was deleted" in said
    assert f"MLFLOW_TRACKING_URI={mirrored.mlflow_uri} mlflow runs restore --run-id" in said


def wait_for(happened: Callable[[], bool]) -> None:
    """Wait; leave it to the test's timeout to give up."""
    while not happened():
        time.sleep(0.05)


class Outage(BaseHTTPRequestHandler):
    """A server that fails once, after it has taken the metrics, and works from then on."""

    taken: ClassVar[list[tuple[str, int]]] = []
    failed = False

    def do_GET(self) -> None:
        history = [
            {"key": key, "value": 0.0, "timestamp": 0, "step": step} for key, step in Outage.taken
        ]
        self._answer(200, {"metrics": history})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Outage.taken += [(metric["key"], metric["step"]) for metric in body["metrics"]]
        first = not Outage.failed
        Outage.failed = True
        self._answer(400 if first else 200, {})

    def _answer(self, code: int, content: object) -> None:
        text = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        pass


def test_what_arrived_before_a_failure_is_not_sent_again(record: Record, tmp_path: Path) -> None:
    server = HTTPServer(("127.0.0.1", 0), Outage)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    flaky = TrackingConfig(mlflow_uri=f"http://127.0.0.1:{server.server_port}")
    (tmp_path / RUN_ID_FILE).write_text("0" * 32)
    record(tmp_path, flaky, 1, 2, 3)
    server.shutdown()
    assert Outage.failed
    assert Outage.taken == [("train/loss", 1), ("train/loss", 2), ("train/loss", 3)]
