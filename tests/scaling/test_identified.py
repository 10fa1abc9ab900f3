"""A trial keeps its folder when the design around it changes."""

from pathlib import Path

import pytest

from dpot_scale.config.load import dump, load_sweep
from dpot_scale.config.places import RUN_CONFIG
from dpot_scale.errors import ConfigError
from dpot_scale.scaling.identified import trials_directory
from dpot_scale.scaling.plan import Trial, plan


def begin(trial: Trial) -> None:
    trial.run.directory.mkdir(parents=True)
    (trial.run.directory / RUN_CONFIG).write_text(dump(trial.run))


def test_seeds_that_are_added_find_the_trials_before(tmp_path: Path) -> None:
    """The first seed was that of the run, and its label did not say so."""
    place = f"run.output={tmp_path}"
    before = plan(load_sweep("quickstart", [place]))
    for trial in before:
        begin(trial)
    after = plan(load_sweep("quickstart", [place, "design=[{seeds: [0, 1]}]"]))
    assert len(after) == 2 * len(before)
    first = [trial for trial in after if trial.factors["seed"] == 0]
    assert [trial.id for trial in first] == [trial.id for trial in before]
    second = [trial for trial in after if trial.factors["seed"] == 1]
    assert all("-s1_w4096_" in trial.id for trial in second)
    folder = trials_directory(load_sweep("quickstart", [place]))
    assert {trial.run.directory.parent for trial in after} == {folder}


def test_more_trajectories_than_any_dataset_has_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # which has no data
    design = "design=[{data: {trajectories: [64, 128, 129]}}]"
    sentence = "^trial E64-t129: no dataset has 129 training trajectories; the largest has 128$"
    with pytest.raises(ConfigError, match=sentence):
        plan(load_sweep("quickstart", [design]))
    # Of datasets that are nowhere nobody knows.
    assert len(plan(load_sweep("quickstart", [design, "run.data.suite=null"]))) == 12
