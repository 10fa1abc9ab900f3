"""Status, read from what trials have left on disk."""

import json
import re
from contextlib import ExitStack
from pathlib import Path

import pytest

from dpot_scale.config.load import load_sweep
from dpot_scale.config.places import SWEEP_CONFIG, resolve_sweep_paths
from dpot_scale.errors import UserError
from dpot_scale.scaling import status
from dpot_scale.scaling.journal import Journal, hold_sweep
from dpot_scale.scaling.plan import plan
from dpot_scale.scaling.status import status_table, watch_status
from dpot_scale.scaling.stopping import cancel


def states(text: str) -> dict[str, list[str]]:
    return {line.split()[0]: line.split()[1:] for line in text.splitlines()[3:]}


def test_every_state(tmp_path: Path) -> None:
    sweep = resolve_sweep_paths(load_sweep("quickstart"), tmp_path)
    trials = plan(sweep)
    first, second, third, fourth = (trial.id for trial in trials)
    with pytest.raises(UserError, match="no sweep was started in"):
        status_table(sweep, trials)
    sweep.directory.mkdir(parents=True)
    (sweep.directory / SWEEP_CONFIG).touch()
    text = status_table(sweep, trials)
    assert "not running" in text.splitlines()[0]
    steps = trials[0].run.steps
    assert states(text)[first] == ["waiting", f"0/{steps}", "0"]

    journal = Journal(sweep.directory)
    with hold_sweep(sweep):
        journal.record(first, "started", attempt=1)
        journal.record(second, "started", attempt=1)
        journal.record(second, "failed", attempt=1, reason="the disk is full")
        trials[0].run.directory.mkdir(parents=True)
        record = {"step": 30, "time": 0, "train/loss": 0.5, "perf/windows_per_second": 9}
        (trials[0].run.directory / "metrics.jsonl").write_text(json.dumps(record) + "\n")
        running = states(status_table(sweep, trials))
    assert running[first] == ["running", f"30/{steps}", "1"]
    assert running[second] == ["failed", f"0/{steps}", "1", "the", "disk", "is", "full"]
    assert running[third] == running[fourth] == ["waiting", f"0/{steps}", "0"]
    assert states(status_table(sweep, trials))[first][0] == "interrupted"


def test_a_sweep_of_another_design_is_said_to_be_one(tmp_path: Path) -> None:
    """Its name alone does not say what it was started with."""
    begun = resolve_sweep_paths(load_sweep("quickstart", ["windows=[1024]"]), tmp_path)
    begun.directory.mkdir(parents=True)
    (begun.directory / SWEEP_CONFIG).touch()
    trials = plan(begun)
    hint = f"`--config {begun.directory / SWEEP_CONFIG}` shows its trials"
    with hold_sweep(begun):
        Journal(begun.directory).record(trials[0].id, "started", attempt=1)
    assert hint not in status_table(begun, trials)
    asked = resolve_sweep_paths(load_sweep("quickstart"), tmp_path)
    assert status_table(asked, plan(asked)).endswith(hint)


def test_workers_that_change_are_said_with_the_reason(tmp_path: Path) -> None:
    sweep = resolve_sweep_paths(load_sweep("quickstart", ["resources.workers=[1,2]"]), tmp_path)
    sweep.directory.mkdir(parents=True)
    trial, *_ = trials = plan(sweep)
    journal = Journal(sweep.directory)

    def words() -> str:
        return " ".join(states(status_table(sweep, trials))[trial.id][3:])

    with hold_sweep(sweep):
        journal.record(trial.id, "started", attempt=1, workers=2)
        assert words() == "on 2 of 1-2 workers"
        journal.record(trial.id, "resized", attempt=1, reason="a node is gone")
        assert states(status_table(sweep, trials))[trial.id][0] == "waiting"
        assert words() == "for room, because a node is gone"
        journal.record(trial.id, "started", attempt=2, reason="a node is gone", workers=1)
        assert words() == "on 1 of 1-2 workers, started again because a node is gone"
        journal.record(trial.id, "resized", attempt=2, reason="there is room")
    assert states(status_table(sweep, trials))[trial.id][0] == "interrupted"


def test_status_is_shown_until_the_sweep_ends(tmp_path: Path) -> None:
    sweep = resolve_sweep_paths(load_sweep("quickstart"), tmp_path)
    trials = plan(sweep)
    sweep.directory.mkdir(parents=True)
    (sweep.directory / SWEEP_CONFIG).touch()
    journal, shown, end = Journal(sweep.directory), list[str](), ExitStack()
    end.enter_context(hold_sweep(sweep))

    def say(text: str) -> None:
        shown.append(text)
        if len(shown) == 1:
            journal.record(trials[0].id, "started", attempt=1)
        if len(shown) == 2:
            end.close()

    watch_status(sweep, trials, say, once=False)
    title, *_ = zip(*map(str.splitlines, shown), strict=False)
    assert [line.partition(": ")[2] for line in title] == [
        "running; 4 waiting",
        "running; 1 running, 3 waiting",
        "not running; 1 interrupted, 3 waiting",
    ]
    watch_status(sweep, trials, say, once=True)
    assert len(shown) == 4


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_watch_shows_that_it_lives_while_nothing_changes(
    is_terminal: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = resolve_sweep_paths(load_sweep("quickstart"), tmp_path)
    trials = plan(sweep)
    sweep.directory.mkdir(parents=True)
    (sweep.directory / SWEEP_CONFIG).touch()
    monkeypatch.setattr(status, "WATCH_SECONDS", 0.01)
    monkeypatch.setattr(status, "QUIET_SECONDS", 0.1)
    monkeypatch.setattr("sys.stdout.isatty", lambda: is_terminal)
    shown, end = list[str](), ExitStack()
    end.enter_context(hold_sweep(sweep))

    def say(text: str) -> None:
        shown.append(text)
        if len(shown) == 3:
            end.close()

    status.watch_status(sweep, trials, say, once=False)
    table, *quiet, last = shown
    assert "running; 4 waiting" in table
    assert "not running; 4 waiting" in last
    assert len(quiet) == 2
    if is_terminal:
        assert all("running; 4 waiting" in text for text in quiet)
        assert re.search(r"\nat \d\d:\d\d:\d\d, Ctrl-C leaves the sweep running$", quiet[0])
        assert re.search(r"\nat \d\d:\d\d:\d\d$", last)
    else:
        assert all(re.fullmatch(r"no change until \d\d:\d\d:\d\d", text) for text in quiet)


def test_a_branch_waits_for_its_trunk(tmp_path: Path) -> None:
    design = "design=[{ladder: {a: {width: 32}}}, {cooldown: {trunk: 800, at: [400]}}]"
    sweep = resolve_sweep_paths(load_sweep("quickstart", [design]), tmp_path)
    sweep.directory.mkdir(parents=True)
    (sweep.directory / SWEEP_CONFIG).touch()
    branch, trunk = plan(sweep)
    cancel(trunk.run.directory)
    rows = states(status_table(sweep, (branch, trunk)))
    assert branch.after is not None
    assert rows[branch.id][3:] == f"after step {branch.after.step} of {trunk.id}".split()
    assert rows[trunk.id][0] == "cancelled"
