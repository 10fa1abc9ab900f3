"""Which law is taken, and the reasons why there is none."""

import warnings

import numpy as np
import pytest

from dpot_scale.scaling.report.laws.choice import NoFit, choose, foretell_largest
from dpot_scale.scaling.report.laws.fit import Fit
from dpot_scale.scaling.report.laws.points import Points

SIZES = np.geomspace(2e5, 8e6, 4)
# The pre-trained DPOT models (Hao et al. 2024, tables 1 and 2): parameters, and relative L2 on
# twelve datasets.
PUBLISHED_SIZES = [7_534_643, 30_801_459, 122_125_875, 509_018_739, 1_031_082_099]
PUBLISHED = np.array(
    [
        [.0976, .0606, .00954, .0173, .0397, .0132, .0220, .00560, .0321, .125, .384, .00952],
        [.0553, .0442, .0131, .0153, .0337, .0118, .0188, .00657, .0379, .0999, .316, .00696],
        [.0409, .0285, .00474, .0116, .0238, .00866, .0129, .00290, .0292, .0812, .276, .00752],
        [.0550, .0274, .00528, .0100, .0216, .00872, .0115, .00233, .0232, .0798, .240, .00650],
        [.0174, .0131, .00229, .00961, .0180, .00847, .0105, .00199, .0191, .0379, .213, .00749],
    ]
)  # fmt: skip


def reason(sizes: object, errors: object, **others: object) -> str:
    found = choose(Points.of(sizes, errors, **others))  # type: ignore[arg-type]
    assert isinstance(found, NoFit)
    return found.reason


def test_wild_draws_through_three_points_warn_nobody() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for errors in ([0.2, 0.2, 0.2], [0.1, 0.2, 0.3], [0.3, 0.1, 0.2]):
            assert isinstance(choose(Points.of([1e5, 1e6, 1e7], errors)), NoFit)


@pytest.mark.parametrize("sizes", [[], [1e6], [1e6, 1e6], [1e5, 1e6], [1e5, 1e6, 1e6]])
def test_two_sizes_decide_no_law(sizes: list[float]) -> None:
    count = len(set(sizes))
    plural = "s" * (count != 1)
    expected = f"{count} finished size{plural}: a power law needs at least 3"
    assert reason(sizes, [0.5] * len(sizes)) == expected


def test_lost_forecasts_do_not_count_as_sizes() -> None:
    assert reason(SIZES[:3], [0.1, np.nan, 0.05]).startswith("2 finished sizes")


def test_a_flat_error_is_no_law() -> None:
    assert reason(SIZES, [0.25] * 4).startswith("the error is flat within its scatter in size")


def test_an_error_that_wanders_is_no_law() -> None:
    found = reason(SIZES, [0.15, 0.1, 0.12, 0.09])
    assert found.startswith("the error does not fall with every step in size: the exponent")


def test_a_rising_error_is_no_law() -> None:
    assert reason(SIZES, 0.01 * SIZES**0.2).startswith("the error rises with size: the exponent")


def test_three_scattered_sizes_leave_it_open() -> None:
    found = reason(SIZES[:3], [0.2, 0.19, 0.1])
    assert found.startswith("3 points leave open whether the error falls: the exponent of size is")


def test_four_falling_sizes_are_a_law_with_a_wide_interval() -> None:
    law = choose(Points.of(SIZES, [0.06, 0.047, 0.0445, 0.0436]))
    assert isinstance(law, Fit)
    assert law.parameters()["a"].low < 0 < law.parameters()["a"].value


def test_a_floor_needs_six_sizes() -> None:
    sizes = np.geomspace(1e5, 1e8, 6)
    errors = 0.1 + 30.0 * sizes**-0.5
    with_floor, without = choose(Points.of(sizes, errors)), choose(Points.of(sizes[:5], errors[:5]))
    assert isinstance(with_floor, Fit)
    assert isinstance(without, Fit)
    assert str(with_floor) == "0.1 + 30 N^-0.500"
    assert without.form.floor is False


def test_a_floor_that_is_not_there_is_zero() -> None:
    sizes = np.geomspace(1e5, 1e8, 8)
    law = choose(Points.of(sizes, 3.0 * sizes**-0.16))
    assert isinstance(law, Fit)
    assert str(law) == "3 N^-0.160"
    assert law.parameters()["E"] == (0.0, 0.0, 0.0)


def test_a_weak_floor_does_not_narrow_the_interval_beyond_the_sizes() -> None:
    sizes, rng = np.geomspace(1e5, 1e7, 8), np.random.default_rng(1)
    far = Points.at([3e7], 1)
    inside = []
    for seed in range(100):
        errors = (0.01 + 3.0 * sizes**-0.3) * np.exp(0.02 * rng.standard_normal(8))
        law = choose(Points.of(sizes, errors), draws=60, seed=seed)
        assert isinstance(law, Fit)
        low, high = law.band(far)
        inside.append(low[0] <= 0.01 + 3.0 * 3e7**-0.3 <= high[0])
    assert np.mean(inside) >= 0.9


@pytest.mark.parametrize("count", [4, 8])
def test_without_a_fall_a_floor_makes_no_law(count: int) -> None:
    noise = np.exp(0.03 * np.random.default_rng(0).standard_normal(count))
    assert "exponent of size" in reason(np.geomspace(1e5, 1e7, count), 0.2 * noise)


def test_lengths_of_one_size_are_a_law_of_data() -> None:
    windows = np.array([800, 1600, 3200, 6400])
    law = choose(Points.of([1e6] * 4, 2.0 * windows**-0.3, windows=windows))
    assert isinstance(law, Fit)
    assert str(law) == "2 D^-0.300"


def test_sizes_and_lengths_are_a_law_of_both_with_a_floor() -> None:
    sizes, windows = (axis.ravel() for axis in np.meshgrid(SIZES, [2e3, 8e3, 3.2e4]))
    errors = 3.0 * sizes**-0.3 + 5.0 * windows**-0.3
    law = choose(Points.of(sizes, errors, windows=windows))
    assert isinstance(law, Fit)
    assert (law.form.floor, law.form.powers) == (True, ("N", "D"))
    assert str(law) == "3 N^-0.300 + 5 D^-0.300"  # of a floor of 0 nothing is said


def test_where_size_changes_nothing_no_term_of_it_is_taken() -> None:
    sizes, windows = (axis.ravel() for axis in np.meshgrid(SIZES, [2e3, 8e3, 3.2e4]))
    noise = np.exp(0.01 * np.random.default_rng(1).standard_normal(len(sizes)))
    law = choose(Points.of(sizes, 5.0 * windows**-0.3 * noise, windows=windows))
    assert isinstance(law, Fit)
    assert law.form.powers == ("D",)


def test_the_largest_size_is_foretold_without_it() -> None:
    noise = np.array([1.01, 0.99, 1.01, 0.99, 1.0])
    sizes = np.geomspace(2e5, 3e7, 5)
    kept = foretell_largest(Points.of(sizes, 3.0 * sizes**-0.16 * noise))
    missed = foretell_largest(Points.of(sizes, 3.0 * sizes**-0.16 * [*noise[:4], 2.0]))
    assert not isinstance(kept, NoFit)
    assert not isinstance(missed, NoFit)
    assert kept[0].size == 3e7
    assert kept[0].measured == pytest.approx(3.0 * 3e7**-0.16)
    assert kept[0].holds
    assert not missed[0].holds
    assert missed[0].expected == kept[0].expected  # what was measured has no part in it


def test_two_smaller_sizes_foretell_nothing() -> None:
    found = foretell_largest(Points.of(SIZES[:3], 3.0 * SIZES[:3] ** -0.16))
    assert str(found) == (
        "without the largest size, 2 finished sizes: a power law needs at least 3"
    )


def test_the_published_models_give_their_law_with_its_interval() -> None:
    law = choose(Points.of(PUBLISHED_SIZES, PUBLISHED.mean(axis=1)))
    assert isinstance(law, Fit)
    exponent = law.parameters()["a"]
    assert exponent.value == pytest.approx(0.159, abs=0.005)  # published: -0.15 to -0.17
    assert exponent.low == pytest.approx(0.08, abs=0.03)
    assert exponent.high == pytest.approx(0.25, abs=0.03)
    foretold = foretell_largest(Points.of(PUBLISHED_SIZES, PUBLISHED.mean(axis=1)))
    assert not isinstance(foretold, NoFit)
    assert foretold[0].holds  # H, by Ti, S, M and L


def test_of_the_published_datasets_some_follow_no_law() -> None:
    laws = [choose(Points.of(PUBLISHED_SIZES, errors)) for errors in PUBLISHED.T]
    assert [isinstance(law, NoFit) for law in laws] == [
        True, False, True, False, False, False, False, False, True, False, False, True,
    ]  # fmt: skip
