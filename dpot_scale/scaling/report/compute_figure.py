"""The figure of a sweep of sizes and lengths: what FLOPs buy, and the best size for them."""

from collections.abc import Sequence
from itertools import cycle

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from dpot_scale.evaluation.figures import LINE_COLORS, label_with_numbers
from dpot_scale.scaling.report.analysis import Analysis
from dpot_scale.scaling.report.laws.fit import Fit
from dpot_scale.scaling.report.lines import Line, frontier, size_lines, vertices
from dpot_scale.scaling.report.results import flops_of, mean_points

BAND = 0.15  # opacity


def compute_figure(name: str, arms: Sequence[Analysis]) -> Figure | None:
    """Show error and best size against FLOPs; None where no arm has a law of size and data."""
    # The colours of arms are those of all figures.
    trading = [
        (color, found, found.trade)
        for color, found in zip(cycle(LINE_COLORS), arms, strict=False)
        if found.trade is not None
    ]
    if not trading:
        return None
    figure = Figure(figsize=(7, 8.4), dpi=100, layout="constrained")  # MLflow shows 700 pixels
    upper, lower = figure.subplots(2, 1, sharex=True)
    for color, found, law in trading:
        if len(trading) == 1:
            _draw_sizes(upper, found, law)
        _draw_frontier(upper, lower, found, law, "black" if len(trading) == 1 else color)
    upper.set_title("rollout error, mean over datasets", fontsize=10)
    lower.set_title("the best size; dots: sizes that were trained", fontsize=10)
    upper.set_ylabel("held-out relative L2 error", fontsize=9)
    lower.set_ylabel("parameters", fontsize=9)
    lower.set_xlabel("training FLOPs", fontsize=9)
    for axis in (upper, lower):
        axis.set(xscale="log", yscale="log")
        axis.grid(which="both", alpha=0.2)
        axis.tick_params(which="both", labelsize=8)
        axis.legend(fontsize=7.5, edgecolor="none", framealpha=0.9)
    label_with_numbers(upper)
    lower.yaxis.set_major_formatter(EngFormatter(sep=""))
    figure.suptitle(f"Sweep {name}: what FLOPs buy", fontsize=11)
    return figure


def _draw_sizes(axis: Axes, found: Analysis, law: Fit) -> None:
    """Draw the trials of each size against their FLOPs, with the law along its lengths."""
    lines = size_lines(found, law)
    shades = colormaps["viridis"](np.linspace(0.85, 0.0, len(lines)))
    for shade, line in zip(shades, lines, strict=True):
        axis.plot(line.flops, line.errors, "o", color=shade, ms=5, label=f"{line.size:,.0f}")
        axis.plot(line.law_flops, line.law_errors, color=shade, lw=1)


def _draw_frontier(upper: Axes, lower: Axes, found: Analysis, law: Fit, color: str) -> None:
    """Draw the least error and the best size of an arm with their intervals."""
    label = found.arm or "the best size"
    best = frontier(found, law)
    budgets = np.array([one.flops for one in best])
    for axis, values in ((upper, [b.error for b in best]), (lower, [b.size for b in best])):
        line = Line.of(budgets, values)
        axis.plot(line.x, line.y, color=color, lw=1.5, label=label)
        axis.fill_between(line.x, line.low, line.high, color=color, alpha=BAND, lw=0)
    points = mean_points(found.finished)
    flops = flops_of(found.finished, points)
    lower.plot(flops, points.sizes, ".", color=color, ms=4, alpha=0.6)
    if parabolas := vertices(found):
        lower.plot(
            [one.flops for one in parabolas],
            [one.size for one in parabolas],
            "D",
            color=color,
            mfc="white",
            label=f"{label}: vertices of parabolas",
        )
