"""Status, read from what trials have left on disk."""

import json
from pathlib import Path

import pytest

from dpot_scale.config.load import load_sweep
from dpot_scale.config.places import SWEEP_CONFIG, resolve_sweep_paths
from dpot_scale.errors import UserError
from dpot_scale.scaling.journal import Journal, hold_sweep
from dpot_scale.scaling.plan import plan
from dpot_scale.scaling.status import status_table


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
