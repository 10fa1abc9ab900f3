"""A finished training is a model in MLflow: with its numbers, once, and without a copy."""

import math
from pathlib import Path

import pytest

from dpot_scale.config.batch import BatchConfig
from dpot_scale.config.data import DataConfig
from dpot_scale.config.places import WEIGHTS
from dpot_scale.config.run import RunConfig, TrackingConfig
from dpot_scale.tracking.logged_model import external_model, log_model
from dpot_scale.tracking.mlflow_client import client
from dpot_scale.tracking.mlflow_run import MlflowRun, Status
from dpot_scale.tracking.parameters import run_parameters
from dpot_scale.tracking.spool import SPOOL
from dpot_scale.tracking.tracker import Tracker

CONFIG = RunConfig(
    name="run",
    windows=8,
    data=DataConfig(weights={"flow": 1.0}),
    batch=BatchConfig(global_batch=4, micro_batch=2),
)


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory: pytest.TempPathFactory) -> TrackingConfig:
    database = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    return TrackingConfig(mlflow_uri=f"sqlite:///{database}")


def lived(directory: Path, tracking: TrackingConfig, name: str, status: Status, step: int) -> str:
    """Open and close the MLflow run of a training."""
    params = run_parameters(CONFIG)
    run = MlflowRun(directory, CONFIG, tracking, name=name, params=params)
    run_id = run.open()
    assert run_id is not None
    tracker = Tracker(directory, tracking, is_main=True)
    tracker.log({"model/params": 7.0}, step=0)
    tracker.log({"train/loss": 0.5}, step=step)
    tracker.log({"final/rel_l2": 0.25}, step=0)
    tracker.close()
    run.close(status)
    return run_id


def test_a_finished_training_has_a_model_with_its_numbers(
    tmp_path: Path, mirrored: TrackingConfig
) -> None:
    weights = tmp_path / WEIGHTS
    weights.touch()
    for step in (1, 2):  # a run that was resumed is closed again
        run_id = lived(tmp_path, mirrored, "S_lr0.001", "FINISHED", step)
    mlflow_client = client(mirrored.mlflow_uri or "")
    (output,) = mlflow_client.get_run(run_id).outputs.model_outputs
    model = mlflow_client.get_logged_model(output.model_id)
    assert model.name == "S_lr0_001", "MLflow allows no dot"
    assert (model.status, model.source_run_id) == ("READY", run_id)
    assert model.tags["weights"] == str(weights)
    assert model.params["model.history"] == str(CONFIG.model.history)
    numbers = {"model/params": 7.0, "final/rel_l2": 0.25}
    assert {one.key: one.value for one in model.metrics} == numbers
    assert len(mlflow_client.get_metric_history(run_id, "final/rel_l2")) == 1
    assert mlflow_client.list_logged_model_artifacts(model.model_id) == []
    assert external_model(mlflow_client, run_id) == model.model_id
    note = mlflow_client.get_run(run_id).data.tags["mlflow.note.content"]
    assert "| mean | 0.25 |" in note, "the first screen of the run shows it"


def test_the_numbers_of_a_model_are_the_points_of_its_run(
    tmp_path: Path, mirrored: TrackingConfig
) -> None:
    mlflow_client = client(mirrored.mlflow_uri or "")
    run_id = str(mlflow_client.create_run("0").info.run_id)
    tracker = Tracker(tmp_path, TrackingConfig(mlflow_uri=None), is_main=True)
    for _ in range(2):
        tracker.log({"model/params": 7.0, "final/rel_l2": math.inf}, step=0)
    tracker.close()
    # The attempt that recorded it first was killed before it had sent it.
    mlflow_client.log_metric(run_id, "model/params", 7.0, timestamp=1000, step=0)
    log_model(mlflow_client, run_id, weights=tmp_path / WEIGHTS, spool=tmp_path / SPOOL, params={})
    (point,) = mlflow_client.get_metric_history(run_id, "model/params")
    (output,) = mlflow_client.get_run(run_id).outputs.model_outputs
    (number,) = mlflow_client.get_logged_model(output.model_id).metrics
    assert (number.key, number.value, number.timestamp) == ("model/params", 7.0, point.timestamp)


def test_what_failed_or_has_no_weights_has_no_model(
    tmp_path: Path, mirrored: TrackingConfig
) -> None:
    mlflow_client = client(mirrored.mlflow_uri or "")
    sweep = lived(tmp_path, mirrored, "run", "FINISHED", 1)
    (tmp_path / WEIGHTS).touch()
    failed = lived(tmp_path, mirrored, "run", "FAILED", 2)
    for run_id in (sweep, failed):
        assert not mlflow_client.get_run(run_id).outputs.model_outputs
        assert external_model(mlflow_client, run_id) is None
