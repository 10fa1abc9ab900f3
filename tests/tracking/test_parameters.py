"""A trial says in MLflow what sets it apart, its sweep the rest, and nobody says None."""

from dpot_scale.config.load import load_sweep
from dpot_scale.scaling.plan import plan
from dpot_scale.tracking.parameters import (
    described,
    differing,
    run_parameters,
    sweep_parameters,
    trial_parameters,
)


def test_trials_and_their_sweep_share_the_parameters() -> None:
    sweep = load_sweep("quickstart", ["windows=[512,1024]"])
    trials = plan(sweep)
    apart = differing([trial.run for trial in trials])
    assert apart == {"windows", "model.width"}
    largest = trials[-1]
    own = trial_parameters(largest.run, largest.label, apart)
    assert own["size"] == "Ti"
    assert (own["model.width"], own["model.depth"], own["windows"]) == ("512", "4", "1024")
    of_sweep = sweep_parameters(sweep, apart)
    assert of_sweep["optim.lr"] == "0.002"
    assert of_sweep["resources.workers"] == "2"
    assert not apart & of_sweep.keys()
    assert "optim.lr" not in own
    for params in (own, of_sweep, run_parameters(largest.run)):
        assert not {"None", "[]"} & set(params.values())
        assert not {"name", "output", "tracking.mlflow_uri"} & params.keys()


def test_a_design_in_one_line() -> None:
    assert described(load_sweep("quickstart", [])) == "ladder: E64, E128, E256, Ti; windows: 4096"
    law = described(load_sweep("law", []))
    assert law.startswith("ladder: family dpot, parameters 100000.0, 200000.0, ..., 6400000.0; ")
    assert "cooldown: trunk 16384, at 2048, 4096, 8192, 16384; seeds: 0, 1" in law
