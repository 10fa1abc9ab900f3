"""What benchmarks/recipe.py makes of trainings."""

import math
import runpy
from pathlib import Path

import pytest

from dpot_scale.config.load import load_run

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "recipe.py"
found = runpy.run_path(str(SCRIPT))
Trained, flops_at, interval = found["Trained"], found["flops_at"], found["interval"]
CONFIG, RECIPES = found["CONFIG"], found["RECIPES"]


def trained(flops, error, **others):
    scores = {"a": error, "b": error} | others
    return Trained("r", "E64", 1, 0, flops, 1.0, scores, scores, scores, scores)


def test_an_error_counts_at_most_as_that_of_a_forecast_of_zeros():
    assert trained(1.0, 0.2, b=18.0).error == pytest.approx(0.6)


def test_flops_are_interpolated_on_the_frontier_alone():
    runs = [trained(1e12, 0.1), trained(1e10, 0.4), trained(3e10, 0.5), trained(1e13, 0.2)]
    # From (1e10, 0.4) to (1e12, 0.1) the error falls as FLOPs^-0.301.
    assert flops_at(0.2, runs) == pytest.approx(1e11)
    assert flops_at(0.1, runs) == pytest.approx(1e12)
    assert flops_at(0.7, runs) == 1e10


def test_an_error_that_is_never_reached_is_said():
    with pytest.raises(SystemExit, match=r"no training reaches 0\.0500; the best has 0\.1000"):
        flops_at(0.05, [trained(1e12, 0.1)])


def test_the_interval_is_that_of_logarithms():
    low, high = interval([1.0, 4.0, 16.0])
    # Mean log 4, standard deviation log 4, t(0.975, 2) = 4.3027.
    assert low * high == pytest.approx(16)
    assert math.log(high / 4) == pytest.approx(4.302653 * math.log(4) / 3**0.5)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_is_a_config(recipe):
    assert load_run(str(CONFIG), RECIPES[recipe]).data.weights.keys() == {
        "ns2d", "dr", "swe", "cns", "smoke", "cylinder"
    }  # fmt: skip
