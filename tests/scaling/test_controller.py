"""What a sweep remembers of its trials, whatever the threads that ran them find."""

from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import RaySystemError

from dpot_scale.config.load import load_sweep
from dpot_scale.config.places import resolve_sweep_paths
from dpot_scale.errors import ConfigError
from dpot_scale.scaling.controller import Controller
from dpot_scale.scaling.endings import TrialInterruptedError
from dpot_scale.scaling.journal import Journal
from dpot_scale.scaling.plan import plan
from dpot_scale.tracking.mlflow_run import MlflowRun

NO_SERVICES = ["run.tracking.mlflow_uri=null", "run.data.suite=null"]


@pytest.fixture
def controller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Controller:
    sweep = resolve_sweep_paths(load_sweep("quickstart", NO_SERVICES), tmp_path)
    sweep.directory.mkdir(parents=True)
    monkeypatch.setattr(Controller, "_wait_for_room", lambda *_: None)
    trials = plan(sweep)[:3]
    for trial in trials:
        trial.run.directory.mkdir(parents=True)
    mlflow_run = MlflowRun(sweep.directory, sweep, sweep.run.tracking, name=sweep.name)
    return Controller(sweep=sweep, trials=trials, parent_run=mlflow_run, say=print)


def events(controller: Controller, number: int = 0) -> list[str]:
    trial = controller.trials[number].id
    entries = Journal(controller.sweep.directory).entries()
    return [entry.event for entry in entries if entry.trial == trial]


def test_what_an_interrupt_breaks_has_not_failed(
    controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted_while_it_trains(*_: object) -> bool:
        controller._interrupt(controller.trials)
        raise RaySystemError("the cluster was shut down")

    monkeypatch.setattr(controller, "_fit", interrupted_while_it_trains)
    with pytest.raises(TrialInterruptedError):
        controller._attempt_until_done(controller.trials[0])
    assert events(controller) == ["started", "interrupted"]


def test_what_ends_with_the_interrupt_is_finished(
    controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted_at_the_end(*_: object) -> bool:
        controller._interrupt(controller.trials)
        return True

    monkeypatch.setattr(controller, "_fit", interrupted_at_the_end)
    controller._attempt_until_done(controller.trials[0])
    assert events(controller) == ["started", "interrupted", "finished"]


def test_a_trial_that_was_told_to_stop_is_interrupted(
    controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controller, "_fit", lambda *_: False)
    with pytest.raises(TrialInterruptedError, match="saved"):
        controller._attempt_until_done(controller.trials[0])
    assert events(controller) == ["started", "interrupted"]


def test_an_attempt_that_fails_while_all_stop_is_interrupted_and_not_repeated(
    controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    def signalled_as_the_driver_is(*_: object) -> bool:
        controller._stopping.set()
        raise RaySystemError("a worker died")

    monkeypatch.setattr(controller, "_fit", signalled_as_the_driver_is)
    with pytest.raises(TrialInterruptedError):
        controller._attempt_until_done(controller.trials[0])
    assert events(controller) == ["started", "interrupted"]


def test_nothing_starts_once_all_stop(controller: Controller) -> None:
    controller._stopping.set()
    with pytest.raises(TrialInterruptedError):
        controller._attempt_until_done(controller.trials[0])
    assert events(controller) == []


def test_a_bug_is_raised_when_the_others_have_ended(
    controller: Controller, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mistake = ConfigError("a mistake of the user")

    def fit(trial: Any, *_: object) -> bool:
        if trial is controller.trials[0]:
            raise AssertionError
        if trial is controller.trials[1]:
            raise mistake
        return True

    monkeypatch.setattr(controller, "_fit", fit)
    with pytest.raises(AssertionError):
        controller._run_all(controller.trials, 1)
    lines = capsys.readouterr().out.splitlines()
    endings = [line.split(": ", 1)[1] for line in lines]
    assert endings == ["failed: AssertionError", "failed: a mistake of the user", "finished"]
    assert events(controller, 2) == ["started", "finished"]
