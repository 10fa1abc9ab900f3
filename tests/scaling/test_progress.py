"""The lines on trials that train, and their table on a terminal."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from dpot_scale.config.load import load_sweep
from dpot_scale.config.places import resolve_sweep_paths
from dpot_scale.runs.signs import FOLDER, Sign, write_sign
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
        f"{first.id}: step 2/512  loss 0.5000  20.0 windows/s  0:03:24 left",
        f"{second.id}: step 4/512  loss 0.2500  20.0 windows/s  0:03:23 left",
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
    starting = f"{trial.id}: starts its workers; its next record is of step 100"
    assert said == [f"{starting}, {n} s since it was started" for n in (5, 10)]
    record(trial, 3)
    progress.update([trial])
    assert len(said) == 2, "too soon"
    for _ in range(20):
        clock.now += 0.5
        progress.update([trial])
    assert said[2] == f"{trial.id}: step 3/512  loss 0.3333  20.0 windows/s  0:03:24 left"
    assert said[3] == f"{trial.id}: trains, step 3/512 was 8 s ago, about 0:03:16 left"
    record(trial, trial.run.steps)
    for _ in range(20):
        clock.now += 0.5
        progress.update([trial])
    assert said[-1].startswith(f"{trial.id}: evaluates and saves, ")


def test_a_trial_that_goes_on_says_where_while_it_starts(trials: list[Trial], clock: Clock) -> None:
    said: list[str] = []
    record(trials[0], 245)  # of an attempt before, or of its trunk
    progress = TrialProgress(trials[:1], said.append)
    for _ in range(12):
        progress.update(trials[:1])
        clock.now += 0.5
    assert said[0].startswith(f"{trials[0].id}: step 245/512  ")
    assert said[1:] == [
        f"{trials[0].id}: starts its workers to go on at step 245/512; its next record is of "
        "step 300, 5 s since it was started"
    ]


def test_what_a_trial_does_before_its_first_step_is_said(trials: list[Trial], clock: Clock) -> None:
    """Its ranks leave signs in its folder, those of an attempt before among them."""
    said: list[str] = []
    trial = trials[0]
    before = Sign(attempt=1, rank=0, place="node", pid=7, started="1", compiles=True)
    (trial.run.directory / FOLDER).mkdir()
    write_sign(trial.run.directory, before)
    progress = TrialProgress(trials, said.append)
    for sign in (before, replace(before, attempt=2), replace(before, attempt=2, compiles=False)):
        write_sign(trial.run.directory, sign)
        for _ in range(11):  # half seconds
            progress.update([trial])
            clock.now += 0.5
    assert [line.split(";")[0] for line in said] == [
        f"{trial.id}: starts its workers",
        f"{trial.id}: compiles its model",
        f"{trial.id}: makes its model and its first steps",
    ]


def test_trials_beside_each_other_break_the_silence_together(
    trials: list[Trial], clock: Clock
) -> None:
    said: list[str] = []
    progress = TrialProgress(trials, said.append)
    progress.update(trials)
    record(trials[0], 3)
    clock.now += 4
    progress.update(trials)
    assert len(said) == 1, "the step"
    clock.now += 4
    progress.update(trials)
    assert len(said) == 1, "4 s after a line"
    clock.now += 1
    progress.update(trials)
    first, second = (trial.id for trial in trials)
    assert said[1] == (
        f"{first}: trains, step 3/512 was 5 s ago, about 0:03:19 left; "
        f"{second}: starts its workers; its next record is of step 100, 9 s since it was started"
    )


def test_of_many_trials_a_line_says_how_many_do_what(tmp_path: Path, clock: Clock) -> None:
    sweep = resolve_sweep_paths(load_sweep("quickstart", ["design=[{seeds: [0, 1]}]"]), tmp_path)
    trials = plan(sweep)
    assert len(trials) == 8
    for trial in trials:
        trial.run.directory.mkdir(parents=True)
    said: list[str] = []
    progress = TrialProgress(trials, said.append)
    progress.update(trials)
    record(trials[0], trials[0].run.steps)
    record(trials[1], 5)
    for _ in range(12):
        clock.now += 0.5
        progress.update(trials)
    assert said[2:] == ["8 trials: 6 start, 1 train, 1 evaluate and save"]


def test_a_trial_that_ended_is_shown_no_longer(trials: list[Trial], clock: Clock) -> None:
    said: list[str] = []
    progress = TrialProgress(trials, said.append)
    progress.finish(trials[0], "finished")
    record(trials[0], 1)
    progress.update()
    progress.close()
    assert said == [f"{trials[0].id}: finished"]


def test_a_line_has_the_newest_held_out_error(trials: list[Trial], clock: Clock) -> None:
    said: list[str] = []
    score(trials[0], 1, "eval/mean/rel_l2", 0.75)
    score(trials[0], 1, "valid/mean/rel_l2", 0.5)
    record(trials[0], trials[0].run.steps)
    TrialProgress(trials, said.append).update()
    assert said == [f"{trials[0].id}: step 512/512  loss 0.0020  held-out 0.5000  20.0 windows/s"]


def score(trial: Trial, step: int, key: str, value: float) -> None:
    with (trial.run.directory / SPOOL).open("a") as spool:
        spool.write(json.dumps({"step": step, "time": 0, key: value}) + "\n")


def on_a_terminal(monkeypatch: pytest.MonkeyPatch, height: str = "30") -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("LINES", height)
    monkeypatch.setenv("NO_COLOR", "1")


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What was drawn, without the codes that move the cursor."""
    return re.sub(r"\x1b\[[?\d]*[a-zA-Z]", "", capsys.readouterr().out).strip().splitlines()


def test_a_terminal_gets_a_table_of_all_trials(
    trials: list[Trial],
    clock: Clock,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    on_a_terminal(monkeypatch)
    first, second = trials
    progress = TrialProgress(trials, print)
    score(first, 2, "eval/mean/rel_l2", 0.75)
    record(first, 2)
    progress.update([first])
    header, one, other, below = lines(capsys)[-4:]
    columns = ["trial", "state", "step", "loss", "held-out", "windows/s", "time", "left"]
    assert header.split() == columns
    assert one.split() == [first.id, "trains", "2/512", "0.5000", "0.7500", "20.0", "0:03:24"]
    assert other.split() == [second.id, "waiting", "0/512"]
    assert below.strip() == "2 trials: 1 running, 1 waiting"

    record(first, 512)
    progress.update([first])
    shown = lines(capsys)
    assert shown[-3].split()[:3] == [first.id, "evaluates", "512/512"]
    assert max(map(len, shown)) <= 80
    score(first, 512, "eval/mean/rel_l2", 0.25)
    progress.finish(first, "finished")
    clock.now = 7.0
    progress.update([second])
    clock.now = 9.0
    progress.update([second])
    progress.close()
    *_, one, other, below = lines(capsys)
    assert one.split() == [first.id, "finished", "512/512", "0.0020", "0.2500", "20.0"]
    assert other.split() == [second.id, "starts,", "2", "s", "0/512"]
    assert below.strip() == "2 trials: 1 finished, 1 running"


def test_of_more_trials_than_rows_those_that_train_come_first(
    trials: list[Trial],
    clock: Clock,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    on_a_terminal(monkeypatch, height="4")
    progress = TrialProgress(trials, print)
    progress.update([trials[1]])
    *_, row, below = lines(capsys)
    assert row.split()[:2] == [trials[1].id, "starts,"]
    assert below.strip() == "2 trials: 1 running, 1 waiting"
    progress.finish(trials[1], "failed: of memory, which ran out")
    progress.close()
    shown = capsys.readouterr().out
    assert f"{trials[1].id}: failed: of memory, which ran out" in shown
    assert "2 trials: 1 failed, 1 waiting" in shown
