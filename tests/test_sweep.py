"""The command line of sweeps: mistakes are one sentence before anything is spent."""

from dataclasses import replace
from pathlib import Path

import pytest

from dpot_scale.config.load import dump, load_sweep
from dpot_scale.config.places import JOURNAL, RUN_CONFIG
from dpot_scale.runs.contents import record
from dpot_scale.scaling.journal import Journal
from dpot_scale.scaling.plan import plan
from dpot_scale.sweep import main


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
    first, second, *_ = plan(load_sweep("quickstart", [f"run.output={tmp_path}"]))
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
