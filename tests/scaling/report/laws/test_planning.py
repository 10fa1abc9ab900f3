"""What a plan learns from the present law: which points would narrow it."""

import numpy as np

from dpot_scale.scaling.report.laws.choice import choose
from dpot_scale.scaling.report.laws.fit import Fit
from dpot_scale.scaling.report.laws.planning import expected_width
from dpot_scale.scaling.report.laws.points import Points

NONE = Points.at([], [])


def measured(count: int = 5) -> Fit:
    sizes = np.geomspace(2e5, 8e6, count)
    noise = np.exp(0.02 * np.random.default_rng(0).standard_normal(count))
    law = choose(Points.of(sizes, 3.0 * sizes**-0.16 * noise))
    assert isinstance(law, Fit)
    return law


def test_the_width_of_now_is_that_of_the_bootstrap() -> None:
    law, at = measured(), Points.at([1e6, 3e7], 1)
    low, high = law.band(at)
    np.testing.assert_allclose(expected_width(law, NONE, at), np.log(high / low), rtol=0.15)


def test_with_a_floor_the_width_is_about_that_of_the_bootstrap() -> None:
    law, at = measured(8), Points.at([1e6, 3e7], 1)
    assert law.form.floor
    low, high = law.band(at)
    np.testing.assert_allclose(expected_width(law, NONE, at), np.log(high / low), rtol=0.4)


def test_a_point_at_the_end_narrows_more_than_one_in_the_middle() -> None:
    law, at = measured(), Points.at([1e8], 1)
    now = expected_width(law, NONE, at)
    middle = expected_width(law, Points.at([1e6], 1), at)
    end = expected_width(law, Points.at([3e7], 1), at)
    assert end < middle < now


def test_what_has_no_share_in_a_law_is_held() -> None:
    """A floor of 0 leaves its own parameter open; the others are known nevertheless."""
    sizes, windows = (
        axis.ravel() for axis in np.meshgrid(np.geomspace(2e5, 8e6, 4), np.geomspace(2e3, 6e4, 4))
    )
    noise = np.exp(0.01 * np.random.default_rng(0).standard_normal(16))
    errors = (3.0 * sizes**-0.3 + 5.0 * windows**-0.3) * noise
    law = choose(Points.of(sizes, errors, windows=windows))
    assert isinstance(law, Fit)
    width = expected_width(law, NONE, Points.at([8e6], [6e4]))
    assert 0.005 < width[0] < 0.1
