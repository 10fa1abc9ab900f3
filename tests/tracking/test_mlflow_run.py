"""An MLflow run is opened when MLflow can, keeps what it was, and never costs the training."""

import contextlib
import json
import logging
import multiprocessing
import os
import shlex
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest
from mlflow.data import get_source
from mlflow.data.dataset_source import DatasetSource
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from dpot_scale.config.batch import BatchConfig
from dpot_scale.config.data import DataConfig
from dpot_scale.config.run import RunConfig, TrackingConfig
from dpot_scale.errors import DiskError, LostPeerError
from dpot_scale.tracking import mlflow_run
from dpot_scale.tracking.mlflow_client import RUN_ID_FILE, client, never_fatal
from dpot_scale.tracking.mlflow_page import annotate, review
from dpot_scale.tracking.mlflow_run import MlflowRun, record_life
from dpot_scale.tracking.parameters import run_parameters
from dpot_scale.tracking.spool import SPOOL, read_metrics
from dpot_scale.tracking.tracker import Tracker
from dpot_scale.tracking.trained_on import TrainedOn
from tests.tracking.conftest import LateServer

TRIALS, LOGGED = 8, 50  # at once in one fresh database, and the points of each
CONFIG = RunConfig(
    name="run",
    windows=8,
    # More parameters than MLflow takes in one request.
    data=DataConfig(weights={f"dataset_{i}": 1 + i for i in range(120)}),
    batch=BatchConfig(global_batch=4, micro_batch=2),
)


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory: pytest.TempPathFactory) -> TrackingConfig:
    """A fresh sqlite database, as `mlflow ui` opens it."""
    tracking = at(tmp_path_factory.mktemp("mlflow"))
    client_of(tracking)  # on a busy machine it takes longer than a run waits for it
    return tracking


@pytest.fixture
def own(mirrored: TrackingConfig, request: pytest.FixtureRequest) -> TrackingConfig:
    """The database, and an experiment that belongs to one test."""
    return mirrored.model_copy(update={"experiment": request.node.name})


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_run, "RETRY_SECONDS", 0.2)


def at(folder: Path) -> TrackingConfig:
    return TrackingConfig(mlflow_uri=f"sqlite:///{folder}/mlflow.db")


def the_run(directory: Path, tracking: TrackingConfig) -> MlflowRun:
    dataset = TrainedOn(
        name="a", digest="0123456789ab", uri=directory.as_uri(), profile={"grid": "8 x 8"}
    )
    params = run_parameters(CONFIG)
    return MlflowRun(directory, CONFIG, tracking, name="run", params=params, datasets=[dataset])


def opened(directory: Path, tracking: TrackingConfig) -> str:
    run_id = the_run(directory, tracking).open()
    assert run_id is not None
    return run_id


def client_of(tracking: TrackingConfig) -> MlflowClient:
    assert tracking.mlflow_uri is not None
    return client(tracking.mlflow_uri)


def run_of(tracking: TrackingConfig, run_id: str) -> Run:
    return client_of(tracking).get_run(run_id)


def wait_for(happened: Callable[[], bool]) -> None:
    """Wait; leave it to the test's timeout to give up."""
    while not happened():
        time.sleep(0.05)


def test_a_run_is_opened_once(tmp_path: Path, mirrored: TrackingConfig) -> None:
    run = the_run(tmp_path, mirrored)
    run_id = run.open()
    assert run_id is not None
    run.close("KILLED")
    assert run_of(mirrored, run_id).info.status == "KILLED"
    assert opened(tmp_path, mirrored) == run_id
    assert run_of(mirrored, run_id).info.status == "RUNNING"


def test_a_run_holds_its_config(tmp_path: Path, mirrored: TrackingConfig) -> None:
    run_id = opened(tmp_path, mirrored)
    params = run_of(mirrored, run_id).data.params
    assert params["data.weights.dataset_119"] == "120.0"
    assert params["batch.micro_batch"] == "2"
    assert params["engine.deepspeed"] == "zero3_bf16"
    assert params["optim.betas"] == "[0.9, 0.9]"
    assert [entry.path for entry in client_of(mirrored).list_artifacts(run_id)] == ["config.yaml"]


def test_the_table_of_runs_names_the_datasets(tmp_path: Path, own: TrackingConfig) -> None:
    run_id = opened(tmp_path, own)
    assert opened(tmp_path, own) == run_id
    (entry,) = run_of(own, run_id).inputs.dataset_inputs
    assert (entry.dataset.name, entry.dataset.digest) == ("a", "0123456789ab")
    source = get_source(entry.dataset)
    assert isinstance(source, DatasetSource)
    assert source.to_dict() == {"uri": tmp_path.as_uri()}
    assert json.loads(entry.dataset.profile) == {"grid": "8 x 8"}
    assert [(tag.key, tag.value) for tag in entry.tags] == [("mlflow.data.context", "training")]


def test_a_run_of_another_database_is_opened_anew(tmp_path: Path, mirrored: TrackingConfig) -> None:
    (tmp_path / RUN_ID_FILE).write_text("0" * 32)
    run_id = opened(tmp_path, mirrored)
    assert (tmp_path / RUN_ID_FILE).read_text() == run_id != "0" * 32


def test_the_end_of_a_run(tmp_path: Path, mirrored: TrackingConfig) -> None:
    run = the_run(tmp_path, mirrored)
    run_id = run.open()
    assert run_id is not None
    picture = tmp_path / "picture.png"
    picture.write_bytes(b"png")
    run.close("FINISHED", artifacts={picture: "figures"})
    assert run_of(mirrored, run_id).info.status == "FINISHED"
    figures = client_of(mirrored).list_artifacts(run_id, "figures")
    assert [entry.path for entry in figures] == ["figures/picture.png"]


def test_a_report_leaves_the_end_where_it_was(tmp_path: Path, mirrored: TrackingConfig) -> None:
    run = the_run(tmp_path, mirrored)
    run_id = run.open()
    assert run_id is not None
    run.close("FAILED")
    ended = run_of(mirrored, run_id).info.end_time
    picture = tmp_path / "picture.png"
    picture.write_bytes(b"png")
    artifacts = {picture: "report"}
    annotate(
        tmp_path,
        mirrored,
        artifacts=artifacts,
        note=lambda run, _: f"of {run}",
        numbers={"law/exponent": 0.25},
        is_finished=False,
    )
    after = run_of(mirrored, run_id)
    assert (after.info.status, after.info.end_time) == ("FAILED", ended)
    assert after.data.tags["mlflow.note.content"] == f"of {run_id}"
    assert after.data.metrics == {"law/exponent": 0.25}
    assert client_of(mirrored).list_artifacts(run_id, "report")
    numbers = {"law/exponent": 0.125}
    again: Any = {"artifacts": {}, "note": lambda run, _: run, "numbers": numbers}
    # Its owner was killed after the last trial: whoever reports next ends it, once.
    annotate(tmp_path, mirrored, **again, is_finished=True)
    finished = run_of(mirrored, run_id).info
    assert finished.status == "FINISHED"
    assert run_of(mirrored, run_id).data.metrics == {"law/exponent": 0.125}
    annotate(tmp_path, mirrored, **again, is_finished=True)
    assert run_of(mirrored, run_id).info.end_time == finished.end_time


class StoppedError(Exception):
    """What a trainer raises when it is told to stop."""

    stop = "told"


@pytest.mark.parametrize(
    ("error", "status", "stop", "reason"),
    [
        (None, "FINISHED", "finished", None),
        (StoppedError(), "KILLED", "told", "StoppedError"),
        (StoppedError("saved"), "KILLED", "told", "saved"),
        (KeyboardInterrupt(), "KILLED", "signal", None),
        (SystemExit(), "KILLED", "signal", None),
        (AssertionError("too few"), "FAILED", "failed", "too few"),
        (AssertionError(), "FAILED", "failed", "AssertionError"),
        (LostPeerError("rank 0 lost another"), "FAILED", "lost_peer", "rank 0 lost another"),
    ],
)
def test_the_status_tells_how_the_block_ended(
    error: BaseException | None,
    status: str,
    stop: str,
    reason: str | None,
    tmp_path: Path,
    mirrored: TrackingConfig,
) -> None:
    file = tmp_path / "note.txt"
    run = the_run(tmp_path, mirrored)
    with (
        contextlib.suppress(
            KeyboardInterrupt, SystemExit, AssertionError, StoppedError, LostPeerError
        ),
        record_life(run, stops=(StoppedError,), artifacts=lambda: {file: ""}),
    ):
        file.write_text("made on the way")
        if error is not None:
            raise error
    assert run.run_id is not None
    found = run_of(mirrored, run.run_id)
    assert (found.info.status, found.data.tags["stop"]) == (status, stop)
    assert found.data.tags.get("stop_reason") == reason
    assert [found.path for found in client_of(mirrored).list_artifacts(run.run_id)] == [
        "config.yaml",
        "note.txt",
    ]


def test_a_block_may_say_that_it_failed(tmp_path: Path, mirrored: TrackingConfig) -> None:
    run = the_run(tmp_path, mirrored)
    with record_life(run):
        run.has_failed = True
    assert run.run_id is not None
    assert client_of(mirrored).get_run(run.run_id).info.status == "FAILED"


def test_a_life_that_is_not_ours_is_left_alone(tmp_path: Path, mirrored: TrackingConfig) -> None:
    run = the_run(tmp_path, mirrored)
    with record_life(run, opens=False):
        pass
    assert run.run_id is None
    assert list(tmp_path.iterdir()) == []


def test_an_artifact_that_cannot_be_stored_leaves_the_status_right(
    tmp_path: Path, mirrored: TrackingConfig, caplog: pytest.LogCaptureFixture
) -> None:
    run = the_run(tmp_path, mirrored)
    run_id = run.open()
    assert run_id is not None
    with caplog.at_level(logging.WARNING):
        run.close("FINISHED", artifacts={tmp_path / "absent.png": ""})
    assert run_of(mirrored, run_id).info.status == "FINISHED"
    assert f"could not close the MLflow run {run_id}" in caplog.text


def test_an_unreachable_server_costs_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    absent = TrackingConfig(mlflow_uri="http://127.0.0.1:9")
    run = the_run(tmp_path, absent)
    with caplog.at_level(logging.WARNING):
        assert run.open() is None
    assert "no MLflow mirror at http://127.0.0.1:9" in caplog.text
    tracker = Tracker(tmp_path, absent, is_main=True)
    tracker.log({"train/loss": 1.0}, step=1)
    tracker.close()
    run.close("FINISHED")
    assert read_metrics(tmp_path / SPOOL)["train/loss"] == {1: 1.0}
    assert review(tmp_path, absent, page="run") == []


@pytest.mark.server
def test_a_server_that_comes_late_gets_everything(
    tmp_path: Path, late_server: LateServer, impatient: None
) -> None:
    """As a sweep: the parent and its trial are opened here, a worker mirrors the trial."""
    address = late_server.address
    tracking = TrackingConfig(mlflow_uri=address)
    parent = MlflowRun(tmp_path / "sweep", CONFIG, tracking, name="sweep")
    trial = MlflowRun(
        tmp_path / "trial", CONFIG, tracking, name="trial", tags={"size": "Ti"}, parent=parent
    )
    assert parent.open() is None
    assert trial.open() is None
    short = MlflowRun(tmp_path / "short", CONFIG, tracking, name="short", parent=parent)
    assert short.open() is None
    ended = Tracker(tmp_path / "short", tracking, is_main=True)
    ended.log({"train/loss": 0.125}, step=1)
    ended.close()  # a worker that is through before its driver reaches the server
    tracker = Tracker(tmp_path / "trial", tracking, is_main=True)
    tracker.log({"train/loss": 0.5}, step=1)
    late_server.start()
    wait_for(lambda: (tmp_path / "trial" / RUN_ID_FILE).exists())
    tracker.log({"train/loss": 0.25}, step=2)
    tracker.close()
    wait_for(lambda: trial.run_id is not None and short.run_id is not None)
    short.close("FINISHED")
    assert short.run_id is not None
    history = client_of(tracking).get_metric_history(short.run_id, "train/loss")
    assert [(point.step, point.value) for point in history] == [(1, 0.125)]
    trial.close("FINISHED", artifacts={tmp_path / "trial" / SPOOL: "spool"})
    parent.close("FINISHED")
    assert trial.run_id is not None
    child = run_of(tracking, trial.run_id)
    assert child.info.status == run_of(tracking, str(parent.run_id)).info.status == "FINISHED"
    assert child.data.tags["mlflow.parentRunId"] == parent.run_id
    assert child.data.tags["size"] == "Ti"
    history = client_of(tracking).get_metric_history(trial.run_id, "train/loss")
    assert [(point.step, point.value) for point in history] == [(1, 0.5), (2, 0.25)]
    assert client_of(tracking).list_artifacts(trial.run_id, "spool")
    place = f"experiments/{child.info.experiment_id}/runs/{trial.run_id}"
    assert review(tmp_path / "trial", tracking, page="run") == [
        f"curves: {address}/#/{place}?workflowType=machine_learning"
    ]


def test_the_link_to_a_local_database_comes_with_its_command(
    tmp_path: Path, mirrored: TrackingConfig
) -> None:
    experiment = run_of(mirrored, opened(tmp_path, mirrored)).info.experiment_id
    command, link = review(tmp_path, mirrored, page="experiment")
    start = "curves: MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow ui --workers 1"
    assert command.startswith(f"{start} --backend-store-uri {mirrored.mlflow_uri} ")
    spaced = mirrored.model_copy(update={"mlflow_uri": "sqlite:////a folder/mlflow.db"})
    copied = shlex.split(review(tmp_path, spaced, page="experiment")[0])
    assert copied[-3:] == [spaced.mlflow_uri, "--artifacts-destination", "/a folder/mlartifacts"]
    place = f"#/experiments/{experiment}/runs?viewStateShareKey=dpot_scale"
    place += "&workflowType=machine_learning"
    assert link == f"        then open http://127.0.0.1:5000/{place}"


def test_what_mlflow_refuses_costs_only_itself(
    tmp_path: Path, mirrored: TrackingConfig, caplog: pytest.LogCaptureFixture
) -> None:
    params = {"a#b": "1", "c": "2"}
    run = MlflowRun(tmp_path, CONFIG, mirrored, name="run", params=params, tags={"d;e": "3"})
    assert run.open() is not None
    run.close("FINISHED")
    found = run_of(mirrored, str(run.run_id))
    assert found.data.params == {"c": "2"}
    assert (found.info.status, found.data.tags["stop"]) == ("FINISHED", "finished")
    assert "version.python" in found.data.tags
    assert len(caplog.messages) == 2
    assert all(message.startswith("MLflow refuses <") for message in caplog.messages)


@pytest.mark.parametrize("call", ["log_batch", "log_inputs", "log_text"])
def test_an_outage_while_a_run_opens_costs_nothing_of_it(
    call: str,
    tmp_path: Path,
    mirrored: TrackingConfig,
    impatient: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    works, failures = getattr(MlflowClient, call), [MlflowException("too many 503 answers")] * 3

    def fails(*args: object, **kwargs: object) -> object:
        if failures:
            raise failures.pop()
        return works(*args, **kwargs)

    monkeypatch.setattr(MlflowClient, call, fails)
    run = the_run(tmp_path, mirrored)
    run_id = run.open()
    assert run_id is not None
    wait_for(lambda: not failures)
    run.close("FINISHED")
    found = run_of(mirrored, run_id)
    assert found.data.params["batch.micro_batch"] == "2"
    assert len(found.inputs.dataset_inputs) == 1
    assert client_of(mirrored).list_artifacts(run_id)


def test_a_warning_names_what_it_is_about_and_not_what_went_wrong_before(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As on a full disk, where a checkpoint fails first, and then the record for MLflow."""
    earlier, error = DiskError("the checkpoint is not written"), DiskError("no record is written")
    error.__context__ = earlier
    with never_fatal("not sent"):
        raise error
    assert caplog.messages == ["not sent: no record is written"]


def test_a_deleted_run_is_replaced(
    tmp_path: Path, mirrored: TrackingConfig, caplog: pytest.LogCaptureFixture
) -> None:
    deleted = opened(tmp_path, mirrored)
    client_of(mirrored).delete_run(deleted)
    another = opened(tmp_path, mirrored)
    assert run_of(mirrored, another).info.status == "RUNNING"
    assert another != deleted
    assert caplog.messages == [f"the MLflow run {deleted} was deleted; a new one takes its place"]


def test_a_deleted_experiment_is_said_and_used_again_when_it_is_back(
    tmp_path: Path, own: TrackingConfig, impatient: None, caplog: pytest.LogCaptureFixture
) -> None:
    first = the_run(tmp_path, own)
    run_id = first.open()
    assert run_id is not None
    experiment = run_of(own, run_id).info.experiment_id
    client_of(own).delete_experiment(experiment)
    first.close("FINISHED")
    again = the_run(tmp_path, own)
    assert again.open() is None
    restore = f"mlflow experiments restore --experiment-id {experiment}`"
    assert len(caplog.messages) == 2
    assert f"{restore} brings both back" in caplog.messages[0]
    assert f"{restore} brings it back, or choose another tracking.experiment" in caplog.messages[1]
    client_of(own).restore_experiment(experiment)
    wait_for(lambda: again.run_id is not None)
    assert again.run_id == run_id
    assert len(caplog.messages) == 2
    again.close("FINISHED")


def open_many(barrier: Barrier, results: "Queue[list[str | None]]", folder: Path) -> None:
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401  # the race begins behind it

    found = []
    for i in range(3):
        barrier.wait()
        directory = folder / f"run_{os.getpid()}_{i}"
        tracking = at(folder / str(i))
        run = the_run(directory, tracking)
        found.append(run.open())
        tracker = Tracker(directory, tracking, is_main=True)
        for step in range(1, LOGGED + 1):
            tracker.log({"train/loss": 1 / step}, step=step)
        tracker.close()
        run.close("FINISHED")
    results.put(found)


def forking() -> ForkServerContext:
    """Make processes from one that has imported MLflow, which takes seconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mlflow.store.tracking.sqlalchemy_store"])
    return context


def test_eight_processes_that_open_one_fresh_database_at_once_lose_no_point(tmp_path: Path) -> None:
    forked = forking()
    barrier, results = forked.Barrier(TRIALS), forked.Queue()
    processes = [
        forked.Process(target=open_many, args=(barrier, results, tmp_path)) for _ in range(TRIALS)
    ]
    for process in processes:
        process.start()
    found = [results.get() for _ in processes]
    for process in processes:
        process.join()
    for i, runs in enumerate(zip(*found, strict=True)):
        mlflow_client = client_of(at(tmp_path / str(i)))
        known = mlflow_client.get_experiment_by_name("dpot_scale")
        assert known is not None
        listed = mlflow_client.search_runs([known.experiment_id])
        assert {run.info.run_id for run in listed} == set(runs)
        for run in listed:
            points = mlflow_client.get_metric_history(run.info.run_id, "train/loss")
            assert [point.step for point in points] == list(range(1, LOGGED + 1))
            assert run.info.status == "FINISHED"


def test_a_database_whose_maker_was_killed_half_way_is_made_anew(tmp_path: Path) -> None:
    forked = forking()
    process = forked.Process(target=opened, args=(tmp_path / "killed", at(tmp_path)))
    process.start()
    wait_for(lambda: any(path.stat().st_size for path in tmp_path.glob(".mlflow.db_*/mlflow.db")))
    process.kill()
    process.join()
    assert not (tmp_path / "mlflow.db").exists()
    opened(tmp_path / "run", at(tmp_path))
