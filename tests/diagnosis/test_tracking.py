"""MLflow that takes runs, refuses the name it is called by, asks for a password, or is absent."""

import threading
from collections.abc import Iterator
from pathlib import Path
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest
from flask import Flask
from mlflow.server.security import init_security_middleware

from dpot_scale.config.run import TrackingConfig
from dpot_scale.diagnosis.tracking import mlflow
from dpot_scale.tracking.mlflow_client import client


class Quiet(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nothing."""


def test_a_database_that_takes_runs(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    server = client(uri)
    assert mlflow(TrackingConfig(mlflow_uri=uri)).verdict == "ok"
    of_two = mlflow(TrackingConfig(mlflow_uri=uri), nodes=2)
    assert (of_two.verdict, "start an MLflow server" in of_two.to_do) == ("note", True)
    (experiment,) = [one for one in server.search_experiments() if one.name == "dpot_scale"]
    assert server.search_runs([experiment.experiment_id]) == [], "it is deleted again"
    assert not [path for path in tmp_path.rglob("*") if path.name == "doctor.txt"]


def test_a_database_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    found = mlflow(TrackingConfig(mlflow_uri=uri))
    assert (found.verdict, found.found) == ("ok", f"{uri} takes runs, metrics and files")
    assert list(tmp_path.iterdir()) == []


def served(app: Flask) -> Iterator[str]:
    with make_server("127.0.0.1", 0, app, handler_class=Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """MLflow's own check of names, before a server that has nothing."""
    monkeypatch.setenv("MLFLOW_SERVER_ALLOWED_HOSTS", "mlflow.example.com")
    app = Flask("mlflow")
    init_security_middleware(app)
    yield from served(app)


@pytest.fixture
def asking() -> Iterator[str]:
    """One that asks for a password."""
    app = Flask("mlflow")
    app.before_request(lambda: ("You are not authenticated.", 401))
    yield from served(app)


def test_a_server_that_refuses_the_name(strict: str) -> None:
    found = mlflow(TrackingConfig(mlflow_uri=f"http://{strict}"))
    assert found.verdict == "note"
    assert found.found == f"http://{strict}: the server does not answer to the name {strict}"
    assert found.to_do.startswith(f"start the server with --allowed-hosts {strict} beside")


def test_a_server_that_asks_for_a_password(asking: str) -> None:
    found = mlflow(TrackingConfig(mlflow_uri=f"http://{asking}"))
    assert found.found.endswith("the server asks for a login, or knows another one")
    assert found.to_do.startswith("set MLFLOW_TRACKING_USERNAME")


@pytest.mark.parametrize("port", [9, 401, 403], ids=str)
def test_nobody_there(port: int) -> None:
    found = mlflow(TrackingConfig(mlflow_uri=f"http://127.0.0.1:{port}"))
    assert (found.verdict, "refused" in found.found) == ("note", True)
    assert found.to_do.startswith("start the server, or correct tracking.mlflow_uri")


def test_none_is_wanted() -> None:
    assert mlflow(TrackingConfig()).found == "not used: tracking.mlflow_uri is null"
