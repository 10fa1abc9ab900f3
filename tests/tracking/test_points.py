"""An MLflow run gets the points that it lacks, each once."""

from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from dpot_scale.config.run import TrackingConfig
from dpot_scale.tracking.mlflow_client import client
from dpot_scale.tracking.points import ANEW_TAG, Points
from dpot_scale.tracking.spool import SPOOL, STEP, TIME, complete_records
from dpot_scale.tracking.tracker import Tracker

NOWHERE = TrackingConfig(mlflow_uri=None)
Record = Callable[..., None]


@pytest.fixture(scope="module")
def mlflow_client(tmp_path_factory: pytest.TempPathFactory) -> MlflowClient:
    return client(f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db")


@pytest.fixture
def run_id(mlflow_client: MlflowClient) -> str:
    return str(mlflow_client.create_run("0").info.run_id)


def beat() -> None:
    pass


def steps(mlflow_client: MlflowClient, run_id: str, key: str = "train/loss") -> list[int]:
    return [point.step for point in mlflow_client.get_metric_history(run_id, key)]


def test_a_gap_is_filled(
    record: Record, mlflow_client: MlflowClient, run_id: str, tmp_path: Path
) -> None:
    record(tmp_path, NOWHERE, 1, 2, 3)
    mlflow_client.log_metric(run_id, "train/loss", 1 / 2, step=2)
    assert Points(mlflow_client, run_id, tmp_path / SPOOL).send(beat) == 2
    assert sorted(steps(mlflow_client, run_id)) == [1, 2, 3]
    assert Points(mlflow_client, run_id, tmp_path / SPOOL).send(beat) == 0


def test_what_is_one_number_for_a_run_is_the_newest(
    mlflow_client: MlflowClient, run_id: str, tmp_path: Path
) -> None:
    key = "final/rel_l2"
    mlflow_client.log_metric(run_id, key, 0.125, timestamp=1, step=0)  # of its trunk
    tracker = Tracker(tmp_path, NOWHERE, is_main=True)
    tracker.log({key: 0.25, "time/seconds": 3.0}, step=0)
    tracker.close()
    assert Points(mlflow_client, run_id, tmp_path / SPOOL).send(beat) == 2
    assert mlflow_client.get_run(run_id).data.metrics == {key: 0.25, "time/seconds": 3.0}
    assert Points(mlflow_client, run_id, tmp_path / SPOOL).send(beat) == 0


def test_what_a_killed_attempt_had_sent_may_arrive_late(
    record: Record, mlflow_client: MlflowClient, run_id: str, tmp_path: Path
) -> None:
    record(tmp_path, NOWHERE, 1, 2)
    points, _ = complete_records(tmp_path / SPOOL, 0)
    record(tmp_path, NOWHERE, 2, 3)  # the next attempt makes a step again
    assert Points(mlflow_client, run_id, tmp_path / SPOOL).send(beat) == 3
    for point in points:
        when, step = int(point[TIME] * 1000), point[STEP]
        mlflow_client.log_metric(run_id, "train/loss", point["train/loss"], when, step)
    assert sorted(steps(mlflow_client, run_id)) == [1, 2, 3]


def test_a_step_made_again_keeps_also_its_speed(
    mlflow_client: MlflowClient, run_id: str, tmp_path: Path
) -> None:
    speed = "perf/step_seconds"

    def attempt(seconds: float, *losses: tuple[int, float]) -> None:
        tracker = Tracker(tmp_path, NOWHERE, is_main=True)
        for step, loss in losses:
            tracker.log({"train/loss": loss, speed: seconds}, step=step)
        tracker.close()

    attempt(0.5, (1, 0.9), (2, 0.8))
    sent, _ = complete_records(tmp_path / SPOOL, 0)  # and not answered: it was killed
    attempt(0.25, (2, 0.8), (3, 0.7))
    Points(mlflow_client, run_id, tmp_path / SPOOL).send(beat)
    for point in sent:
        when, step = int(point[TIME] * 1000), int(point[STEP])
        mlflow_client.log_metric(run_id, speed, point[speed], when, step)  # arrives now
    assert sorted(steps(mlflow_client, run_id, speed)) == [1, 2, 3]
    # What a rollback makes anew is another step.
    attempt(0.125, (3, 0.6))
    other = str(mlflow_client.create_run("0").info.run_id)
    Points(mlflow_client, other, tmp_path / SPOOL).send(beat)
    points = mlflow_client.get_metric_history(other, speed)
    assert {point.step: point.value for point in points} == {1: 0.5, 2: 0.5, 3: 0.125}


def test_no_spool_is_no_points(mlflow_client: MlflowClient, run_id: str, tmp_path: Path) -> None:
    assert Points(mlflow_client, run_id, tmp_path / SPOOL).send(beat) == 0


def test_a_metric_that_mlflow_refuses_costs_only_itself(
    mlflow_client: MlflowClient, run_id: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = Tracker(tmp_path, NOWHERE, is_main=True)
    for step in (1, 2):
        tracker.log({"train/loss": 0.5, "eval/a#b/rel_l2": 0.25, "train/lr": 1.0}, step=step)
    tracker.close()
    points = Points(mlflow_client, run_id, tmp_path / SPOOL)
    points.send(beat)
    assert steps(mlflow_client, run_id) == steps(mlflow_client, run_id, "train/lr") == [1, 2]
    (said,) = caplog.messages
    assert "MLflow refuses the metric eval/a#b/rel_l2" in said


def test_steps_that_a_rollback_made_anew_are_marked(
    record: Record, mlflow_client: MlflowClient, run_id: str, tmp_path: Path
) -> None:
    record(tmp_path, NOWHERE, 1, 2, 3)
    points = Points(mlflow_client, run_id, tmp_path / SPOOL)
    points.send(beat)
    record(tmp_path, NOWHERE, 2, 3, 4)  # as after a kill: the same losses
    points.send(beat)
    assert ANEW_TAG not in mlflow_client.get_run(run_id).data.tags
    tracker = Tracker(tmp_path, NOWHERE, is_main=True)
    for step in (2, 3, 4, 5):  # other windows, other losses
        tracker.log({"train/loss": 0.125}, step=step)
    tracker.close()
    points.send(beat)
    assert steps(mlflow_client, run_id) == [1, 2, 3, 4, 5]
    marked = "2 to 4, see metrics.jsonl"
    assert mlflow_client.get_run(run_id).data.tags[ANEW_TAG] == marked
