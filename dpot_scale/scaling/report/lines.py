"""The lines of laws, and the points beside them, for the figures and the charts of the page."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy import stats

from dpot_scale.scaling.report.analysis import BEYOND, Analysis, Curve
from dpot_scale.scaling.report.laws.fit import LEVEL, Fit, Interval
from dpot_scale.scaling.report.laws.optimum import (
    SAME_BUDGET,
    Optimum,
    Parabola,
    compute_optimal,
    isoflop_parabolas,
    least_within,
)
from dpot_scale.scaling.report.laws.points import Array, Points
from dpot_scale.scaling.report.results import Finished, flops_of, mean_points

POINTS = 50  # along a line over sizes
BUDGETS = 30  # numbers of FLOPs along an axis
TRAJECTORIES = "trajectories"  # the factor of a design


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A law along an axis, with the ends of its 95 % interval."""

    x: Array
    y: Array
    low: Array
    high: Array

    @classmethod
    def of(cls, x: Array, intervals: Sequence[Interval]) -> Self:
        """Return the line through intervals."""
        value, low, high = np.transpose(intervals)
        return cls(x=x, y=value, low=low, high=high)


def law_line(law: Fit, curve: Curve) -> Line:
    """Return a law over the sizes of a curve."""
    sizes = [entry.result.parameters for entry in curve.trials]
    x = np.geomspace(min(sizes), max(sizes), POINTS)
    at = curve.points(x, law)
    low, high = law.band(at)
    return Line(x=x, y=law.predict(at), low=low, high=high)


@dataclass(frozen=True, kw_only=True, slots=True)
class SizeLine:
    """The trials of one size against their FLOPs, with the law along its lengths."""

    size: float
    flops: Array
    errors: Array
    law_flops: Array
    law_errors: Array


def size_lines(found: Analysis, law: Fit) -> list[SizeLine]:
    """Return what each size reaches for its FLOPs, the smallest first."""
    points = mean_points(found.finished)
    flops = flops_of(found.finished, points)
    lines = []
    for size in np.unique(points.sizes):
        own = points.sizes == size
        windows = np.geomspace(points.windows[own].min(), points.windows[own].max(), BUDGETS)
        per_window = (flops[own] / points.windows[own])[0]
        at = Points.at(size, windows, points.distinct.max())
        lines.append(
            SizeLine(
                size=float(size),
                flops=flops[own],
                errors=points.errors[own],
                law_flops=windows * per_window,
                law_errors=law.predict(at),
            )
        )
    return lines


def frontier(found: Analysis, law: Fit) -> list[Optimum]:
    """Return the best use of FLOPs from the fewest of a trial to beyond the most."""
    flops = [entry.train_flops for entry in found.finished]
    budgets = np.geomspace(min(flops), max(flops) * BEYOND, BUDGETS)
    return compute_optimal(law, found.window_cost, budgets.tolist())


def envelope(found: Analysis, law: Fit) -> Line:
    """Return the least error for FLOPs, of the sizes and lengths that were trained."""
    flops = [entry.train_flops for entry in found.finished]
    budgets = np.geomspace(min(flops), max(flops), POINTS)
    least = least_within(law, found.window_cost, budgets.tolist())
    return Line.of(budgets, least)


def vertices(found: Analysis) -> list[Parabola]:
    """Return the parabolas that have a least error, in a design of equal FLOPs."""
    if not found.is_of_equal_flops:
        return []
    points = mean_points(found.finished)
    parabolas = isoflop_parabolas(points, flops_of(found.finished, points))
    return [one for one in parabolas if isinstance(one, Parabola)]


def parabola_of(found: Analysis, curve: Curve) -> Parabola | None:
    """Return the parabola through the trials of a curve of equal FLOPs, if there is one."""
    flops = [entry.budget for entry in curve.trials]
    low, high = min(flops) / SAME_BUDGET, max(flops) * SAME_BUDGET
    return next((one for one in vertices(found) if low < one.flops < high), None)


def has_amounts(arms: Sequence[Analysis]) -> bool:
    """Return whether some trials were trained on fewer trajectories than others."""
    amounts = {entry.trial.factors.get(TRAJECTORIES) for found in arms for entry in found.finished}
    return len(amounts - {None}) > 1


def amount_lines(arms: Sequence[Analysis]) -> Iterator[tuple[str, Line]]:
    """Yield error against trajectories for each arm, size and length.

    The points are means over seeds of the logarithms of errors, with their 95 % intervals (Student)
    where there are several seeds.
    """
    for label, errors in _by_amount(arms).items():
        amounts = sorted(errors)
        means = [mean_over_seeds(errors[amount]) for amount in amounts]
        yield label, Line.of(np.array(amounts, float), means)


def _by_amount(arms: Sequence[Analysis]) -> dict[str, dict[int, list[float]]]:
    """Return the errors of all seeds by line and number of trajectories."""
    entries = [
        (found.arm, entry)
        for found in arms
        for entry in found.finished
        if TRAJECTORIES in entry.trial.factors and np.isfinite(entry.result.mean_rel_l2)
    ]
    sizes = {entry.result.parameters for _, entry in entries}
    lengths = {entry.result.windows for _, entry in entries}
    lines: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for arm, entry in entries:
        label = _label(arm, entry, of_size=len(sizes) > 1, of_length=len(lengths) > 1)
        amount = int(entry.trial.factors[TRAJECTORIES])
        lines[label][amount].append(entry.result.mean_rel_l2)
    return lines


def _label(arm: str, entry: Finished, *, of_size: bool, of_length: bool) -> str:
    parts = [arm] if arm else []
    parts += [f"{entry.result.parameters:,} parameters"] if of_size else []
    parts += [f"{entry.result.windows:,} windows"] if of_length else []
    return ", ".join(parts) or f"{entry.result.parameters:,} parameters"


def mean_over_seeds(errors: Sequence[float]) -> Interval:
    """Return the geometric mean over seeds and the ends of its interval, alike for one seed."""
    logs = np.log(errors)
    half = 0.0
    if len(logs) > 1:
        reach = stats.t.ppf((1 + LEVEL) / 2, len(logs) - 1)
        half = float(reach * logs.std(ddof=1) / len(logs) ** 0.5)
    middle = float(logs.mean())
    return Interval(*np.exp([middle, middle - half, middle + half]).tolist())
