"""The command line of sweeps: mistakes are one sentence before anything is spent."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from dpot_scale.checkpoints.weights import read
from dpot_scale.checkpoints.weights_file import save_model
from dpot_scale.config.load import dump, load_sweep
from dpot_scale.config.places import JOURNAL, RUN_CONFIG, SWEEP_CONFIG, WEIGHTS, resolve_sweep_paths
from dpot_scale.models.families import family_of
from dpot_scale.models.family import KEEP_ALL
from dpot_scale.runs.contents import record
from dpot_scale.runs.result import save_result
from dpot_scale.scaling.journal import Journal
from dpot_scale.scaling.plan import Trial, plan
from dpot_scale.scaling.report.write import write_report
from dpot_scale.sweep import main
from dpot_scale.tracking.registered import fetch
from tests.results import result_of


def mistake(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("run", "error: cannot write to /dev/null/quickstart-sweep: "),
        ("status", "error: cannot read /dev/null/quickstart-sweep: Not a directory"),
        (
            "report",
            "error: no trial of sweep quickstart-sweep in /dev/null/quickstart-sweep has finished",
        ),
    ],
)
def test_a_place_that_is_no_folder(
    command: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mistake([command, "run.output=/dev/null"], capsys).startswith(sentence)


def test_a_cluster_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    said = mistake(["run", f"run.output={tmp_path}", f"run.data.root={tmp_path}"], capsys)
    assert said.startswith("error: there is no Ray cluster at RAY_ADDRESS=127.0.0.1:9; ")
    assert list(tmp_path.iterdir()) == []


def test_the_example_of_the_help_is_accepted(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    (example,) = [word for word in capsys.readouterr().out.split() if word.startswith("run.")]
    assert main(["plan", example]) == 0


def test_the_status_of_a_sweep_that_never_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = mistake(["status", f"run.output={tmp_path}"], capsys)
    assert said.startswith(f"error: no sweep was started in {tmp_path}/quickstart-sweep yet; ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["run", "status", "report"])
def test_the_folder_of_a_sweep_of_another_config(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = load_sweep("quickstart", [f"run.output={tmp_path}"])
    sweep.directory.mkdir()
    started = plan(sweep)[0].id
    Journal(sweep.directory).record(started, "started", attempt=1)
    said = mistake([command, f"run.output={tmp_path}", "run.optim.lr=1e-2"], capsys)
    assert said.startswith(f"error: {sweep.directory} holds a sweep of another config (see ")
    assert f"which started {started}; restore that config, or choose another `name`" in said
    assert [file.name for file in sweep.directory.iterdir()] == [JOURNAL]


@pytest.mark.parametrize("command", ["run", "status", "report"])
def test_a_sweep_of_data_that_changed_since_is_refused(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What its trials found on other data is never taken for what they would find on these."""
    sweep = load_sweep("quickstart", [f"run.output={tmp_path}"])
    trial = plan(sweep)[0]
    trial.run.directory.mkdir(parents=True)
    (trial.run.directory / RUN_CONFIG).write_text(dump(trial.run))
    name, digest = next(iter(trial.contents.datasets.items()))
    old = replace(trial.contents, datasets={**trial.contents.datasets, name: "0123456789ab"})
    for folder in (sweep.directory, trial.run.directory):
        record(folder, old)
    Journal(sweep.directory).record(trial.id, "started", attempt=1)
    said = mistake([command, f"run.output={tmp_path}"], capsys)
    assert said.startswith(f"error: {sweep.directory} holds a sweep that was begun with another ")
    assert f"dataset {name} (0123456789ab, now {digest}): restore what it was, or" in said


def test_a_sweep_may_get_more_trials(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = load_sweep("quickstart", [f"run.output={tmp_path}"])
    sweep.directory.mkdir()
    Journal(sweep.directory).record(plan(sweep)[0].id, "started", attempt=1)
    assert main(["status", f"run.output={tmp_path}", "windows=[4096,8192]"]) == 0
    assert "_w8192_" in capsys.readouterr().out


def test_a_command_may_stand_anywhere(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["windows=[1600]", "plan", "--config", "quickstart"]) == 0
    assert "_w1600_" in capsys.readouterr().out


def test_trials_are_cancelled_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second, third, _ = plan(load_sweep("quickstart", [f"run.output={tmp_path}"]))
    (tmp_path / "quickstart-sweep").mkdir()
    place = f"run.output={tmp_path}"
    assert main(["cancel", first.id, second.id, place]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"{first.id}: cancelled; to take it back, remove {tmp_path}/")
    assert Path(lines[0].rpartition(" ")[2]).is_file()
    said = mistake(["cancel", first.id[:-1], place], capsys)
    assert said == f"error: there is no trial '{first.id[:-1]}' (did you mean '{first.id}'?)"
    said = mistake(["cancel", place], capsys)
    assert said.startswith("error: name the trials to cancel")
    finish(third, 0.1)
    said = mistake(["cancel", third.id, place], capsys)
    assert said == f"error: {third.id} has finished: there is nothing to cancel"


def finish(trial: Trial, rel_l2: float) -> None:
    """Leave the result and the weights of a finished run in the folder of a trial."""
    directory, model = trial.run.directory, trial.run.model
    directory.mkdir(parents=True)
    network = family_of(model).network(model, KEEP_ALL, "float32")
    save_model(directory / WEIGHTS, model, network.state_dict())
    save_result(directory, result_of(trial, rel_l2))


def test_the_best_model_is_registered_under_the_name_of_the_sweep(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a sweep that has ended, too, and only once; tests/end_to_end/test_sweep.py runs one."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    overrides = [f"run.output={tmp_path}", f"run.tracking.mlflow_uri={uri}"]
    sweep = resolve_sweep_paths(load_sweep("quickstart", overrides), Path.cwd())
    trials = plan(sweep)
    for trial, error in zip(trials, (0.3, 0.1, 0.2, 0.4), strict=True):
        finish(trial, error)
    write_report(sweep, trials)
    for _ in range(2):
        assert main(["run", *overrides]) == 0
        assert f"registered as models:/{sweep.name}/1; to serve it" in capsys.readouterr().out
    registry = MlflowClient(uri)
    assert len(registry.search_model_versions(f"name='{sweep.name}'")) == 1
    found = read(fetch(f"models:/{sweep.name}/1", uri, tmp_path).weights).model
    assert found.dimensions() == trials[1].run.model.dimensions()


def test_the_report_of_a_copy_changes_nothing_of_the_original(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    overrides = [f"run.output={first}", f"run.tracking.mlflow_uri=sqlite:///{first / 'mlflow.db'}"]
    sweep = resolve_sweep_paths(load_sweep("quickstart", overrides), Path.cwd())
    trials = plan(sweep)
    for trial, error in zip(trials, (0.3, 0.1, 0.2, 0.4), strict=True):
        finish(trial, error)
    assert main(["run", *overrides]) == 0  # all of it has ended: its report
    shutil.copytree(first, second)
    before = {path: path.stat().st_mtime_ns for path in first.rglob("*")}
    copy = second / sweep.name
    for report in copy.glob("report.*"):
        report.unlink()
    capsys.readouterr()
    assert main(["report", "--config", str(copy / SWEEP_CONFIG)]) == 0
    said = capsys.readouterr().out
    assert f"a copy of {sweep.directory}, whose page in MLflow stays as it is" in said
    assert {path: path.stat().st_mtime_ns for path in first.rglob("*")} == before
    assert list(copy.glob("report.*"))
