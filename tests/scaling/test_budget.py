"""Which trials narrow the law most for a budget."""

from pathlib import Path

import numpy as np
import pytest

from dpot_scale.config.load import load_sweep
from dpot_scale.config.places import resolve_sweep_paths
from dpot_scale.config.sweep import SweepConfig
from dpot_scale.errors import ConfigError
from dpot_scale.scaling.budget import choose_trials
from dpot_scale.scaling.plan import Trial, plan
from dpot_scale.scaling.plan_text import device_hours, plan_table
from dpot_scale.scaling.stopping import cancel
from tests import results

SIZES = "ladder: {parameters: [2e5, 4e5, ..., 1.3e7]}"


def planned(folder: Path, *design: str) -> tuple[SweepConfig, tuple[Trial, ...]]:
    entries = ", ".join(f"{{{entry}}}" for entry in design)
    settings = [f"design=[{entries}]", "run.data.suite=null"]
    sweep = resolve_sweep_paths(load_sweep("quickstart", settings), folder)
    return sweep, plan(sweep)


def finish(trial: Trial) -> None:
    """Leave a result on a law with a little noise."""
    noise = np.random.default_rng(trial.parameters + trial.run.seed).normal(scale=0.02)
    error = float(0.02 + 8 * trial.parameters**-0.35) * float(np.exp(noise))
    results.finish(trial, error, windows_per_second=1.0)


def test_what_narrows_the_law_is_taken_and_paid_for(tmp_path: Path) -> None:
    sweep, trials = planned(tmp_path, SIZES, "seeds: [0, 1, 2]", "windows: [4096]")
    for trial in trials:
        if trial.parameters < 3e6 and trial.run.seed == 0:
            finish(trial)
    left = [t for t in trials if not t.run.directory.exists()]
    hours = sum(device_hours(sweep, trial) for trial in left)
    for share in (0.2, 0.5):
        choice = choose_trials(sweep, trials, (), share * hours)
        spent = sum(device_hours(sweep, trial) for trial in choice.trials)
        assert choice.hours == pytest.approx(spent)
        assert spent <= share * hours
        assert {t.id for t in choice.trials} <= {t.id for t in left}
        now, then = (
            float(word) for word in choice.words.split() if word[0].isdigit() and "." in word
        )
        assert 1 < then < now
    everything = choose_trials(sweep, trials, (), hours + 1e-9)
    assert {trial.id for trial in everything.trials} == {trial.id for trial in left}


def test_without_a_law_the_cheapest_are_taken(tmp_path: Path) -> None:
    sweep, trials = planned(tmp_path, SIZES, "windows: [4096]")
    hours = sum(device_hours(sweep, trial) for trial in trials[:3])
    choice = choose_trials(sweep, trials, (), hours + 1e-9)
    assert choice.trials == trials[:3]
    assert choice.words.startswith("there is no law to narrow yet")


def test_a_branch_is_bought_with_its_trunk(tmp_path: Path) -> None:
    sweep, trials = planned(
        tmp_path, "ladder: {a: {width: 32}}", "cooldown: {trunk: 8000, at: [800]}"
    )
    branch, trunk = trials
    alone = device_hours(sweep, branch)
    with pytest.raises(ConfigError, match="pay for no trial"):
        choose_trials(sweep, trials, (), 1.01 * alone)
    choice = choose_trials(sweep, trials, (), alone + device_hours(sweep, trunk) + 1e-9)
    assert {trial.id for trial in choice.trials} == {branch.id, trunk.id}


def test_a_branch_of_a_finished_trunk_is_bought_alone(tmp_path: Path) -> None:
    sweep, trials = planned(
        tmp_path, "ladder: {a: {width: 32}}", "cooldown: {trunk: 8000, at: [800]}"
    )
    branch, trunk = trials
    finish(trunk)
    choice = choose_trials(sweep, trials, (), 1)
    assert choice.trials == (branch,)
    assert branch.id in plan_table(sweep, choice.trials)


def test_what_was_cancelled_is_not_bought(tmp_path: Path) -> None:
    sweep, trials = planned(tmp_path, SIZES, "cooldown: {trunk: 8000, at: [800]}")
    trunk = next(trial for trial in trials if trial.after is None)
    trunk.run.directory.mkdir(parents=True)
    cancel(trunk.run.directory)
    found = {trial.id for trial in choose_trials(sweep, trials, (), 1000).trials}
    of_trunk = {trial.id for trial in trials if trial.after and trial.after.trial == trunk.id}
    assert found == {trial.id for trial in trials} - of_trunk - {trunk.id}


def test_a_finished_sweep_has_nothing_to_buy(tmp_path: Path) -> None:
    sweep, trials = planned(tmp_path, "windows: [4096]")
    for trial in trials:
        finish(trial)
    with pytest.raises(ConfigError, match="nothing is left to buy"):
        choose_trials(sweep, trials, (), 1)
