"""The numbers by which sweeps are compared in MLflow."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dpot_scale.config.sweep import SweepConfig
from dpot_scale.scaling.journal import Entry, Event
from dpot_scale.scaling.plan import Trial
from dpot_scale.scaling.report.analysis import analyze
from dpot_scale.scaling.report.numbers import sweep_numbers
from dpot_scale.scaling.report.results import finished_trials

Planned = Callable[..., tuple[SweepConfig, tuple[Trial, ...]]]
Finish = Callable[..., None]
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def write_journal(sweep: SweepConfig, *events: tuple[float, Trial, Event, int]) -> None:
    """Write events at so many minutes."""
    entries = [
        Entry(
            time=BEGIN + timedelta(minutes=minute), trial=trial.id, event=event, attempt=attempt
        ).model_dump_json()
        for minute, trial, event, attempt in events
    ]
    (sweep.directory / "journal.jsonl").write_text("\n".join(entries))


def test_a_sweep_in_numbers(tmp_path: Path, planned: Planned, finish: Finish) -> None:
    sweep, trials = planned(tmp_path)
    for trial in trials[:3]:
        finish(trial, trial.parameters**-0.16)
    a, b, c, d = trials
    write_journal(
        sweep,
        (0, a, "started", 1),
        (10, b, "started", 1),
        (20, a, "finished", 1),
        (30, b, "interrupted", 1),
        # An hour in which nothing ran.
        (90, b, "started", 2),
        (100, b, "finished", 2),
        (100, c, "started", 1),  # its driver was killed
        (110, c, "started", 2),
        (120, c, "finished", 2),
        (120, d, "started", 1),
        (130, d, "failed", 1),
    )
    finished = finished_trials(trials)
    numbers = sweep_numbers(sweep, trials, finished, analyze(finished))
    best = finished[2].result
    assert numbers["final/rel_l2"] == numbers["final/ns/rel_l2"] == best.mean_rel_l2
    assert numbers["final/over_persistence"] == pytest.approx(best.mean_rel_l2 / 0.3)
    assert numbers["law/exponent"] == pytest.approx(0.16)
    assert numbers["law/exponent_low"] <= 0.16 <= numbers["law/exponent_high"] + 1e-9
    assert "law/predicted" not in numbers, "two sizes foretell nothing"
    assert (numbers["trials/finished"], numbers["trials/failed"]) == (3, 1)
    assert numbers["compute/total_flops"] == sum(trial.train_flops for trial in trials[:3])
    assert numbers["time/seconds"] == 60 * (30 + 10 + 10 + 10)
    assert numbers["compute/device_hours"] == pytest.approx(2 * (20 + 20 + 10 + 10 + 10) / 60)


def test_the_largest_size_is_foretold(tmp_path: Path, planned: Planned, finish: Finish) -> None:
    sweep, trials = planned(tmp_path)
    for trial in trials:
        finish(trial, trial.parameters**-0.16)
    finished = finished_trials(trials)
    numbers = sweep_numbers(sweep, trials, finished, analyze(finished))
    assert numbers["law/predicted"] == pytest.approx(numbers["law/measured"])
    assert numbers["law/measured"] == pytest.approx(finished[-1].result.mean_rel_l2)
    assert numbers["law/predicted_low"] <= numbers["law/predicted"] + 1e-9
    assert numbers["time/seconds"] == numbers["compute/device_hours"] == 0


def test_a_branch_costs_what_it_does_not_share(
    tmp_path: Path, planned: Planned, finish: Finish
) -> None:
    cooldown = "design=[{ladder: {a: {width: 64}}}, {cooldown: {trunk: 4096, at: [2048, 4096]}}]"
    sweep, trials = planned(tmp_path, "ladder=null", "windows=null", cooldown)
    for trial in trials:
        finish(trial, 0.1)
    finished = finished_trials(trials)
    numbers = sweep_numbers(sweep, trials, finished, analyze(finished))
    assert numbers["compute/total_flops"] == pytest.approx(sum(t.own_flops for t in trials))
    assert numbers["compute/total_flops"] < sum(t.train_flops for t in trials)
