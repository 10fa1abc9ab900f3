"""What a terminal says of the page that a run has in MLflow."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dpot_scale.config.run import TrackingConfig
from dpot_scale.tracking import mlflow_page
from dpot_scale.tracking.mlflow_page import review

JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
LINK = "#/experiments/3/runs?viewStateShareKey=dpot_scale&workflowType=machine_learning"


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a sweep that has a run in MLflow."""
    (tmp_path / "mlflow_run_id").write_text("f00d")
    (tmp_path / "mlflow_experiment_id").write_text("3")
    monkeypatch.delenv(JOB, raising=False)
    monkeypatch.setattr("socket.gethostname", lambda: "head")
    return tmp_path


def test_here_a_command_and_a_link(directory: Path) -> None:
    tracking = TrackingConfig(mlflow_uri="sqlite:////results/mlflow.db")
    command, link = review(directory, tracking, page="experiment")
    assert command == (
        "curves: MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow ui --workers 1 "
        "--backend-store-uri sqlite:////results/mlflow.db "
        "--artifacts-destination /results/mlartifacts"
    )
    assert link == f"        then open http://127.0.0.1:5000/{LINK}"


def test_of_a_job_also_how_to_reach_its_machine(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(JOB, "{}")
    tracking = TrackingConfig(mlflow_uri="sqlite:////root/dpot_scale/mlflow.db")
    command, forward, link = review(directory, tracking, page="experiment")
    start = "curves: on head, MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false "
    assert command.startswith(f"{start}{sys.executable} -m mlflow ui --workers 1 ")
    assert forward == (
        "        from elsewhere, ssh -L 5000:127.0.0.1:5000 head "
        "(a pod: kubectl port-forward head 5000)"
    )
    assert link == f"        then open http://127.0.0.1:5000/{LINK}"


def test_the_link_of_a_server_is_that_of_a_job_too(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(JOB, "{}")
    tracking = TrackingConfig(mlflow_uri="http://tracking:5000/")
    assert review(directory, tracking, page="experiment") == [
        f"curves: http://tracking:5000/{LINK}"
    ]


def test_the_command_of_a_job_needs_no_path() -> None:
    command = mlflow_page.ui_command("sqlite:///mlflow.db", f"{sys.executable} -m mlflow")
    shell = shutil.which("sh") or "/bin/sh"
    asked = [shell, "-c", f"{command.partition(' --')[0]} --help"]
    told = subprocess.run(asked, env={}, capture_output=True, text=True, check=True).stdout
    assert "--backend-store-uri" in told
    assert "--artifacts-destination" in told
