"""Files of MLflow runs lie beside a local database, so that both can be moved together."""

from pathlib import Path

import pytest
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.store.artifact.mlflow_artifacts_repo import MlflowArtifactsRepository

from dpot_scale.tracking.artifacts import ROOT, repository


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
