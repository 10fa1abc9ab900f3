"""What MLflow does not take while a run trains costs no time, and is sent later, once."""

import logging
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from requests import Response
from requests.adapters import HTTPAdapter

from dpot_scale.config.places import LOCK, RESULT_FILE
from dpot_scale.config.run import TrackingConfig
from dpot_scale.errors import ConfigError
from dpot_scale.files import held
from dpot_scale.tracking import mlflow_run
from dpot_scale.tracking.missing import catch_up, send_missing
from dpot_scale.tracking.mlflow_client import RUN_ID_FILE, client, read_run_id
from dpot_scale.tracking.mlflow_run import MlflowRun, record_life
from dpot_scale.tracking.record import MlflowRecord, read_mlflow_record, write_mlflow_record
from dpot_scale.tracking.spool import SPOOL
from dpot_scale.tracking.tracker import Tracker
from dpot_scale.tracking.trained_on import TrainedOn
from tests.tracking.conftest import LateServer

STEPS = range(1, 31)
STALLED_AT = 15
KILLED_AT, BACK_AT = 10, 20


def made(folder: Path) -> str:
    """Make a database, which on a busy machine takes longer than a run waits for it."""
    folder.mkdir(exist_ok=True)
    uri = f"sqlite:///{folder}/mlflow.db"
    client(uri)
    return uri


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    return made(tmp_path_factory.mktemp("mlflow"))


@pytest.fixture
def stalled() -> Iterator[str]:
    """The address of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def the_run(directory: Path, uri: str, parent: MlflowRun | None = None) -> MlflowRun:
    tracking = TrackingConfig(mlflow_uri=uri, experiment="missing")
    dataset = TrainedOn(name="a", digest="0123456789ab", uri="file:///a", profile={"weight": 1.0})
    params = {"size": "Ti"}
    return MlflowRun(
        directory, tracking, tracking, name="run", params=params, datasets=[dataset], parent=parent
    )


@pytest.fixture(autouse=True)
def asking(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The names of the threads that have asked a server for something."""
    names: set[str] = set()
    send = HTTPAdapter.send

    def noted(*args: Any, **more: Any) -> Response:
        names.add(threading.current_thread().name)
        return send(*args, **more)

    monkeypatch.setattr(HTTPAdapter, "send", noted)
    return names


def trained(run: MlflowRun, uri: str, do: Callable[[int], None] = lambda _: None) -> None:
    """Record some steps."""
    picture = run.directory / "picture.png"
    with record_life(run, artifacts=lambda: {picture: "figures"}):
        tracker = Tracker(run.directory, TrackingConfig(mlflow_uri=uri), is_main=True)
        picture.write_bytes(b"png")
        for step in STEPS:
            do(step)
            tracker.log({"train/loss": 1 / step, "train/lr": 1.0}, step=step)
            time.sleep(0.05)
        tracker.close()


def record_of(directory: Path) -> MlflowRecord:
    record = read_mlflow_record(directory)
    assert record is not None
    return record


def send(directory: Path, elsewhere: str | None = None) -> int:
    return send_missing(directory, record_of(directory), elsewhere=elsewhere, beat=lambda: None)


def check(mlflow_client: MlflowClient, run: Run) -> None:
    """Make sure that an MLflow run has all of a run that was trained."""
    assert (run.info.status, run.data.tags["stop"]) == ("FINISHED", "finished")
    assert run.data.params == {"size": "Ti"}
    assert [one.dataset.name for one in run.inputs.dataset_inputs] == ["a"]
    for key in ("train/loss", "train/lr"):
        history = mlflow_client.get_metric_history(run.info.run_id, key)
        assert sorted(point.step for point in history) == list(STEPS)
    files = {file.path for file in mlflow_client.list_artifacts(run.info.run_id)}
    assert files == {"config.yaml", "figures"}


def the_only_run(mlflow_client: MlflowClient) -> Run:
    experiment = mlflow_client.get_experiment_by_name("missing")
    assert experiment is not None
    (run,) = mlflow_client.search_runs([experiment.experiment_id])
    return run


def test_a_run_whose_server_never_answers_ends_and_is_sent_elsewhere(
    stalled: str,
    asking: set[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(mlflow_run, "SERVER_SECONDS", 0.5)
    directory = tmp_path / "run"
    with caplog.at_level(logging.WARNING, logger="dpot_scale"):
        trained(the_run(directory, stalled), stalled)
    assert asking == {"mlflow run"}, "the thread that trains waits for no answer"
    said = caplog.messages[-1]
    assert said.endswith(
        f"it does not answer; `python -m dpot_scale.mirror {directory}` sends what it lacks"
    )
    database = f"sqlite:///{tmp_path}/mlflow.db"
    assert send(directory, database) == 2 * len(STEPS)
    assert send(directory, database) == 0
    check(client(database), the_only_run(client(database)))
    assert read_run_id(directory) is None  # the run's own MLflow may still come
    assert not record_of(directory).is_sent


def test_what_was_sent_is_not_asked_for_again(
    database: str, asking: set[str], tmp_path: Path
) -> None:
    trained(the_run(tmp_path, database), database)
    assert record_of(tmp_path).is_sent
    gone = record_of(tmp_path).model_copy(update={"uri": "http://127.0.0.1:9"})
    write_mlflow_record(tmp_path, gone)
    catch_up([tmp_path, tmp_path / "absent"])
    assert not asking


def test_a_lost_database_gets_everything_again(tmp_path: Path) -> None:
    lost, new = made(tmp_path / "lost"), made(tmp_path / "new")
    directory = tmp_path / "run"
    trained(the_run(directory, lost), lost)
    first = read_run_id(directory)
    write_mlflow_record(directory, record_of(directory).model_copy(update={"uri": new}))
    assert send(directory) == 2 * len(STEPS)
    assert read_run_id(directory) != first
    check(client(new), the_only_run(client(new)))


def test_a_run_that_was_killed_is_ended_unless_it_lives(database: str, tmp_path: Path) -> None:
    run = the_run(tmp_path, database)
    run_id = run.open()
    assert run_id is not None
    with held(tmp_path / LOCK, wait=False):
        catch_up([tmp_path])
        send(tmp_path)
        assert client(database).get_run(run_id).info.status == "RUNNING"
    catch_up([tmp_path])
    killed = client(database).get_run(run_id)
    assert (killed.info.status, killed.data.tags["stop"]) == ("KILLED", "killed")
    again = {"is_sent": False, "status": None}
    write_mlflow_record(tmp_path, record_of(tmp_path).model_copy(update=again))
    (tmp_path / RESULT_FILE).write_text("{}")
    catch_up([tmp_path])
    assert client(database).get_run(run_id).info.status == "FINISHED"


def test_a_trial_is_shown_under_its_sweep(
    stalled: str, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SERVER_SECONDS", "RETRY_SECONDS"):
        monkeypatch.setattr(mlflow_run, name, 0.1)
    sweep, trial = tmp_path / "sweep", tmp_path / "sweep" / "trials" / "a"
    above = the_run(sweep, stalled)
    for run in (above, the_run(trial, stalled, above)):
        write_mlflow_record(run.directory, run.record().model_copy(update={"status": "FAILED"}))
    for directory in (sweep, trial):
        send(directory, database)
    runs = {
        str(run.data.tags.get("mlflow.parentRunId")): run.info.run_id
        for run in client(database).search_runs(
            [client(database).get_experiment_by_name("missing").experiment_id],  # type: ignore[union-attr]
            "attributes.status = 'FAILED'",
        )
    }
    assert runs["None"] in runs


def test_a_run_made_while_nobody_waited_is_found_again(database: str, tmp_path: Path) -> None:
    """A stalled server makes what it was asked for when it goes on, though nobody listens."""
    run = the_run(tmp_path, database)
    write_mlflow_record(tmp_path, run.record().model_copy(update={"status": "KILLED"}))
    key = {"dpot_scale.key": record_of(tmp_path).key}
    experiment = client(database).get_experiment_by_name("missing")
    assert experiment is not None
    first, twin = (client(database).create_run(experiment.experiment_id, tags=key) for _ in "12")
    send(tmp_path)
    stages = [client(database).get_run(one.info.run_id).info for one in (first, twin)]
    assert {info.lifecycle_stage for info in stages} == {"active", "deleted"}
    assert read_run_id(tmp_path) in {first.info.run_id, twin.info.run_id}


def test_results_that_were_moved_with_their_database_show_their_own_files(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    uri = made(old)
    trained(the_run(old / "run", uri), uri)
    shutil.copytree(old, new)
    before = {path: path.stat().st_mtime_ns for path in old.rglob("*")}
    with pytest.raises(ConfigError, match=f"run is a copy of {old}/run, whose run in MLflow stays"):
        send(new / "run")
    catch_up([new / "run"])
    assert send(new / "run", f"sqlite:///{new}/mlflow.db") == 0
    assert {path: path.stat().st_mtime_ns for path in old.rglob("*")} == before
    shutil.rmtree(old)
    with (new / "run" / SPOOL).open("a") as spool:
        spool.write(f'{{"step": {STEPS.stop}, "time": 0, "train/loss": 0.5}}\n')
    assert send(new / "run") == 1
    assert not old.exists()
    copied = client(f"sqlite:///{new}/mlflow.db")
    files = copied.download_artifacts(str(read_run_id(new / "run")), "figures")
    assert [file.name for file in Path(files).iterdir()] == ["picture.png"]
    (new / "mlflow.db").unlink()
    moved = {"directory": old / "run", "uri": uri}
    write_mlflow_record(new / "run", record_of(new / "run").model_copy(update=moved))
    with pytest.raises(ConfigError, match="was moved here without the database of its MLflow"):
        send(new / "run")
    assert not old.exists()


def test_what_another_machine_may_have_is_a_copy(
    database: str, stalled: str, tmp_path: Path
) -> None:
    """Its original may train there, and a server shows both."""
    first, copy = tmp_path / "first", tmp_path / "copy"
    trained(the_run(first, database), database)
    first.rename(copy)
    assert send(copy) == 0  # the database is here: it was moved
    there = record_of(copy).model_copy(update={"uri": stalled, "host": "elsewhere"})
    write_mlflow_record(copy, there)
    with pytest.raises(ConfigError, match=f"is a copy of {first} on elsewhere, whose run"):
        send(copy)
    catch_up([copy])
    assert the_run(copy, database).open() != there.key
    assert record_of(copy).key != there.key


def test_a_run_that_was_started_again_meanwhile_is_not_marked_as_sent(
    database: str, tmp_path: Path
) -> None:
    trained(the_run(tmp_path, database), database)
    known = record_of(tmp_path)
    again = known.model_copy(update={"status": None, "is_sent": False})
    write_mlflow_record(tmp_path, again)
    send_missing(tmp_path, known.model_copy(update={"is_sent": False}), beat=lambda: None)
    assert record_of(tmp_path) == again


def test_a_copy_that_goes_on_has_a_run_of_its_own(database: str, tmp_path: Path) -> None:
    first, copy = tmp_path / "first", tmp_path / "copy"
    trained(the_run(first, database), database)
    shutil.copytree(first, copy)
    run_id = the_run(copy, database).open()
    assert run_id == read_run_id(copy) != read_run_id(first)


@pytest.mark.server
def test_a_server_that_stalls_costs_no_step_and_no_point(
    late_server: LateServer, asking: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One stalls from a step on, and is still stalled when the next run begins."""
    uri = late_server.address
    late_server.start()
    first, second = tmp_path / "first", tmp_path / "second"

    def stall(step: int) -> None:
        if step == STALLED_AT:
            late_server.signal(signal.SIGSTOP)

    run = the_run(first, uri)
    run.open()
    wait_for(lambda: run.run_id is not None)
    run.close("KILLED")
    trained(the_run(first, uri), uri, stall)
    monkeypatch.setattr(mlflow_run, "SERVER_SECONDS", 1.0)
    trained(the_run(second, uri), uri)
    assert asking <= {"mlflow", "mlflow run", "mlflow mirror"}, "not the one that trains"
    assert not (second / RUN_ID_FILE).exists()
    late_server.signal(signal.SIGCONT)
    catch_up([first, second])
    mlflow_client = client(uri)
    experiment = mlflow_client.get_experiment_by_name("missing")
    assert experiment is not None
    runs = mlflow_client.search_runs([experiment.experiment_id])
    assert {run.info.run_id for run in runs} == {read_run_id(first), read_run_id(second)}
    for run_ in runs:
        check(mlflow_client, run_)


@pytest.mark.server
def test_a_server_that_is_killed_for_a_while_loses_no_point(
    late_server: LateServer, tmp_path: Path
) -> None:
    uri = late_server.address
    late_server.start()
    run = the_run(tmp_path, uri)
    run.open()
    wait_for(lambda: run.run_id is not None)
    run.close("KILLED")

    def known() -> list[int]:
        history = client(uri).get_metric_history(str(read_run_id(tmp_path)), "train/loss")
        return [point.step for point in history]

    def disturb(step: int) -> None:
        if step == KILLED_AT:
            wait_for(lambda: bool(known()))
            late_server.end()
        if step == BACK_AT:
            late_server.start()
            wait_for(lambda: max(known_when_back(), default=0) >= KILLED_AT)

    def known_when_back() -> list[int]:
        with suppress(MlflowException):
            return known()
        return []

    trained(the_run(tmp_path, uri), uri, disturb)
    catch_up([tmp_path])  # a busy machine may take longer than the end of a run waits
    check(client(uri), the_only_run(client(uri)))


def wait_for(happened: Callable[[], bool]) -> None:
    """Wait; leave it to the test's timeout to give up."""
    while not happened():
        time.sleep(0.05)
