"""Files of MLflow runs lie beside a local database, so that both can be moved together."""

import tomllib
from pathlib import Path

import pytest
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.store.artifact.mlflow_artifacts_repo import MlflowArtifactsRepository

from dpot_scale.tracking.artifacts import ROOT, SCHEME, repository

PROJECT = Path(__file__).parents[2] / "pyproject.toml"


def test_files_lie_beside_the_database(tmp_path: Path) -> None:
    file = tmp_path / "here.txt"
    file.write_text("here")
    before, after = tmp_path / "before", tmp_path / "a folder"
    address = f"{ROOT}0123/artifacts"
    repository(address, f"sqlite:///{before}/mlflow.db").log_artifact(str(file), "notes")
    assert (before / "mlartifacts/0123/artifacts/notes/here.txt").read_text() == "here"
    before.rename(after)
    moved = repository(address, f"sqlite:///{after}/mlflow.db")
    assert isinstance(moved, LocalArtifactRepository)
    assert [found.path for found in moved.list_artifacts("notes")] == ["notes/here.txt"]


def test_those_of_a_server_are_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(repository(f"{ROOT}0123", "http://127.0.0.1:9"), MlflowArtifactsRepository)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert isinstance(repository(f"{ROOT}0123"), MlflowArtifactsRepository)


def test_mlflow_finds_it_in_processes_that_import_nothing_of_ours() -> None:
    """As `mlflow models serve` is one."""
    groups = tomllib.loads(PROJECT.read_text())["project"]["entry-points"]
    named = f"{repository.__module__}:{repository.__name__}"
    assert groups["mlflow.artifact_repository"] == {SCHEME: named}
