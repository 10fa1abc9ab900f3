"""What the journal says after an interrupt, whatever the threads that ran the trials find then."""

from pathlib import Path

import pytest
from ray.exceptions import RaySystemError

from dpot_scale.config.load import load_sweep
from dpot_scale.config.places import anchored
from dpot_scale.scaling.controller import Controller, TrialInterruptedError
from dpot_scale.scaling.journal import Journal
from dpot_scale.scaling.plan import plan
from dpot_scale.training.mlflow_run import MlflowRun


@pytest.fixture
def controller(tmp_path: Path) -> Controller:
    sweep = anchored(load_sweep("quickstart"), tmp_path)
    sweep.directory.mkdir(parents=True)
    mlflow_run = MlflowRun(sweep.directory, sweep, sweep.run.tracking, name=sweep.name)
    return Controller(sweep=sweep, trials=plan(sweep)[:1], parent_run=mlflow_run, say=print)


def events(controller: Controller) -> list[str]:
    return [entry.event for entry in Journal(controller.sweep.directory).entries()]


def test_what_an_interrupt_breaks_has_not_failed(
    controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted_while_it_trains(*_: object) -> None:
        controller._interrupt(controller.trials)
        raise RaySystemError("the cluster was shut down")

    monkeypatch.setattr(controller, "_fit", interrupted_while_it_trains)
    with pytest.raises(TrialInterruptedError):
        controller._attempt_until_done(controller.trials[0])
    assert events(controller) == ["started", "interrupted"]


def test_what_ends_with_the_interrupt_is_finished(
    controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controller, "_fit", lambda *_: controller._interrupt(controller.trials))
    controller._attempt_until_done(controller.trials[0])
    assert events(controller) == ["started", "interrupted", "finished"]
