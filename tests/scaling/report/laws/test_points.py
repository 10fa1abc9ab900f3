"""Trials become points: seeds together, lost ones out."""

import numpy as np
import pytest

from dpot_scale.scaling.report.laws.points import Points


def test_seeds_of_a_size_and_length_are_one_point() -> None:
    points = Points.of([1e6, 1e5, 1e6, 1e6], [0.1, 0.4, 0.2, 0.3], windows=[800, 800, 800, 1600])
    assert points.sizes.tolist() == [1e5, 1e6, 1e6]
    assert points.windows.tolist() == [800, 800, 1600]
    assert points.seeds.tolist() == [1, 2, 1]
    assert points.errors == pytest.approx([0.4, np.sqrt(0.02), 0.3])
    assert points.spread_freedom == 1
    assert points.spread == pytest.approx(np.log(2) ** 2 / 2)


def test_errors_that_are_not_finite_are_left_out() -> None:
    points = Points.of([1e5, 1e6, 2e6], [0.1, np.nan, np.inf])
    assert points.sizes.tolist() == [1e5]
    assert len(Points.of([1e5], [np.nan])) == 0


def test_distinct_windows_are_no_more_than_those_seen() -> None:
    points = Points.of([1e5, 1e5], [0.1, 0.2], windows=[100, 900], distinct=[500, 500])
    assert points.distinct.tolist() == [100, 500]
    assert Points.at(1e5, [100, 900], 500).distinct.tolist() == [100, 500]
    assert Points.at([1e5, 1e6], 100).distinct.tolist() == [100, 100]


def test_some_points_keep_what_the_seeds_of_all_say() -> None:
    points = Points.of([1, 1, 2], [0.1, 0.2, 0.1])
    part = points.where(points.sizes == 2)
    assert part.errors == pytest.approx([0.1])
    assert (part.spread, part.spread_freedom) == (points.spread, points.spread_freedom)
