"""Where an MLflow run comes from."""

import socket
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from dpot_scale.tracking import origin


def test_it_says_command_versions_and_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "dpot_scale.sweep", "name=my own"])
    tags = origin.origin()
    assert tags["host"] == socket.gethostname()
    assert tags["version.torch"] == version("torch")
    assert tags["version.mlflow"] == version("mlflow")
    assert tags["command"] == "python -m dpot_scale.sweep 'name=my own'"
    assert tags["mlflow.source.type"] == "LOCAL"


def test_the_commit_is_that_of_this_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True)

    monkeypatch.setattr(origin, "REPOSITORY", tmp_path)
    assert "mlflow.source.git.commit" not in origin.origin()
    (tmp_path / "dpot_scale").mkdir()
    code = tmp_path / "dpot_scale" / "code.py"
    code.write_text("1")
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    first = origin.origin()
    assert len(first["mlflow.source.git.commit"]) == 40
    assert "git.changed" not in first
    code.write_text("2")
    assert origin.origin()["git.changed"] == "true"
    # A copy that is installed below the repository of its user is of no commit of that.
    monkeypatch.setattr(origin, "REPOSITORY", tmp_path / "dpot_scale")
    assert "mlflow.source.git.commit" not in origin.origin()
