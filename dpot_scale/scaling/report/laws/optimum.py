"""The size and length that reach the least error for a number of FLOPs, N*(C) and D*(C)."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
from scipy import stats

from dpot_scale.scaling.report.laws.choice import NoFit
from dpot_scale.scaling.report.laws.fit import LEVEL, Fit, Interval, ends
from dpot_scale.scaling.report.laws.points import Array, Points

SAME_BUDGET = 1.1  # FLOPs that differ by no more than this factor are one budget
FEWEST_BUDGETS = 3
SIZES = 60  # of which the best is looked for


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowCost:
    """FLOPs of training on a window: c N^g."""

    coefficient: float
    exponent: float

    @classmethod
    def of(cls, sizes: Array, flops_per_window: Array) -> "WindowCost":
        """Return the line through the logarithms; C = g N D with one size."""
        if len(set(sizes)) < 2:
            return cls(coefficient=float(flops_per_window[0] / sizes[0]), exponent=1.0)
        line = stats.linregress(np.log(sizes), np.log(flops_per_window))
        return cls(coefficient=float(np.exp(line.intercept)), exponent=float(line.slope))

    def flops(self, sizes: Array) -> Array:
        """Return the FLOPs of a window for each size."""
        found: Array = self.coefficient * sizes**self.exponent
        return found

    def size(self, flops: float) -> float:
        """Return the size whose windows take these FLOPs; infinite where they take fewer at any."""
        if self.exponent <= 0:  # the FLOPs of these sizes do not tell them apart
            return inf if flops >= self.coefficient else 0.0
        return float((flops / self.coefficient) ** (1 / self.exponent))


@dataclass(frozen=True, kw_only=True, slots=True)
class Optimum:
    """The best use of a number of FLOPs."""

    flops: float
    size: Interval
    windows: Interval
    error: Interval


def compute_optimal(law: Fit, cost: WindowCost, budgets: Sequence[float]) -> list[Optimum]:
    """Return the best size and length for each number of FLOPs, by a law of size and data.

    Windows are taken to be fresh. With D = C / (c N^g) the derivative of A N^-a + B D^-b is zero at

        N* = (a A / (g b B) (C / c)^b)^(1 / (a + g b)).
    """
    both = {
        name: np.concatenate([law.form.named(law.theta_k[None])[name], draws])
        for name, draws in law.form.named(law.draws_zk).items()
    }
    g, floor = cost.exponent, both.get("E", 0.0)
    exponents = both["a"] + g * both["b"]
    optima = []
    for flops in budgets:
        fresh = flops / cost.coefficient
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            log_size = (
                np.log(both["a"] * both["A"] / (g * both["b"] * both["B"]))
                + both["b"] * np.log(fresh)
            ) / exponents
        size = np.exp(np.clip(np.nan_to_num(log_size, nan=0.0), 0.0, np.log(fresh) / g))
        windows = fresh / size**g
        error = floor + both["A"] * size ** -both["a"] + both["B"] * windows ** -both["b"]
        optima.append(
            Optimum(
                flops=flops,
                **{
                    name: Interval(float(values[0]), *map(float, ends(values[1:])))
                    for name, values in (("size", size), ("windows", windows), ("error", error))
                },
            )
        )
    return optima


def least_within(law: Fit, cost: WindowCost, budgets: Sequence[float]) -> list[Interval]:
    """Return the least error for no more than each number of FLOPs, at sizes and lengths measured.

    Nothing is extrapolated: the size is between the smallest and the largest point, the length
    between the shortest and the longest. Where the FLOPs are too few for that, it is NaN.

    Args:
        law: Of size, of length or of both.
        cost: FLOPs of a window.
        budgets: Numbers of FLOPs.
    """
    points = law.points
    smallest, largest = points.sizes.min(), points.sizes.max()
    shortest, longest = points.windows.min(), points.windows.max()
    found = []
    for flops in budgets:
        at_shortest, at_longest = cost.size(flops / shortest), cost.size(flops / longest)
        if at_shortest < smallest:
            found.append(Interval(np.nan, np.nan, np.nan))
            continue
        sizes = np.geomspace(smallest, min(at_shortest, largest), SIZES)
        sizes = np.append(sizes, np.clip(at_longest, smallest, largest))
        windows = np.clip(flops / cost.flops(sizes), shortest, longest)
        at = Points.at(sizes, windows, points.distinct.max())
        low, high = ends(law.predict_draws(at).min(axis=1))
        found.append(Interval(float(law.predict(at).min()), float(low), float(high)))
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Parabola:
    """log error = height + curvature (log N - log size)^2 / 2, at one number of FLOPs."""

    flops: float
    size: float  # N*, the vertex
    error: float  # there
    curvature: float
    sizes: tuple[float, float]  # the smallest and the largest that were measured

    def predict(self, sizes: Array) -> Array:
        """Return the error at each size."""
        found: Array = self.error * np.exp(self.curvature * np.log(sizes / self.size) ** 2 / 2)
        return found


def isoflop_parabolas(points: Points, flops: Array) -> list[Parabola | NoFit]:
    """Return the parabola of each number of FLOPs, or why it has no least error.

    A check of the law of size and data, not its rival: on an error that falls at different rates to
    both sides, or measured off the optimum, a parabola finds another one (arXiv 2603.22339).

    Args:
        points: Sizes at lengths that give them equal FLOPs.
        flops: Of each point.
    """
    order = np.argsort(flops)
    cuts = np.flatnonzero(np.diff(np.log(flops[order])) > np.log(SAME_BUDGET)) + 1
    found: list[Parabola | NoFit] = []
    for chosen in np.split(order, cuts):
        budget = float(np.exp(np.log(flops[chosen]).mean()))
        sizes = points.sizes[chosen]
        if len(set(sizes)) <= FEWEST_BUDGETS - 1:
            continue
        found.append(_parabola(budget, sizes, points.log_errors[chosen]))
    return found


def _parabola(budget: float, sizes: Array, log_errors: Array) -> Parabola | NoFit:
    middle = np.log(sizes).mean()
    second, first, height = np.polyfit(np.log(sizes) - middle, log_errors, 2)
    at = f"at {budget:.2g} FLOPs"
    if second <= 0:
        return NoFit(reason=f"{at} the error has no least value between the sizes")
    vertex = -first / (2 * second)
    with np.errstate(over="ignore"):  # a line has no vertex
        size = float(np.exp(middle + vertex))
    if not sizes.min() <= size <= sizes.max():
        side = "largest" if size > sizes.max() else "smallest"
        return NoFit(reason=f"{at} the {side} size is best, so the optimum lies beyond it")
    return Parabola(
        flops=budget,
        size=size,
        error=float(np.exp(height - first**2 / (4 * second))),
        curvature=float(2 * second),
        sizes=(float(sizes.min()), float(sizes.max())),
    )


def optimal_exponent(parabolas: Sequence[Parabola]) -> Interval | NoFit:
    """Return the exponent of N* = k C^exponent through vertices, with its 95 % interval."""
    if len(parabolas) < FEWEST_BUDGETS:
        return NoFit(
            reason=f"{len(parabolas)} budget{'s' * (len(parabolas) != 1)} with an optimum: a law "
            f"of it needs at least {FEWEST_BUDGETS}"
        )
    flops = np.log([one.flops for one in parabolas])
    line = stats.linregress(flops, np.log([one.size for one in parabolas]))
    half = stats.t.ppf((1 + LEVEL) / 2, len(parabolas) - 2) * line.stderr
    return Interval(float(line.slope), float(line.slope - half), float(line.slope + half))
