"""`python -m dpot_scale.mirror` sends what MLflow lacks of runs and sweeps."""

import json
from pathlib import Path

import pytest

from dpot_scale.config.load import dump, load_run
from dpot_scale.config.places import RESULT_FILE, RUN_CONFIG, SWEEP_CONFIG, TRIALS
from dpot_scale.config.run import TrackingConfig
from dpot_scale.mirror import main
from dpot_scale.runs.tracked import DEEPSPEED_CONFIG
from dpot_scale.tracking.mlflow_client import client, read_run_id
from dpot_scale.tracking.mlflow_run import MlflowRun
from dpot_scale.tracking.record import write_mlflow_record
from dpot_scale.tracking.tracker import Tracker


def a_run(output: Path, uri: str | None) -> Path:
    """Make the folder of a finished run as an earlier version left it, or one without MLflow."""
    where = f"tracking.mlflow_uri={uri or 'null'}"
    config = load_run("quickstart", [f"output={output}", "name=run", where])
    (output / "run").mkdir(parents=True)
    tracker = Tracker(output / "run", TrackingConfig(), is_main=True)
    for step in (1, 2):
        tracker.log({"train/loss": 1 / step}, step=step)
    tracker.close()
    (output / "run" / RUN_CONFIG).write_text(dump(config))
    (output / "run" / RESULT_FILE).write_text("{}")
    (output / "run" / DEEPSPEED_CONFIG).write_text("{}")
    return output / "run"


def test_a_run_that_mlflow_never_saw_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    run = a_run(tmp_path / "runs", uri)
    assert main([str(run)]) == 0
    assert capsys.readouterr().out == f"{run}: sent 2 points\n"
    found = client(uri).get_run(str(read_run_id(run)))
    assert (found.info.status, found.info.run_name) == ("FINISHED", "run")
    assert found.data.metrics == {"train/loss": 0.5}
    assert found.data.params["model.family"] == "dpot"
    files = [file.path for file in client(uri).list_artifacts(found.info.run_id)]
    assert files == ["config.yaml", DEEPSPEED_CONFIG]
    assert main([str(run)]) == 0
    assert capsys.readouterr().out == f"{run}: MLflow has all points\n"


def test_a_sweep_comes_before_its_trials(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri, sweep = f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "sweep"
    tracking = TrackingConfig(mlflow_uri=uri)
    parent = MlflowRun(sweep, tracking, tracking, name="sweep")
    trials = [
        MlflowRun(sweep / TRIALS / name, tracking, tracking, name=name, parent=parent)
        for name in "ab"
    ]
    for run in (parent, *trials):
        record = run.record().model_copy(update={"status": "FAILED", "stop": "failed: x"})
        write_mlflow_record(run.directory, record)
    (sweep / SWEEP_CONFIG).touch()
    assert main([str(sweep)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    for trial in trials:
        found = client(uri).get_run(str(read_run_id(trial.directory)))
        assert found.data.tags["mlflow.parentRunId"] == read_run_id(sweep)
        assert (found.info.status, found.data.tags["stop"]) == ("FAILED", "failed")
        assert found.data.tags["stop_reason"] == "x"


@pytest.mark.parametrize(
    ("uri", "words", "sentence"),
    [
        (None, ["run"], "was trained with tracking.mlflow_uri=null: say with --mlflow-uri where"),
        ("http://127.0.0.1:9", ["run"], "did not take all of run: [Errno 111] Connection refused;"),
        (None, ["absent"], "there is no folder absent"),
        (None, ["run", "--mlflow-uri", "http://127.0.0.1:9"], "MLflow at http://127.0.0.1:9 did"),
    ],
)
def test_a_mistake_is_one_sentence(
    uri: str | None,
    words: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    a_run(tmp_path, uri)
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert sentence in line


def test_a_run_without_mlflow_is_shown_where_one_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = a_run(tmp_path / "runs", None)
    before = {path.name for path in run.iterdir()}
    assert main([str(run), "--mlflow-uri", "sqlite:///own.db"]) == 0
    assert (tmp_path / "own.db").is_file()
    assert {path.name for path in run.iterdir()} == before
    assert json.loads((run / RESULT_FILE).read_text()) == {}
