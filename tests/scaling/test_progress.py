"""The lines on trials that train, where there is no terminal."""

import json
from pathlib import Path

import pytest

from dpot_scale.config.load import load_sweep
from dpot_scale.config.places import resolve_sweep_paths
from dpot_scale.scaling import progress as progress_module
from dpot_scale.scaling.plan import Trial, plan
from dpot_scale.scaling.progress import LINE_SECONDS, TrialProgress
from dpot_scale.tracking import names
from dpot_scale.tracking.spool import SPOOL


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress_module, "time", clock)
    return clock


@pytest.fixture
def trials(tmp_path: Path) -> list[Trial]:
    trials = plan(resolve_sweep_paths(load_sweep("quickstart"), tmp_path))[:2]
    for trial in trials:
        trial.run.directory.mkdir(parents=True)
    return trials


def record(trial: Trial, step: int) -> None:
    with (trial.run.directory / SPOOL).open("a") as spool:
        values = {names.LOSS: 1 / step, names.WINDOWS_PER_SECOND: 20.0}
        spool.write(json.dumps({"step": step, "time": 0, **values}) + "\n")


def test_a_line_for_each_trial_that_has_recorded_something(
    trials: list[Trial], clock: Clock
) -> None:
    said: list[str] = []
    progress = TrialProgress(trials, said.append)
    progress.update()
    assert said == [], "nothing is recorded yet"
    first, second = trials
    record(first, 2)
    record(second, 4)
    progress.update()
    assert said == [
        f"{first.id}: step 2/{first.run.steps}  loss 0.5000  20.0 windows/s",
        f"{second.id}: step 4/{second.run.steps}  loss 0.2500  20.0 windows/s",
    ]


def test_a_line_comes_once_for_a_step_and_not_too_often(trials: list[Trial], clock: Clock) -> None:
    said: list[str] = []
    progress = TrialProgress(trials[:1], said.append)
    record(trials[0], 1)
    progress.update()
    record(trials[0], 2)
    progress.update()
    assert len(said) == 1, "too soon"
    clock.now += LINE_SECONDS
    progress.update()
    assert len(said) == 2, "what came too soon is not lost"
    clock.now += LINE_SECONDS
    progress.update()
    assert len(said) == 2, "there is no other step"


def test_a_running_trial_is_never_silent_for_long(trials: list[Trial], clock: Clock) -> None:
    said: list[str] = []
    trial = trials[0]
    progress = TrialProgress(trials, said.append)
    for _ in range(24):  # half seconds
        progress.update([trial])
        clock.now += 0.5
    starting = f"{trial.id}: workers are starting"
    assert said == [f"{starting}, {n} s since it was started" for n in (5, 10)]
    record(trial, 3)
    progress.update([trial])
    assert len(said) == 2, "too soon"
    for _ in range(20):
        clock.now += 0.5
        progress.update([trial])
    assert said[2] == f"{trial.id}: step 3/{trial.run.steps}  loss 0.3333  20.0 windows/s"
    assert said[3] == f"{trial.id}: at step 3/{trial.run.steps}, 20 s since it was started"
    record(trial, trial.run.steps)
    for _ in range(20):
        clock.now += 0.5
        progress.update([trial])
    assert said[-1].startswith(f"{trial.id}: evaluates and saves, ")


def test_a_trial_that_ended_is_shown_no_longer(trials: list[Trial], clock: Clock) -> None:
    said: list[str] = []
    progress = TrialProgress(trials, said.append)
    progress.finish(trials[0], "finished")
    record(trials[0], 1)
    progress.update()
    progress.close()
    assert said == [f"{trials[0].id}: finished"]
