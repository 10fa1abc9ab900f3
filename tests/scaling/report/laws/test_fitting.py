"""Fits recover the law that made the points, from wherever they must start."""

import numpy as np
import pytest

from dpot_scale.scaling.report.laws.fitting import fit_form
from dpot_scale.scaling.report.laws.forms import Form
from dpot_scale.scaling.report.laws.points import Points

SIZES = np.geomspace(2e5, 8e6, 5)
WINDOWS = np.geomspace(4e3, 6.4e4, 5)
# What Besiroglu et al. 2024 (arXiv 2404.10102) fit to the models of Hoffmann et al. 2022, and the
# numbers of FLOPs at which these were trained.
CHINCHILLA = {"E": 1.8172, "A": 482.01, "a": 0.3478, "B": 2085.43, "b": 0.3658}
CHINCHILLA_FLOPS = (6e18, 1e19, 3e19, 6e19, 1e20, 3e20, 6e20, 1e21, 3e21)


def fitted(points: Points, huber: float | None = None, **terms: bool) -> dict[str, float]:
    form = Form.of(points, **terms)
    theta = fit_form(form, points, huber)
    return {name: float(values[0]) for name, values in form.named(theta[None]).items()}


@pytest.mark.parametrize("exponent", [-0.1, 0.0, 0.05, 0.16, 0.9])
def test_a_power_is_recovered(exponent: float) -> None:
    found = fitted(Points.of(SIZES, 3.0 * SIZES**-exponent))
    assert found == pytest.approx({"A": 3.0, "a": exponent}, rel=1e-6, abs=1e-9)


def test_a_power_above_a_floor_is_recovered() -> None:
    found = fitted(Points.of(SIZES, 0.02 + 3.0 * SIZES**-0.4), floor=True)
    assert found == pytest.approx({"E": 0.02, "A": 3.0, "a": 0.4}, rel=1e-3)


@pytest.mark.parametrize(
    "truth",
    [
        {"E": 0.02, "A": 3.0, "a": 0.3, "B": 5.0, "b": 0.3},
        {"E": 0.0, "A": 40.0, "a": 0.6, "B": 1.0, "b": 0.12},  # hardly the same to both sides
        {"E": 0.05, "A": 0.3, "a": 0.1, "B": 900.0, "b": 0.9},
    ],
)
def test_a_law_of_size_and_data_is_recovered(truth: dict[str, float]) -> None:
    sizes, windows = (axis.ravel() for axis in np.meshgrid(SIZES, WINDOWS))
    errors = truth["E"] + truth["A"] * sizes ** -truth["a"] + truth["B"] * windows ** -truth["b"]
    found = fitted(Points.of(sizes, errors, windows=windows), floor=True, data=True)
    assert found == pytest.approx(truth, rel=2e-2, abs=2e-4)


def test_the_worth_of_repeats_is_recovered() -> None:
    sizes, windows, distinct = (
        axis.ravel() for axis in np.meshgrid(SIZES, WINDOWS, [2e3, 8e3, 6.4e4])
    )
    distinct = np.minimum(distinct, windows)
    effective = distinct * (1 + 6 * (1 - np.exp(-(windows / distinct - 1) / 6)))
    errors = 0.02 + 3.0 * sizes**-0.3 + 5.0 * effective**-0.3
    points = Points.of(sizes, errors, windows=windows, distinct=distinct)
    found = fitted(points, floor=True, data=True, repeats=True)
    truth = {"E": 0.02, "A": 3.0, "a": 0.3, "B": 5.0, "b": 0.3, "R": 6.0}
    assert found == pytest.approx(truth, rel=1e-2)


def test_an_outlier_moves_a_law_little() -> None:
    errors = 3.0 * np.geomspace(2e5, 8e6, 12) ** -0.16
    errors[4] *= 1.5
    found = fitted(Points.of(np.geomspace(2e5, 8e6, 12), errors))
    least_squares = fitted(Points.of(np.geomspace(2e5, 8e6, 12), errors), huber=np.inf)
    assert abs(found["a"] - 0.16) < 0.3 * abs(least_squares["a"] - 0.16)


def chinchilla_points(deviation: float) -> Points:
    """Return losses by the published refit at sizes around the optimum of each number of FLOPs."""
    sizes, flops = (
        axis.ravel() for axis in np.meshgrid(np.geomspace(0.1, 10, 27), CHINCHILLA_FLOPS)
    )
    sizes = sizes * 0.6 * (flops / 6) ** 0.5 / 4.5  # about 20 tokens per parameter in the middle
    windows = flops / (6 * sizes)
    law = CHINCHILLA
    losses = law["E"] + law["A"] * sizes ** -law["a"] + law["B"] * windows ** -law["b"]
    noise = np.random.default_rng(0).standard_t(3, len(sizes))
    return Points.of(sizes, losses * np.exp(deviation * noise), windows=windows)


def test_the_published_refit_of_chinchilla_is_reproduced_from_its_losses() -> None:
    found = fitted(chinchilla_points(0.0), huber=1e-3, floor=True, data=True)
    assert found == pytest.approx(CHINCHILLA, rel=2e-3)


def test_noisy_losses_of_chinchilla_give_its_law_within_the_published_errors() -> None:
    """They give standard errors of 0.015 for a, 0.021 for b and 0.026 for E."""
    found = fitted(chinchilla_points(0.003), huber=1e-3, floor=True, data=True)
    assert abs(found["a"] - CHINCHILLA["a"]) < 2 * 0.015
    assert abs(found["b"] - CHINCHILLA["b"]) < 2 * 0.021
    assert abs(found["E"] - CHINCHILLA["E"]) < 2 * 0.026
