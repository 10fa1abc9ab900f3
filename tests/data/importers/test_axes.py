"""Lengths of axes from their points, and time steps from the times of frames."""

from pathlib import Path

import numpy as np
import pytest

from dpot_scale.data.importers.axes import axis_of, times_of, usual_step
from dpot_scale.errors import DataError

FILE = Path("published.hdf5")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("points", [5, 16, 17, 128, 512])
@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize(("start", "length"), [(-1.0, 2.0), (0.0, 1.0), (0.0, 4.0)])
def test_chebyshev_points_say_how_long_their_axis_is(
    dtype: type, points: int, direction: int, start: float, length: float
) -> None:
    roots = -np.cos((np.arange(points) + 0.5) * np.pi / points)
    ends = -np.cos(np.arange(points) * np.pi / (points - 1))
    for unit, kind in ((roots, "Chebyshev points"), (ends, "Chebyshev points with both ends")):
        values = (start + length * (unit + 1) / 2)[::direction].astype(dtype)
        axis = axis_of(values, "axis z")
        assert (axis.length, axis.points) == (pytest.approx(length, rel=1e-5), kind)
        np.testing.assert_allclose(axis.coordinates, values, rtol=1e-7, atol=1e-9)


def test_equal_cells_are_an_even_axis_in_either_direction() -> None:
    cells = ((np.arange(64) + 0.5) / 32 - 1).astype(np.float32)
    for values in (cells, cells[::-1]):
        axis = axis_of(values, "axis x")
        assert (axis.length, axis.points) == (2, "")


def test_other_cells_reach_half_a_distance_beyond_their_centres() -> None:
    axis = axis_of(np.array([0.0, 1.0, 3.0, 7.0]), "axis r")
    assert (axis.length, axis.points) == (7 + 0.5 + 2, "unevenly spaced points")


@pytest.mark.parametrize("points", [[0.0], [0.0, 1.0, 1.0], [0.0, 2.0, 1.0], [0.0, np.nan, 1.0]])
def test_points_that_do_not_lie_in_order_are_one_sentence(points: list[float]) -> None:
    with pytest.raises(DataError, match="axis x of a has points that do not lie in order"):
        axis_of(np.array(points), "axis x of a")


def test_times_are_those_of_all_trajectories_or_of_each() -> None:
    even = np.arange(5) * np.float32(0.05)
    for times in (even, even[None], np.stack([even + 3, even])):
        found = times_of(times, 2, 5, FILE)
        assert list(found.intervals) == [0.05, 0.05]
        assert found.uneven is None
    steps = times_of(np.stack([even, 2 * even]), 2, 5, FILE)
    assert list(steps.intervals) == [0.05, 0.1]
    assert steps.uneven is None


def test_times_that_jitter_are_kept() -> None:
    jitter = np.arange(5) + 0.05 * np.array([0, 1, -1, 1, 0])
    found = times_of(np.stack([np.arange(5.0), jitter]), 2, 5, FILE)
    assert found.uneven is not None
    np.testing.assert_array_equal(found.uneven, [np.arange(5), jitter])
    assert list(found.intervals) == [1, 1]


@pytest.mark.parametrize(
    ("times", "frames", "sentence"),
    [
        ([0.0, 0.1, 0.2], 4, r"published\.hdf5 has 3 times for 2 trajectories of 4 frames; needed"),
        (np.zeros((3, 4)), 4, "has 3 x 4 times for 2 trajectories of 4 frames"),
        ([0.0], 1, "of 2 or more"),
        ([0.2, 0.1, 0.0], 3, "do not increase"),
        ([0.0, 0.0, 0.0], 3, "do not increase"),
        ([0.0, np.nan, 0.2], 3, "do not increase"),
        ([0.0, 0.1, np.inf], 3, "do not increase"),
    ],
)
def test_times_that_say_nothing_are_one_sentence(
    times: list[float], frames: int, sentence: str
) -> None:
    with pytest.raises(DataError, match=sentence):
        times_of(np.array(times), 2, frames, FILE)


def test_the_usual_step_is_that_of_most() -> None:
    assert usual_step(np.array([0.1, 0.2, 0.2])) == 0.2
