"""The ids of runs, trials and generated datasets are what they were.

A changed id orphans what was made under the old one: a run that was stopped is refused, a sweep
trains its trials again, data are no longer those of their recipe. A new config field must leave
them alone where it has its default. ids.json gets new lines, such as those of a new preset; a line
that is there changes only with the numbers of its preset. Lines of a YAML file, which lies beside
it, never change.
"""

import json
from pathlib import Path

import pytest

from dpot_scale.config.load import is_preset, load_run, load_suite, load_sweep, presets
from dpot_scale.config.places import resolve_run_paths, resolve_sweep_paths
from dpot_scale.runs.resolved import identify
from dpot_scale.scaling.plan import plan

HERE = Path(__file__).parent
IDS = json.loads((HERE / "ids.json").read_text())


def read(command: str) -> tuple[str, list[str]]:
    """The preset or file that a line is about, and the overrides after it."""
    source, *overrides = command.split()
    return (source if is_preset(source) else str(HERE / source)), overrides


@pytest.mark.parametrize("command", IDS["runs"])
def test_run(command: str, tmp_path: Path) -> None:
    run = resolve_run_paths(load_run(*read(command)), tmp_path)
    assert identify(run).identity == IDS["runs"][command]


@pytest.mark.parametrize("command", IDS["trials"])
def test_trials(command: str, tmp_path: Path) -> None:
    trials = plan(resolve_sweep_paths(load_sweep(*read(command)), tmp_path))
    assert [trial.id for trial in trials] == IDS["trials"][command]


@pytest.mark.parametrize("preset", IDS["recipes"])
def test_recipes(preset: str) -> None:
    suite = load_suite(preset)
    found = {name: suite.recipe(name).split()[-1] for name in suite.datasets}
    assert found == IDS["recipes"][preset]


def test_every_preset_is_pinned() -> None:
    assert set(presets("run")) <= IDS["runs"].keys()
    assert set(presets("sweep")) <= IDS["trials"].keys()
    assert set(presets("suite")) == IDS["recipes"].keys()
