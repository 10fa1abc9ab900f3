"""The sweeps in benchmarks/ can be planned, and one begins at a trial of the other."""

from pathlib import Path

from dpot_scale.config.load import load_sweep
from dpot_scale.config.places import resolve_sweep_paths
from dpot_scale.scaling.plan import Trial, plan

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def trials_of(name: str, home: Path) -> list[Trial]:
    return plan(resolve_sweep_paths(load_sweep(str(BENCHMARKS / name), []), home))


def test_the_law_has_three_families_of_five_sizes_at_four_lengths(tmp_path: Path) -> None:
    trials = trials_of("law.yaml", tmp_path)
    assert len(trials) == 3 * 5 * 4 * 2
    assert max(trial.parameters for trial in trials) >= 8e6
    assert sum(trial.after is None for trial in trials) == 3 * 5 * 2


def test_what_starts_from_the_law_names_a_trial_of_it(tmp_path: Path) -> None:
    places = {trial.run.directory for trial in trials_of("law.yaml", tmp_path)}
    config = load_sweep(str(BENCHMARKS / "few_trajectories.yaml"), [])
    sources = [entry.start["pretrained"] for entry in config.design if entry.start]
    assert len(sources) == 1
    assert tmp_path / sources[0] in places
