"""The spool is the truth; MLflow mirrors it, and may fail as it likes."""

import json
import logging
import math
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from mlflow.entities import Run

from dpot_scale.config.schema import (
    BatchConfig,
    DataConfig,
    RunConfig,
    TrackingConfig,
)
from dpot_scale.training.tracking import (
    RUN_ID_FILE,
    SPOOL,
    Tracker,
    client,
    close_run,
    open_run,
    read_metrics,
)

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


def record(directory: Path, tracking: TrackingConfig, run_id: str | None, *steps: int) -> None:
    tracker = Tracker(directory, tracking, run_id=run_id, is_main=True)
    for step in steps:
        tracker.log({"train/loss": 1 / step}, step=step)
    tracker.close()


def opened(directory: Path, tracking: TrackingConfig) -> str:
    run_id = open_run(directory, CONFIG, tracking, name="run")
    assert run_id is not None
    return run_id


def in_mlflow(tracking: TrackingConfig, run_id: str, key: str) -> list[tuple[int, float]]:
    assert tracking.mlflow_uri is not None
    history = client(tracking.mlflow_uri).get_metric_history(run_id, key)
    return [(point.step, point.value) for point in history]


def run_of(tracking: TrackingConfig, run_id: str) -> Run:
    assert tracking.mlflow_uri is not None
    return client(tracking.mlflow_uri).get_run(run_id)


def test_what_is_logged_is_on_disk_at_once(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, NOWHERE, run_id=None, is_main=True)
    tracker.log({"train/loss": 0.1, "train/lr": 1e-3}, step=1)
    tracker.log({"eval/mean/rel_l2": 0.5}, step=1)
    assert read_metrics(tmp_path / SPOOL) == {
        "train/loss": {1: 0.1},
        "train/lr": {1: 1e-3},
        "eval/mean/rel_l2": {1: 0.5},
    }
    tracker.close()


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, NOWHERE, run_id=None, is_main=False)
    tracker.log({"train/loss": 0.1}, step=1)
    tracker.close()
    assert list(tmp_path.iterdir()) == []


def test_of_a_step_recorded_twice_the_last_value_counts(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, NOWHERE, run_id=None, is_main=True)
    for step, loss in [(1, 1.0), (2, 2.0), (1, 10.0)]:
        tracker.log({"train/loss": loss}, step=step)
    tracker.close()
    assert read_metrics(tmp_path / SPOOL)["train/loss"] == {1: 10.0, 2: 2.0}


def test_values_that_are_not_finite_come_back(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, NOWHERE, run_id=None, is_main=True)
    tracker.log({"nan": math.nan, "inf": math.inf}, step=1)
    tracker.close()
    found = read_metrics(tmp_path / SPOOL)
    assert math.isnan(found["nan"][1])
    assert found["inf"][1] == math.inf


def test_half_a_record_is_none_and_is_in_nobodys_way(tmp_path: Path) -> None:
    record(tmp_path, NOWHERE, None, 1)
    with (tmp_path / SPOOL).open("a") as spool:
        spool.write('{"step": 2, "time": 17')
    assert read_metrics(tmp_path / SPOOL)["train/loss"] == {1: 1.0}
    record(tmp_path, NOWHERE, None, 2)
    assert read_metrics(tmp_path / SPOOL)["train/loss"] == {1: 1.0, 2: 0.5}


def test_a_line_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    record(tmp_path, NOWHERE, None, 1)
    with (tmp_path / SPOOL).open("ab") as spool:
        spool.write(b"\0\0\0\n")
    record(tmp_path, NOWHERE, None, 2)
    assert read_metrics(tmp_path / SPOOL)["train/loss"] == {1: 1.0, 2: 0.5}


def test_the_mirror_has_what_the_spool_has(tmp_path: Path, mirrored: TrackingConfig) -> None:
    run_id = opened(tmp_path, mirrored)
    record(tmp_path, mirrored, run_id, *range(1, 6))
    spooled = read_metrics(tmp_path / SPOOL)["train/loss"]
    assert in_mlflow(mirrored, run_id, "train/loss") == list(spooled.items())


def test_a_resumed_run_has_each_step_once(tmp_path: Path, mirrored: TrackingConfig) -> None:
    """Some steps were mirrored before the crash, others only spooled, others are recorded anew."""
    run_id = opened(tmp_path, mirrored)
    record(tmp_path, mirrored, run_id, 1, 2)
    record(tmp_path, NOWHERE, None, 3, 4)
    record(tmp_path, mirrored, opened(tmp_path, mirrored), 2, 3, 4, 5)
    assert [step for step, _ in in_mlflow(mirrored, run_id, "train/loss")] == [1, 2, 3, 4, 5]


def test_mlflow_gets_finite_values_only(tmp_path: Path, mirrored: TrackingConfig) -> None:
    run_id = opened(tmp_path, mirrored)
    tracker = Tracker(tmp_path, mirrored, run_id=run_id, is_main=True)
    for step, value in enumerate([1.0, math.nan, math.inf, 2.0]):
        tracker.log({"train/loss": value}, step=step)
    tracker.close()
    assert in_mlflow(mirrored, run_id, "train/loss") == [(0, 1.0), (3, 2.0)]


def test_a_run_is_opened_once(tmp_path: Path, mirrored: TrackingConfig) -> None:
    run_id = opened(tmp_path, mirrored)
    close_run(run_id, mirrored, "KILLED")
    assert run_of(mirrored, run_id).info.status == "KILLED"
    assert opened(tmp_path, mirrored) == run_id
    assert run_of(mirrored, run_id).info.status == "RUNNING"


def test_a_run_holds_its_config(tmp_path: Path, mirrored: TrackingConfig) -> None:
    run_id = opened(tmp_path, mirrored)
    params = run_of(mirrored, run_id).data.params
    assert params["data.weights.dataset_119"] == "120.0"
    assert params["batch.micro_batch"] == "2"
    assert mirrored.mlflow_uri is not None
    text = client(mirrored.mlflow_uri).list_artifacts(run_id)
    assert [entry.path for entry in text] == ["config.yaml"]


def test_a_run_of_another_database_is_opened_anew(tmp_path: Path, mirrored: TrackingConfig) -> None:
    (tmp_path / RUN_ID_FILE).write_text("0" * 32)
    run_id = opened(tmp_path, mirrored)
    assert (tmp_path / RUN_ID_FILE).read_text() == run_id != "0" * 32


def test_the_end_of_a_run(tmp_path: Path, mirrored: TrackingConfig) -> None:
    run_id = opened(tmp_path, mirrored)
    picture = tmp_path / "picture.png"
    picture.write_bytes(b"png")
    close_run(run_id, mirrored, "FINISHED", artifacts={picture: "figures"}, note="# Done")
    run = run_of(mirrored, run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.note.content"] == "# Done"
    assert mirrored.mlflow_uri is not None
    figures = client(mirrored.mlflow_uri).list_artifacts(run_id, "figures")
    assert [entry.path for entry in figures] == ["figures/picture.png"]


def test_an_artifact_that_cannot_be_stored_leaves_the_status_right(
    tmp_path: Path, mirrored: TrackingConfig, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = opened(tmp_path, mirrored)
    with caplog.at_level(logging.WARNING):
        close_run(run_id, mirrored, "FINISHED", artifacts={tmp_path / "absent.png": ""})
    assert run_of(mirrored, run_id).info.status == "FINISHED"
    assert f"could not close the MLflow run {run_id}" in caplog.text


def test_an_unreachable_server_costs_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    absent = TrackingConfig(mlflow_uri="http://127.0.0.1:9")
    with caplog.at_level(logging.WARNING):
        assert open_run(tmp_path, CONFIG, absent, name="run") is None
    assert "no MLflow mirror at http://127.0.0.1:9" in caplog.text
    record(tmp_path, absent, None, 1)
    assert read_metrics(tmp_path / SPOOL)["train/loss"] == {1: 1.0}


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


def test_what_arrived_before_a_failure_is_not_sent_again(tmp_path: Path) -> None:
    server = HTTPServer(("127.0.0.1", 0), Outage)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    flaky = TrackingConfig(mlflow_uri=f"http://127.0.0.1:{server.server_port}")
    record(tmp_path, flaky, "0" * 32, 1, 2, 3)
    server.shutdown()
    assert Outage.failed
    assert Outage.taken == [("train/loss", 1), ("train/loss", 2), ("train/loss", 3)]
