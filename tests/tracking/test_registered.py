"""Weights out of MLflow's registry: what holds none is one sentence."""

from pathlib import Path

import pytest

from dpot_scale.errors import CheckpointError
from dpot_scale.tracking.registered import fetch, is_registered


def test_only_such_a_source_is_in_the_registry() -> None:
    assert is_registered("models:/flow/3")
    assert not is_registered("models/flow/3")
    assert not is_registered("./models:/flow/3")


@pytest.mark.parametrize("source", ["models:/", "models:/flow", "models:/flow/1/2", "models:/@a"])
def test_a_name_without_a_version_is_refused(source: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="names no registered model: give models:/NAME/VERS"):
        fetch(source, "sqlite:///mlflow.db", tmp_path)


def test_without_an_address_the_sentence_says_how_to_give_one(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"add tracking\.mlflow_uri=URI"):
        fetch("models:/flow/1", None, tmp_path)


def test_no_database_is_made_to_look_into_it(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no database"):
        fetch("models:/flow/1", f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_server_that_does_not_answer_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match="models:/flow/1 cannot be read from http://"
    ) as found:
        fetch("models:/flow/1", "http://127.0.0.1:9", tmp_path)
    assert "\n" not in str(found.value)
