"""The best size and length against a search, and parabolas against their vertex."""

import numpy as np
import pytest

from dpot_scale.scaling.report.laws.choice import NoFit, choose
from dpot_scale.scaling.report.laws.fit import Fit
from dpot_scale.scaling.report.laws.optimum import (
    Parabola,
    WindowCost,
    compute_optimal,
    isoflop_parabolas,
    least_within,
    optimal_exponent,
)
from dpot_scale.scaling.report.laws.points import Array, Points

COST = WindowCost(coefficient=100.0, exponent=0.9)


def error(sizes: Array, windows: Array) -> Array:
    return 0.02 + 30.0 * sizes**-0.4 + 5.0 * windows**-0.3


def law() -> Fit:
    sizes, windows = (
        axis.ravel() for axis in np.meshgrid(np.geomspace(1e5, 1e7, 5), np.geomspace(2e3, 1e5, 5))
    )
    found = choose(Points.of(sizes, error(sizes, windows), windows=windows))
    assert isinstance(found, Fit)
    return found


def test_the_cost_of_windows_is_found() -> None:
    sizes = np.array([1e5, 1e6, 1e7])
    found = WindowCost.of(sizes, COST.flops(sizes))
    assert (found.coefficient, found.exponent) == (pytest.approx(100.0), pytest.approx(0.9))
    assert WindowCost.of(sizes[:1], np.array([6e5])).flops(sizes[:1]) == pytest.approx([6e5])
    assert found.size(found.flops(sizes[1:2])[0]) == pytest.approx(sizes[1])
    alike = WindowCost.of(sizes, np.full(len(sizes), 6e5))
    assert [alike.size(flops) for flops in (1e5, 1e6)] == [0.0, np.inf]


@pytest.mark.parametrize("flops", [1e11, 1e13])
def test_no_other_size_of_equal_flops_is_better(flops: float) -> None:
    (best,) = compute_optimal(law(), COST, [flops])
    sizes = np.geomspace(1e3, 1e9, 100_001)
    errors = error(sizes, flops / COST.flops(sizes))
    assert best.size.value == pytest.approx(sizes[errors.argmin()], rel=0.01)
    assert best.error.value == pytest.approx(errors.min(), rel=1e-3)
    spent = COST.flops(np.array([best.size.value])) * best.windows.value
    assert spent == pytest.approx([flops])


def test_within_what_was_measured_no_other_size_and_length_is_better() -> None:
    measured = law()
    budgets = COST.flops(np.array([1e5, 1e6, 1e7])) * np.array([3e3, 1e4, 1e5])
    few, *least = least_within(measured, COST, [COST.flops(np.array([1e5]))[0] * 1e3, *budgets])
    assert np.isnan(few.value)  # too few for the smallest size at the shortest length
    sizes, windows = np.meshgrid(np.geomspace(1e5, 1e7, 400), np.geomspace(2e3, 1e5, 400))
    for flops, found in zip(budgets, least, strict=True):
        affordable = COST.flops(sizes) * windows <= flops * (1 + 1e-9)
        best = error(sizes, windows)[affordable].min()
        assert found.value == pytest.approx(best, rel=5e-3)
        assert found.low <= found.value <= found.high


def test_chinchilla_s_optimum_follows_from_its_published_law() -> None:
    """By the refit of arXiv 2404.10102 Gopher's 5.76e23 FLOPs want a model of about 70 G."""
    sizes, windows = (
        axis.ravel() for axis in np.meshgrid(np.geomspace(5e7, 1e10, 8), np.geomspace(1e9, 1e12, 8))
    )
    losses = 1.8172 + 482.01 * sizes**-0.3478 + 2085.43 * windows**-0.3658
    found = choose(Points.of(sizes, losses, windows=windows))
    assert isinstance(found, Fit)
    six = WindowCost(coefficient=6.0, exponent=1.0)
    low, gopher = compute_optimal(found, six, [1e20, 5.76e23])
    exponent = np.log(gopher.size.value / low.size.value) / np.log(5.76e23 / 1e20)
    assert exponent == pytest.approx(0.3658 / (0.3478 + 0.3658), abs=0.002)
    assert 5e10 < gopher.size.value < 9e10
    assert 15 < gopher.windows.value / gopher.size.value < 30


def isoflop(budgets: list[float], sizes: Array) -> tuple[Points, Array]:
    every = np.concatenate([sizes] * len(budgets))
    windows = np.concatenate([budget / COST.flops(sizes) for budget in budgets])
    points = Points.of(every, error(every, windows), windows=windows)
    return points, COST.flops(points.sizes) * points.windows


def test_parabolas_find_about_the_optimum_of_the_law() -> None:
    budgets = [1e12, 1e13, 1e14]
    (middle,) = compute_optimal(law(), COST, budgets[1:2])
    points, flops = isoflop(budgets, middle.size.value * np.geomspace(0.1, 10, 7))
    found = [one for one in isoflop_parabolas(points, flops) if isinstance(one, Parabola)]
    assert [one.flops for one in found] == pytest.approx(budgets)
    assert found[1].size == pytest.approx(middle.size.value, rel=0.3)
    assert found[1].error == pytest.approx(middle.error.value, rel=0.02)
    exponent = optimal_exponent(found)
    assert not isinstance(exponent, NoFit)
    assert exponent.value == pytest.approx(0.3 / (0.4 + 0.9 * 0.3), abs=0.1)


def test_an_optimum_beyond_the_sizes_is_not_invented() -> None:
    points, flops = isoflop([1e10], np.geomspace(1e6, 1e8, 5))
    (found,) = isoflop_parabolas(points, flops)
    assert str(found) == "at 1e+10 FLOPs the smallest size is best, so the optimum lies beyond it"


def test_two_sizes_of_equal_flops_are_no_parabola() -> None:
    points, flops = isoflop([1e12], np.array([1e5, 1e6]))
    assert isoflop_parabolas(points, flops) == []
    assert str(optimal_exponent([])) == ("0 budgets with an optimum: a law of it needs at least 3")
