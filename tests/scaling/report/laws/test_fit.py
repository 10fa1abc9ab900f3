"""Intervals hold what they promise: 95 % of them have the truth inside, give or take."""

from collections.abc import Callable

import numpy as np
import pytest

from dpot_scale.scaling.report.laws.fit import LACK_OF_FIT, Fit, fit, measure_noise
from dpot_scale.scaling.report.laws.forms import Form
from dpot_scale.scaling.report.laws.points import Array, Points

EXPERIMENTS = 200
LEAST, MOST = 0.90, 0.98  # of the experiments
SIZES = np.geomspace(2e5, 8e6, 4)
EIGHT = np.geomspace(1e5, 1e7, 8)
WINDOWS = np.geomspace(2e3, 6.4e4, 4)
FAR = Points.at([3e7], [1e5])  # beyond every point


def of_size(sizes: Array, windows: Array) -> Array:
    return 3.0 * sizes**-0.16 + 0 * windows


def with_floor(sizes: Array, windows: Array) -> Array:
    return 0.13 + 38.0 * sizes**-0.43 + 0 * windows


def of_both(sizes: Array, windows: Array) -> Array:
    return 0.02 + 3.0 * sizes**-0.3 + 5.0 * windows**-0.3


def experiments(
    truth: Callable[[Array, Array], Array],
    sizes: Array,
    windows: Array,
    seeds: int,
    **terms: bool,
) -> list[tuple[Fit, float]]:
    """Return fits to noisy errors of 200 sweeps, and a new trial of each far away."""
    sizes, lengths = (np.tile(axis.ravel(), seeds) for axis in np.meshgrid(sizes, windows))
    rng = np.random.default_rng(0)
    found = []
    for seed in range(EXPERIMENTS):
        noise = np.exp(0.02 * rng.standard_normal(len(sizes)))
        points = Points.of(sizes, truth(sizes, lengths) * noise, windows=lengths)
        new = truth(FAR.sizes, FAR.windows)[0] * np.exp(0.02 * rng.standard_normal())
        found.append((fit(Form.of(points, **terms), points, draws=100, seed=seed), float(new)))
    return found


@pytest.mark.parametrize(
    ("truth", "sizes", "windows", "seeds", "terms", "exponents"),
    [
        (of_size, SIZES, WINDOWS[:1], 1, {}, {"a": 0.16}),
        (of_size, SIZES, WINDOWS[:1], 2, {}, {"a": 0.16}),
        (with_floor, EIGHT, WINDOWS[:1], 1, {"floor": True}, {"a": 0.43}),
        (of_both, SIZES, WINDOWS, 1, {"floor": True, "data": True}, {"a": 0.3, "b": 0.3}),
    ],
    ids=["four sizes", "four sizes, two seeds", "a floor", "sizes and lengths"],
)
def test_intervals_cover_the_truth(
    truth: Callable[[Array, Array], Array],
    sizes: Array,
    windows: Array,
    seeds: int,
    terms: dict[str, bool],
    exponents: dict[str, float],
) -> None:
    found = experiments(truth, sizes, windows, seeds, **terms)
    far = truth(FAR.sizes, FAR.windows)[0]
    inside = {
        "law": [low[0] <= far <= high[0] for law, _ in found for low, high in [law.band(FAR)]],
        "trial": [one.low <= new <= one.high for law, new in found for one in law.foresee(FAR)],
    }
    for name, exponent in exponents.items():
        intervals = [law.parameters()[name] for law, _ in found]
        inside[name] = [one.low <= exponent <= one.high for one in intervals]
    shares = {name: float(np.mean(hits)) for name, hits in inside.items()}
    assert all(LEAST <= share <= MOST for share in shares.values()), shares


def test_a_law_says_itself() -> None:
    points = Points.of(SIZES, 3.0 * SIZES**-0.16)
    assert str(fit(Form.of(points), points)) == "3 N^-0.160"
    sizes, windows = (axis.ravel() for axis in np.meshgrid(SIZES, WINDOWS))
    points = Points.of(sizes, of_both(sizes, windows), windows=windows)
    law = fit(Form.of(points, floor=True, data=True), points)
    assert str(law) == "0.02 + 3 N^-0.300 + 5 D^-0.300"
    assert law.predict(FAR) == pytest.approx(of_both(FAR.sizes, FAR.windows), rel=1e-3)
    assert str(law.parameters()["a"]) == "0.3 (95 %: 0.3 to 0.3)"


def test_the_same_points_give_the_same_draws() -> None:
    points = Points.of(SIZES, 3.0 * SIZES**-0.16 * [1.01, 0.99, 1.02, 0.98])
    first, again = (fit(Form.of(points), points, draws=10) for _ in range(2))
    assert (first.draws_zk == again.draws_zk).all()


def test_a_law_needs_more_points_than_parameters() -> None:
    points = Points.of(SIZES[:2], [0.2, 0.1])
    with pytest.raises(ValueError, match="2 points leave no freedom to 2 parameters"):
        fit(Form.of(points), points)


def test_seeds_tell_noise_from_a_law_that_does_not_hold() -> None:
    """Where sizes leave the law by more than seeds differ, these do not narrow its interval."""
    sizes = np.tile(SIZES, 3)
    seeds = np.exp(0.001 * np.random.default_rng(0).standard_normal(len(sizes)))
    off = np.tile([1.05, 0.95, 0.95, 1.05], 3)
    holds = Points.of(sizes, 3.0 * sizes**-0.16 * seeds)
    bends = Points.of(sizes, 3.0 * sizes**-0.16 * off * seeds)
    form = Form.of(holds)
    theta = np.array([np.log(3.0 * form.size_unit**-0.16), 0.16])
    noise = measure_noise(form, theta, holds)
    assert noise.lack_of_fit > LACK_OF_FIT
    assert noise.freedom == 2 + 8  # of sizes and of seeds
    assert noise.deviation == pytest.approx(0.001, rel=0.4)
    noise = measure_noise(form, theta, bends)
    assert noise.lack_of_fit < 1e-6
    assert noise.freedom == 2
    assert noise.deviation > 0.05


def test_an_interval_lies_about_its_value() -> None:
    """A floor near the least error, which draws of that error may well be below."""
    noise = np.exp(0.03 * np.random.default_rng(0).standard_normal(8))
    points = Points.of(EIGHT, with_floor(EIGHT, EIGHT) * noise)
    law = fit(Form.of(points, floor=True), points)
    for interval in law.parameters().values():
        assert interval.low < interval.value < interval.high
    floors = law.form.named(law.draws_zk)["E"]
    assert np.median(floors) == pytest.approx(law.parameters()["E"].value, rel=0.1)
