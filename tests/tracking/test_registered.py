"""Weights out of MLflow's registry: what holds none is one sentence."""

from pathlib import Path

import pytest

from dpot_scale.errors import CheckpointError
from dpot_scale.tracking.registered import fetch, is_registered, local, locator, registry_of


def test_only_such_a_source_is_in_the_registry() -> None:
    assert is_registered("models:/flow/3")
    assert not is_registered("models/flow/3")
    assert not is_registered("./models:/flow/3")


@pytest.mark.parametrize(
    "source", ["models:/", "models:/flow", "models:/flow/1/2", "models:/@a", "models:/flow/last"]
)
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


@pytest.mark.parametrize("key", ["tracking.mlflow_uri", "run.tracking.mlflow_uri"])
def test_the_command_line_says_where_the_registry_is_then_the_environment_then_the_config(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert registry_of("of the config") == "of the config"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "of the environment")
    assert registry_of("of the config", ["seed=1"]) == "of the environment"
    assert registry_of("said", [f"{key}=said"]) == "said"
    section = key.removesuffix(".mlflow_uri")
    assert registry_of("said", [f"{section}={{mlflow_uri: said}}"]) == "said"
    assert registry_of(None, [f"{key}=null"]) == "of the environment"  # null says not to track


def test_what_is_not_in_the_registry_is_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with local(Path("model.pth")) as found:
        assert found == Path("model.pth")
    locate = locator("sqlite:///mlflow.db", [], tmp_path / "home")
    assert locate(Path("model.pth")) == tmp_path / "model.pth"
    with pytest.raises(CheckpointError, match=f"no database {tmp_path}/home/mlflow.db"):
        locate(Path("models:/flow/1"))
    assert not (tmp_path / "home").exists()
