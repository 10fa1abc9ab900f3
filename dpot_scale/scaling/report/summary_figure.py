"""The one figure of a sweep to show elsewhere: what FLOPs buy, and what came of the predictions."""

from collections.abc import Sequence
from itertools import cycle
from math import inf, isfinite
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter, LogFormatterMathtext, LogLocator, NullFormatter

from dpot_scale.evaluation.figures import LINE_COLORS, label_with_numbers
from dpot_scale.scaling.report.analysis import Analysis
from dpot_scale.scaling.report.laws.choice import NoFit
from dpot_scale.scaling.report.laws.fit import Fit
from dpot_scale.scaling.report.lines import Line, envelope, law_line
from dpot_scale.scaling.report.results import flops_of, mean_points

# Shapes tell the arms apart where a print has no colours.
MARKERS = ("o", "s", "^", "v", "P", "X", "<")
BAND, FAINT = 0.13, 0.55  # opacity
BESIDE = 1.15  # so many times as far to the right a prediction stands, each beside the others
LETTERS = 8  # points
GRAY = "0.35"
MARGIN = 1.12  # from the errors to the ends of their axis


def summary_figure(arms: Sequence[Analysis]) -> Figure | None:
    """Show the errors of all trials against FLOPs, and those of the longest against size.

    None where all trials have one size.

    To the left a line is the least error that the law gives for FLOPs, at sizes and lengths that
    were trained. To the right it is the law of all sizes but the largest, of which it did not know.
    As wide as two columns of a page.
    """
    if len({entry.result.parameters for found in arms for entry in found.finished}) < 2:
        return None
    figure = Figure(figsize=(7, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    looks = zip(cycle(LINE_COLORS), cycle(MARKERS), arms, strict=False)
    for number, (color, marker, found) in enumerate(looks, start=1):
        _draw_flops(left, found, color, marker)
        _draw_sizes(right, found, color, marker, beside=BESIDE**number)
    left.set_title("What FLOPs buy", fontsize=LETTERS + 1)
    left.set_xlabel("training FLOPs", fontsize=LETTERS)
    left.set_ylabel("held-out relative L2 error", fontsize=LETTERS)
    is_foretold = any(not isinstance(found.foretold, NoFit) for found in arms)
    title = "The largest size, foretold by the smaller" if is_foretold else "Error against size"
    right.set_title(title, fontsize=LETTERS + 1)
    lengths = {f"{found.main}" for found in arms}
    right.set_xlabel("parameters" + f", {min(lengths)}" * (len(lengths) == 1), fontsize=LETTERS)
    for axis in (left, right):
        _scale(axis, _errors(arms))
        _draw_persistence(axis, arms[0].shown.result.mean_persistence_rel_l2)
    label_with_numbers(left)
    left.xaxis.set_major_formatter(LogFormatterMathtext())
    right.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    right.xaxis.set_major_formatter(EngFormatter(sep=""))
    right.xaxis.set_minor_formatter(NullFormatter())
    _add_legend(figure, arms)
    return figure


def _draw_flops(axis: Axes, found: Analysis, color: str, marker: str) -> None:
    """Draw all points of an arm, mean over seeds, and the least error that its law gives."""
    points = mean_points(found.finished)
    flops = flops_of(found.finished, points)
    axis.plot(flops, points.errors, marker, color=color, ms=4, alpha=FAINT, mew=0)
    if isinstance(found.law, Fit):
        _draw_line(axis, envelope(found, found.law), color)


def _draw_sizes(axis: Axes, found: Analysis, color: str, marker: str, *, beside: float) -> None:
    """Draw the trials to speak of, the law of the smaller sizes, and what it said of the largest.

    The prediction stands `beside` times as far to the right as what was measured.
    """
    curve = found.main
    points = mean_points(curve.trials)
    law = found.law if isinstance(found.foretold, NoFit) else found.foretold[-1].law
    if isinstance(law, Fit):
        _draw_line(axis, law_line(law, curve), color, known=law.points.sizes.max())
    axis.plot(points.sizes, points.errors, marker, color=color, ms=4.5)
    if isinstance(found.foretold, NoFit):
        return
    one = found.foretold[-1]
    axis.plot([one.size], [one.measured], marker, color=color, ms=6, mec="black", mew=1)
    value, low, high = one.expected
    axis.errorbar(
        [one.size * beside],
        [value],
        [[value - low], [high - value]],
        fmt=marker,
        color=color,
        ms=5,
        mfc="white",
        capsize=2.5,
        lw=1.2,
    )


def _draw_line(axis: Axes, line: Line, color: str, known: float = inf) -> None:
    """Draw a law with its interval, dashed where it is beyond what it knows."""
    own = line.x <= known
    axis.plot(line.x[own], line.y[own], color=color, lw=1.4)
    axis.plot(line.x[~own], line.y[~own], "--", color=color, lw=1.4)
    axis.fill_between(line.x, line.low, line.high, color=color, alpha=BAND, lw=0)


def _draw_persistence(axis: Axes, error: float) -> None:
    """Draw the error of repeating the last known frame."""
    if isfinite(error) and error > 0:
        axis.axhline(error, color=GRAY, ls=":", lw=1)


def _scale(axis: Axes, errors: Sequence[float]) -> None:
    """Scale both axes by powers, the errors from the least to the greatest: bands may reach far."""
    if not isfinite(axis.dataLim.minposx):  # no error is finite
        axis.set_xlim(1e5, 1e6)
    axis.set(xscale="log", yscale="log")
    finite = [error for error in errors if isfinite(error) and error > 0] or [0.1, 1.0]
    axis.set_ylim(min(finite) / MARGIN, max(finite) * MARGIN)
    axis.grid(which="both", alpha=0.2)
    axis.tick_params(which="both", labelsize=LETTERS)


def _errors(arms: Sequence[Analysis]) -> list[float]:
    """Return all errors that have a place in the figure."""
    foretold = [found.foretold[-1] for found in arms if not isinstance(found.foretold, NoFit)]
    return [
        arms[0].shown.result.mean_persistence_rel_l2,
        *(entry.result.mean_rel_l2 for found in arms for entry in found.finished),
        *(one.expected.value for one in foretold),
    ]


def _add_legend(figure: Figure, arms: Sequence[Analysis]) -> None:
    """Say what colours, lines and marks are, below both axes."""
    handles: dict[str, Any] = {}
    if len(arms) > 1:
        for color, marker, found in zip(cycle(LINE_COLORS), cycle(MARKERS), arms, strict=False):
            handles[found.arm] = Line2D([], [], color=color, marker=marker, ms=4.5, lw=1.4)
    if any(isinstance(found.law, Fit) for found in arms):
        shade = Patch(color=GRAY, alpha=BAND, lw=0)
        handles["law, 95 %"] = (shade, Line2D([], [], color=GRAY, lw=1.4))
    if any(not isinstance(found.foretold, NoFit) for found in arms):
        bar = Line2D([], [], color=GRAY, marker="|", ms=11, ls="")
        circle = Line2D([], [], color=GRAY, marker="o", ls="", ms=5, mfc="white")
        handles["foretold, 95 %"] = (bar, circle)
        handles["measured"] = Line2D([], [], color=GRAY, marker="o", ls="", ms=6, mec="black")
    handles["persistence"] = Line2D([], [], color=GRAY, ls=":", lw=1)
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside lower center",
        ncols=min(len(handles), 7),
        fontsize=LETTERS - 0.5,
        frameon=False,
        columnspacing=1.2,
    )
