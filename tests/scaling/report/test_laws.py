"""Fits recover the law that made the points."""

import numpy as np
import pytest

from dpot_scale.scaling.report.laws import fit_power_law

SIZES = [2e5, 1e6, 8e6, 5e8]


def test_an_exact_law_is_recovered() -> None:
    law = fit_power_law(SIZES, [3.0 * size**-0.16 for size in SIZES])
    assert law is not None
    assert law.coefficient == pytest.approx(3.0)
    assert law.exponent == pytest.approx(0.16)
    assert law.exponent_error == pytest.approx(0, abs=1e-6)
    assert law.r_squared == pytest.approx(1)
    assert str(law) == "3 N^-0.160 (exponent +- 0.000, R2 1.000)"
    assert law.predict([1e9]) == pytest.approx([3.0 * 1e9**-0.16])


def test_noise_shows_in_the_error_of_the_exponent() -> None:
    noise = np.exp(0.05 * np.random.default_rng(0).standard_normal(50))
    sizes = np.geomspace(1e5, 1e9, 50)
    law = fit_power_law(list(sizes), list(2.0 * sizes**-0.2 * noise))
    assert law is not None
    assert abs(law.exponent - 0.2) < 4 * law.exponent_error
    assert 0 < law.exponent_error < 0.01


@pytest.mark.parametrize("sizes", [[], [1e6], [1e6, 1e6], [1e5, 1e6], [1e5, 1e6, 1e6]])
def test_two_sizes_decide_no_law(sizes: list[float]) -> None:
    assert fit_power_law(sizes, [0.5] * len(sizes)) is None


def test_a_rising_error_has_a_negative_exponent() -> None:
    law = fit_power_law([1e5, 1e6, 1e7], [0.1, 0.2, 0.3])
    assert law is not None
    assert law.exponent < 0


def test_errors_that_are_not_finite_are_left_out() -> None:
    errors = [3.0 * size**-0.16 for size in SIZES]
    law = fit_power_law([*SIZES, 1e6, 2e6], [*errors, float("nan"), float("inf")])
    assert law is not None
    assert law.exponent == pytest.approx(0.16)
    assert fit_power_law(SIZES[:3], [0.1, float("nan"), 0.05]) is None
