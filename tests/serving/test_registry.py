"""Weights in MLflow's registry: once, with all that people look for there."""

import json
import logging
import os
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from mlflow.models import Model
from mlflow.tracking import MlflowClient

import dpot_scale as ds
from dpot_scale.checkpoints.weights import read
from dpot_scale.checkpoints.weights_file import save_model
from dpot_scale.config.load import dump, load_run, load_sweep
from dpot_scale.config.places import (
    RESULT_FILE,
    RUN_CONFIG,
    WEIGHTS,
    resolve_run_paths,
    resolve_sweep_paths,
)
from dpot_scale.errors import CheckpointError, RecordError
from dpot_scale.runs.contents import weights_digest
from dpot_scale.serving.registry import offer, register
from dpot_scale.tracking.logged_model import log_model
from dpot_scale.tracking.mlflow_client import LARGE_FILE_SECONDS, RUN_ID_FILE, TIMEOUT
from dpot_scale.tracking.registered import fetch, locator
from dpot_scale.train import main as train
from dpot_scale.weights import main

RELEASED = Path(__file__).parents[1] / "golden" / "official_format_small.pth"
NOBODY = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One database, which takes seconds to make; each test has a model of its own name."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


def registered(uri: str, name: str, version: str) -> Model:
    mlflow.set_tracking_uri(uri)
    return Model.load(f"models:/{name}/{version}")


def run_folder(weights: Path, home: Path, uri: str, run_id: str = "") -> Path:
    """The folder of a finished run."""
    config = load_run("quickstart", [f"output={home}", "name=run", f"tracking.mlflow_uri={uri}"])
    folder = config.directory
    folder.mkdir()
    (folder / RUN_CONFIG).write_text(dump(config))
    (folder / RESULT_FILE).touch()
    (folder / RUN_ID_FILE).write_text(run_id)
    save_model(folder / WEIGHTS, *read(weights))
    return folder


def test_every_command_opens_a_version(
    of_two: Path,
    uri: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = f"models:/opened/{register(of_two, 'opened', uri)}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert main(["inspect", source]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == source
    assert ["flow", "u,", "v"] in [line.split() for line in lines]
    assert main(["export", source]) == 2
    assert f"{source} is a file: say with --out which one to write" in capsys.readouterr().err
    assert main(["export", source, "--out", str(tmp_path / "released.pth")]) == 0
    assert read(tmp_path / "released.pth").model.dimensions() == read(of_two).model.dimensions()

    home = tmp_path / "home"
    locate = locator(None, [], home)
    run = resolve_run_paths(load_run("quickstart", [f"start.source={source}"]), home, locate)
    kept = run.start.source
    assert kept is not None
    assert (kept.name, kept.parents[1]) == (WEIGHTS, home / "registered")
    for name, value in read(of_two).state.items():
        assert torch.equal(read(kept).state[name], value)
    assert weights_digest(kept) is not None, "it counts by its content"
    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", None)  # it is fetched once
    design = f"design=[{{start: {{scratch: null, given: '{source}'}}}}]"
    sweep = resolve_sweep_paths(load_sweep("quickstart", [design]), home, locate)
    assert sweep.design[0].start == {"scratch": None, "given": kept}
    assert train(["start.source=models:/opened/99", f"output={home / 'runs'}"]) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert sentence.startswith(f"error: models:/opened/99 cannot be read from {uri}: ")
    assert not (home / "runs").exists()


def test_a_version_says_what_it_is(of_two: Path, uri: str) -> None:
    version = register(of_two, "described", uri)
    place = f"models:/described/{version}"
    model = registered(uri, "described", version)
    weights = read(of_two)
    assert model.metadata["channels"] == {"flow": ["u", "v"], "heat": ["T"]}
    assert model.metadata["frame_interval"] == {"flow": 0.1, "heat": 0.1}
    assert model.metadata["input"] == "history (B, T, C, X, Y) of T = 3 frames"
    assert model.metadata["model"] == json.loads(json.dumps(weights.model.dimensions()))
    signature = model.signature
    assert signature is not None
    assert signature.inputs.inputs[0].shape == (-1, -1, -1, -1, -1)
    assert [param.name for param in signature.params.params] == ["steps", "dataset"]
    frames = mlflow.pyfunc.load_model(place).predict(
        model.load_input_example(place), params=model.load_input_example_params(place)
    )
    assert frames.shape == (1, 1, 2, 16, 16)
    requirements = Path(mlflow.artifacts.download_artifacts(place))
    assert "dpot_scale" in (requirements / "requirements.txt").read_text()


def test_registering_leaves_the_environment_as_it_is(of_two: Path, uri: str) -> None:
    mlflow.set_tracking_uri(None)
    before = dict(os.environ)
    register(of_two, "alone", uri)
    assert dict(os.environ) == before


def test_a_large_file_has_longer_than_any_other_request(
    of_two: Path, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server answers only after it has moved the whole of it to or from its store."""
    limits = []

    def noted(*args: object, **options: object) -> None:
        limits.append(int(os.environ[TIMEOUT]))
        raise OSError("the store is gone")

    version = register(of_two, "large", uri)
    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", noted)
    with pytest.raises(CheckpointError, match="the store is gone"):
        fetch(f"models:/large/{version}", uri, tmp_path)
    monkeypatch.setattr(Model, "log", noted)
    with pytest.raises(RecordError, match="the store is gone"):
        register(of_two, "larger", uri)
    assert limits == [LARGE_FILE_SECONDS] * 2
    assert int(os.environ[TIMEOUT]) < LARGE_FILE_SECONDS


def test_the_same_weights_are_registered_once(of_two: Path, uri: str, tmp_path: Path) -> None:
    assert register(of_two, "flow", uri) == "1"
    assert register(of_two, "flow", uri) == "1"
    weights = read(of_two)
    other = tmp_path / "other.safetensors"
    save_model(other, weights.model, weights.state)  # without its data
    assert register(other, "flow", uri) == "2"
    assert register(of_two, "flow", uri) == "3", "an older version again is a newer one"
    assert register(of_two, "another", uri) == "1"


def test_what_is_registered_is_loaded_by_its_name(
    of_two: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(of_two, "loaded", uri)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    model = ds.load("models:/loaded/1", dataset="flow")
    history = np.zeros((3, 2, 16, 16), np.float32)
    expected = ds.load(of_two, dataset="flow").rollout(history, 2)
    np.testing.assert_array_equal(model.rollout(history, 2), expected)
    with pytest.raises(CheckpointError, match=r"models:/loaded/7 cannot be read from sqlite"):
        ds.load("models:/loaded/7")


def test_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["register", str(RELEASED), "released"]) == 0
    said, errors = capsys.readouterr()
    others = [line for line in errors.splitlines() if not line.startswith("at work on")]
    assert others == [], "MLflow's own"
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert said == (
        f"registered as models:/released/1; to serve it: MLFLOW_TRACKING_URI={uri} mlflow models "
        "serve --model-uri models:/released/1 --env-manager local\n"
    )
    assert registered(uri, "released", "1").metadata["channels"] == {}


def test_a_run_is_registered_where_it_is_tracked(
    of_two: Path, tmp_path: Path, uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    client = MlflowClient(uri)
    run = client.create_run(client.create_experiment("any"))
    folder = run_folder(of_two, tmp_path, uri, run.info.run_id)
    assert main(["register", str(folder), "run"]) == 0
    assert client.get_model_version("run", "1").run_id == run.info.run_id
    assert "models:/run/1; to serve it" in capsys.readouterr().out


def test_the_model_of_a_run_gets_its_file_when_it_is_registered(
    of_two: Path, tmp_path: Path, uri: str
) -> None:
    client = MlflowClient(uri)
    run_id = client.create_run(client.create_experiment("models")).info.run_id
    folder = run_folder(of_two, tmp_path, uri, run_id)
    spool = tmp_path / "metrics.jsonl"
    spool.write_text('{"step": 0, "time": 1.0, "final/rel_l2": 0.25}\n')
    client.log_metric(run_id, "final/rel_l2", 0.25, timestamp=1000, step=0)
    log_model(client, run_id, weights=folder / WEIGHTS, spool=spool, params={})
    (before,) = client.get_run(run_id).outputs.model_outputs
    assert client.list_logged_model_artifacts(before.model_id) == [], "the file is not copied"

    version = client.get_model_version("of_run", register(folder, "of_run", uri, run_id))
    assert (version.run_id, version.source) == (run_id, f"models:/{before.model_id}")
    (after,) = client.get_run(run_id).outputs.model_outputs
    assert after.model_id == before.model_id
    model = client.get_logged_model(after.model_id)
    assert {one.key: one.value for one in model.metrics} == {"final/rel_l2": 0.25}
    assert "mlflow.model.isExternal" not in model.tags
    found = fetch("models:/of_run/1", uri, tmp_path / "fetched")
    assert found.run_id == run_id
    assert read(found.weights).model.dimensions() == read(of_two).model.dimensions()


def test_mlflow_that_does_not_answer_is_one_sentence(
    of_two: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(RecordError, match=rf"was not registered at {NOBODY}: .*refused"):
        register(of_two, "flow", NOBODY)
    assert main(["register", str(of_two), "flow", "--mlflow-uri", NOBODY]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_it_is_offered_and_never_fatal(
    of_two: Path,
    tmp_path: Path,
    uri: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    folder = run_folder(of_two, tmp_path, uri)
    said: list[str] = []
    with caplog.at_level(logging.WARNING):
        offer(folder, "offered", NOBODY, said.append)
    assert said == []
    assert "are not in MLflow's registry: " in caplog.text
    offer(folder, "offered", uri, said.append)
    assert len(said) == 1
    assert said[0].startswith("registered as models:/offered/1; to serve it: MLFLOW_TRACKING_URI=")
