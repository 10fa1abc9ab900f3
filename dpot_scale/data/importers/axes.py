"""What the coordinates of points and the times of frames say: lengths, time steps, even or not."""

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpot_scale.data.importers.source import cell_extent, rounded
from dpot_scale.errors import DataError

EVEN = 1e-2  # relative: how far distances may be from equal ones
CHEBYSHEV = 1e-5  # of half the length: how far points may be from Chebyshev's

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Axis:
    """An axis of space."""

    coordinates: tuple[float, ...]
    length: float
    points: str = ""  # of what kind they are, where their distances are not equal


def axis_of(points: Array, place: str) -> Axis:
    """Return an axis from the coordinates of its points.

    Cells of equal size reach half a cell beyond their centres, and uneven ones half of the last
    distance. Chebyshev's points say themselves where the axis ends.

    Raises:
        DataError: there are fewer than two points, or they neither increase nor decrease.
    """
    points = np.asarray(points, dtype=np.float64)
    steps = np.diff(points)
    if not (len(points) > 1 and ((steps > 0).all() or (steps < 0).all())):
        raise DataError(
            f"{place} has points that do not lie in order: needed are two or more coordinates that "
            "increase"
        )
    coordinates = tuple(float(f"{point:.9g}") for point in points)  # 0.1 in single precision, too
    if np.allclose(steps, steps.mean(), rtol=EVEN, atol=0):
        return Axis(coordinates=coordinates, length=abs(cell_extent(points)))
    half = abs(points[-1] - points[0]) / 2
    for name, angles, reach in _chebyshev(len(points)):
        ideal = points.mean() - np.sign(steps[0]) * half * np.cos(angles) / reach
        if np.allclose(points, ideal, rtol=0, atol=CHEBYSHEV * half):
            return Axis(coordinates=coordinates, length=rounded(2 * half / reach), points=name)
    length = abs(points[-1] - points[0]) + abs(steps[0] + steps[-1]) / 2
    return Axis(coordinates=coordinates, length=rounded(length), points="unevenly spaced points")


def _chebyshev(points: int) -> list[tuple[str, Array, float]]:
    """Return kinds of Chebyshev points: their angles, and how far the outermost reach of 1."""
    ends = np.arange(points) * np.pi / (points - 1)
    roots = (np.arange(points) + 0.5) * np.pi / points
    return [
        ("Chebyshev points with both ends", ends, 1.0),
        ("Chebyshev points", roots, math.cos(np.pi / (2 * points))),
    ]


@dataclass(frozen=True, kw_only=True)
class Times:
    """The times of the frames of N trajectories."""

    intervals: Array  # (N,): the mean distance of frames
    uneven: Array | None  # (N, T): the times, where frames of some trajectory are not evenly spaced


def times_of(times: Array, trajectories: int, frames: int, path: Path) -> Times:
    """Return the times of a file, which are those of all its trajectories or those of each.

    Args:
        times: (T,) or (N, T).
        trajectories: N.
        frames: T.
        path: The file, for the sentence.

    Raises:
        DataError: there are not as many times as frames, fewer than two, or they do not increase.
    """
    times = np.asarray(times, dtype=np.float64)
    if times.shape not in ((frames,), (1, frames), (trajectories, frames)) or frames < 2:
        found = " x ".join(map(str, times.shape))
        raise DataError(
            f"{path} has {found} times for {trajectories} trajectories of {frames} frames; needed: "
            "one for each frame, of 2 or more"
        )
    times_NT = np.broadcast_to(times, (trajectories, frames))
    steps_NT = np.diff(times_NT, axis=1)
    if not (steps_NT > 0).all() or not np.isfinite(steps_NT).all():
        raise DataError(f"the times of the frames of {path} do not increase")
    mean_N = steps_NT.mean(axis=1)
    is_even = np.allclose(steps_NT, mean_N[:, None], rtol=EVEN, atol=0)
    intervals = np.array([rounded(mean) for mean in mean_N])
    return Times(intervals=intervals, uneven=None if is_even else times_NT)


def usual_step(intervals: Array) -> float:
    """Return the time step that most trajectories have."""
    return Counter(map(float, intervals)).most_common(1)[0][0]
