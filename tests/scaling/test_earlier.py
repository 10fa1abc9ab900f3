"""A design that changes keeps the trials before, and its report takes them in."""

import csv
from pathlib import Path

import pytest

from dpot_scale.config.load import dump, load_sweep
from dpot_scale.config.places import RUN_CONFIG, SWEEP_CONFIG, resolve_sweep_paths
from dpot_scale.config.sweep import SweepConfig
from dpot_scale.errors import ConfigError
from dpot_scale.runs.contents import record
from dpot_scale.runs.result import save_result
from dpot_scale.scaling.earlier import earlier_trials, record_point, require_same_sweep
from dpot_scale.scaling.journal import Journal
from dpot_scale.scaling.plan import Trial, plan
from dpot_scale.scaling.report.write import RESULTS, write_report
from tests.results import result_of


def sweep_of(folder: Path, *settings: str) -> SweepConfig:
    services = ("run.tracking.mlflow_uri=null", "run.data.suite=null")
    return resolve_sweep_paths(load_sweep("quickstart", [*services, *settings]), folder)


def finish(trial: Trial) -> None:
    """Leave what the controller and the workers of a trial do."""
    directory = trial.run.directory
    directory.mkdir(parents=True, exist_ok=True)
    (directory / RUN_CONFIG).write_text(dump(trial.run))
    record_point(trial)
    save_result(directory, result_of(trial, datasets=dict(trial.contents.datasets)))


@pytest.fixture
def first(tmp_path: Path) -> tuple[SweepConfig, tuple[Trial, ...]]:
    """A sweep of two lengths, of which all but one trial have finished."""
    sweep = sweep_of(tmp_path, "windows=[800, 1600]")
    trials = plan(sweep)
    sweep.directory.mkdir(parents=True)
    (sweep.directory / SWEEP_CONFIG).write_text(dump(sweep))
    record(sweep.directory, trials[0].contents)
    for trial in trials:
        Journal(sweep.directory).record(trial.id, "started", attempt=1)
    for trial in trials[1:]:
        finish(trial)
    return sweep, trials


def test_another_design_has_the_trials_before_in_its_report(
    first: tuple[SweepConfig, tuple[Trial, ...]], tmp_path: Path
) -> None:
    _, before = first
    sweep = sweep_of(tmp_path, "windows=[1600]", "design=[{seeds: [0, 1]}]")
    trials = plan(sweep)
    require_same_sweep(sweep, trials)
    kept = {trial.id for trial in trials} & {trial.id for trial in before}
    assert len(kept) == 4, "by the runs that they are, under their old names"
    earlier = earlier_trials(sweep, trials)
    assert {t.id for t in earlier} == {t.id for t in before[1:]} - kept
    originals = {trial.id: trial for trial in before}
    for trial in earlier:
        original = originals[trial.id]
        assert (trial.label, trial.factors) == (original.label, original.factors)
        assert trial.run == original.run
        assert trial.parameters == original.parameters
    write_report(sweep, (*trials, *earlier))
    with (sweep.directory / RESULTS).open() as file:
        assert {row["trial"] for row in csv.DictReader(file)} == {t.id for t in before[1:]}


def test_a_trial_before_designs_has_the_label_of_its_name(
    first: tuple[SweepConfig, tuple[Trial, ...]], tmp_path: Path
) -> None:
    _, before = first
    for path in tmp_path.glob("**/point.json"):
        path.unlink()
    sweep = sweep_of(tmp_path, "windows=[1600]")
    (*_, last) = earlier_trials(sweep, plan(sweep))
    assert last.factors == {"size": last.label, "windows": 800}
    assert last.label in {trial.label for trial in before}


@pytest.mark.parametrize(
    "setting",
    [
        "run.objective.noise=0.5",
        "rules={weight_decay: {of: width, at: 1, value: 1e-3, power: 0}}",
        "run.batch.global_batch=16",
    ],
)
def test_trials_of_another_run_are_not_taken_in(
    setting: str, first: tuple[SweepConfig, tuple[Trial, ...]], tmp_path: Path
) -> None:
    sweep = sweep_of(tmp_path, "windows=[1600]", setting)
    with pytest.raises(ConfigError, match=r"holds a sweep of another config .*, which started"):
        require_same_sweep(sweep, plan(sweep))
