"""What the formats share: times, extents, and rows that lie in several files."""

from pathlib import Path

import numpy as np
import pytest

from dpot_scale.data.importers.source import (
    cell_extent,
    file_view,
    frame_interval,
    overlapping,
    rounded,
)
from dpot_scale.data.store.shards import View
from dpot_scale.errors import DataError

FILE = Path("published.h5")


def views(*trajectories: int) -> list[View]:
    arrays = [("u", ("trajectory", "time", "x"))]
    return [
        file_view(FILE, arrays, spatial_axes=("x",), trajectories=number, frames=5)
        for number in trajectories
    ]


@pytest.mark.parametrize("interval", [0.05, 1.0, 1 / 3, 120.0])
def test_the_interval_is_the_short_number_that_single_precision_stands_for(interval: float) -> None:
    times = (7 + interval * np.arange(21)).astype(np.float32)
    assert frame_interval(times, 21, FILE) == pytest.approx(interval, rel=1e-5)
    assert frame_interval(interval * np.arange(21), 21, FILE) == rounded(interval)
    assert rounded(float(np.float32(0.05))) == 0.05


@pytest.mark.parametrize(
    ("times", "frames", "sentence"),
    [
        ([0.0, 0.1, 0.2], 4, r"published\.h5 has 3 times for 4 frames"),
        ([0.0], 1, "needed: 2 or more"),
        ([0.0, 0.1, 0.3], 3, "not evenly spaced"),
        ([0.2, 0.1, 0.0], 3, "not evenly spaced"),
        ([0.0, 0.0, 0.0], 3, "not evenly spaced"),
        ([0.0, np.nan, 0.2], 3, "not evenly spaced"),
    ],
)
def test_times_that_give_no_interval(times: list[float], frames: int, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        frame_interval(np.array(times), frames, FILE)


@pytest.mark.parametrize("points", [2, 64, 128])
def test_an_axis_of_cells_is_as_long_as_its_cells_together(points: int) -> None:
    centres = 2 * (np.arange(points) + 0.5) / points - 1
    assert cell_extent(centres) == 2


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (slice(0, 9), [(0, 0, 2), (1, 0, 3), (2, 0, 4)]),
        (slice(1, 6), [(0, 1, 2), (1, 0, 3), (2, 0, 1)]),
        (slice(2, 5), [(1, 0, 3)]),
        (slice(3, 4), [(1, 1, 2)]),
        (slice(4, 4), []),
    ],
)
def test_rows_are_found_in_the_files_that_hold_them(
    rows: slice, expected: list[tuple[int, int, int]]
) -> None:
    files = views(2, 3, 4)
    found = [(files.index(view), first, last) for view, first, last in overlapping(files, rows)]
    assert found == expected
