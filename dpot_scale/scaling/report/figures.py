"""The figure of a sweep: error against model size, with the law and its interval."""

from collections.abc import Sequence
from itertools import cycle
from math import ceil

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from dpot_scale.evaluation.figures import LINE_COLORS, label_with_numbers
from dpot_scale.scaling.report.analysis import Analysis, Curve
from dpot_scale.scaling.report.laws.choice import choose
from dpot_scale.scaling.report.laws.fit import Fit
from dpot_scale.scaling.report.lines import law_line
from dpot_scale.scaling.report.results import Finished, points_of

MOST_LABELS = 8  # curves that a legend names; of more, some


def scaling_figure(name: str, arms: Sequence[Analysis]) -> Figure:
    """Show held-out error against model size with its law, and each dataset or each arm."""
    figure = Figure(figsize=(7, 8.4), dpi=100, layout="constrained")  # MLflow shows 700 pixels
    upper, lower = figure.subplots(2, 1)
    if len(arms) == 1:
        _draw_arm(upper, arms[0])
        _draw_datasets(lower, arms[0])
    else:
        for color, found in zip(cycle(LINE_COLORS), arms, strict=False):
            _draw_one_of_arms(upper, found, color)
            _draw_flops(lower, found, color)
    for axis in (upper, lower):
        _make_logarithmic(axis)
        axis.set_ylabel("held-out relative L2 error", fontsize=9)
        axis.grid(which="both", alpha=0.2)
        _label_axes(axis)
        axis.legend(fontsize=7.5, edgecolor="none", framealpha=0.9)
    figure.suptitle(f"Sweep {name}: error against model size", fontsize=11)
    return figure


def _draw_arm(axis: Axes, found: Analysis) -> None:
    """Draw the mean errors of all trials with their laws."""
    if found.joint_law is None:
        for color, curve in zip(cycle(LINE_COLORS), found.curves, strict=False):
            _draw_mean(axis, curve, color)
    else:
        _draw_curves(axis, found)
    _label_sizes(axis, found.main.trials)
    axis.set_xlabel("parameters", fontsize=9)
    axis.set_title("mean over datasets; shaded: 95 % interval of the law", fontsize=10)


def _draw_one_of_arms(axis: Axes, found: Analysis, color: str) -> None:
    """Draw the longest or the dearest trainings of an arm."""
    curve = found.main
    sizes = [entry.result.parameters for entry in curve.trials]
    errors = [entry.result.mean_rel_l2 for entry in curve.trials]
    axis.plot(sizes, errors, "o", color=color, ms=5, label=f"{found.arm}, {curve}")
    law = found.law
    if isinstance(law, Fit) and law.form.size:
        _draw_law(axis, law, curve, color, "-")
    axis.set_xlabel("parameters", fontsize=9)
    axis.set_title("rollout, mean over datasets; shaded: 95 % interval of the law", fontsize=10)


def _draw_flops(axis: Axes, found: Analysis, color: str) -> None:
    """Draw all trials of an arm against their FLOPs."""
    flops = [entry.train_flops for entry in found.finished]
    errors = [entry.result.mean_rel_l2 for entry in found.finished]
    axis.plot(flops, errors, "o", color=color, ms=5, label=found.arm)
    axis.set_xlabel("training FLOPs", fontsize=9)
    axis.set_title("rollout, mean over datasets, of all trials", fontsize=10)


def _make_logarithmic(axis: Axes) -> None:
    """Scale both axes by powers; without a number to show, as where all forecasts blow up, too."""
    if not np.isfinite(axis.dataLim.minposx):
        axis.set_xlim(1e5, 1e6)
    if not np.isfinite(axis.dataLim.minposy):
        axis.set_ylim(0.1, 1.0)
    axis.set(xscale="log", yscale="log")


def _label_axes(axis: Axes) -> None:
    """Label sizes or FLOPs with powers of ten and their 2 and 5, and errors with numbers."""
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    axis.xaxis.set_minor_formatter(NullFormatter())
    label_with_numbers(axis)


def _draw_mean(axis: Axes, curve: Curve, color: str) -> None:
    """Draw trials of one length, each kind of error with its law."""
    group = curve.trials
    for kind, errors, marker in (
        ("rollout", [entry.result.mean_rel_l2 for entry in group], "o"),
        ("one step", [entry.result.mean_one_step_rel_l2 for entry in group], "s"),
    ):
        fill, style = (color, "-") if kind == "rollout" else ("white", "--")
        axis.plot(
            [entry.result.parameters for entry in group],
            errors,
            marker,
            color=color,
            ms=5,
            label=f"{kind}, {curve}",
            mfc=fill,
        )
        law = choose(points_of(group, errors))
        if isinstance(law, Fit) and law.form.size:
            _draw_law(axis, law, curve, color, style, label=_fit_label(law))


def _fit_label(law: Fit) -> str:
    floor = law.parameters().get("E")
    start = f"{floor.value:.2g} + " if floor and floor.value else ""
    return f"fit {start}N$^{{{-law.parameters()['a'].value:+.2f}}}$"


def _draw_law(axis: Axes, law: Fit, curve: Curve, color: str, style: str, label: str = "") -> None:
    """Draw a law over the sizes of its points along a curve, shaded where it may as well be."""
    line = law_line(law, curve)
    axis.plot(line.x, line.y, style, color=color, lw=1, label=label or None)
    axis.fill_between(line.x, line.low, line.high, color=color, alpha=0.12, lw=0)


def _draw_curves(axis: Axes, found: Analysis) -> None:
    """Draw the rollout errors of each length or number of FLOPs, with the law of all."""
    curves = found.curves
    shades = colormaps["viridis"](np.linspace(0.85, 0.0, len(curves)))
    apart = ceil(len(curves) / MOST_LABELS)
    for number, (shade, curve) in enumerate(zip(shades, curves, strict=True)):
        color = to_hex(shade)
        sizes = [entry.result.parameters for entry in curve.trials]
        errors = [entry.result.mean_rel_l2 for entry in curve.trials]
        has_label = (len(curves) - 1 - number) % apart == 0
        axis.plot(sizes, errors, "o", color=color, ms=5, label=f"rollout, {curve}" * has_label)
        if isinstance(found.joint_law, Fit):
            _draw_law(axis, found.joint_law, curve, color, "-")
    if isinstance(found.joint_law, Fit):
        most = ", with the most data" * found.joint_law.form.repeats
        axis.plot([], [], color="0.4", lw=1, label=f"law of all sizes and lengths{most}")


def _label_sizes(axis: Axes, group: Sequence[Finished]) -> None:
    seen = set()
    for entry in group:
        if entry.result.parameters in seen:  # another seed
            continue
        seen.add(entry.result.parameters)
        axis.annotate(
            str(entry.trial.factors.get("size", entry.trial.label)),
            (entry.result.parameters, entry.result.mean_rel_l2),
            textcoords="offset points",
            xytext=(4, 5),
            fontsize=8,
        )


def _draw_datasets(axis: Axes, found: Analysis) -> None:
    """Draw the rollout errors on each dataset, mean over seeds."""
    axis.set_xlabel("parameters", fontsize=9)
    axis.set_title(f"rollout on each dataset, {found.main}", fontsize=10)
    trials = found.main.trials
    for color, name in zip(cycle(LINE_COLORS), trials[0].result.evaluation, strict=False):
        scores = [entry.result.evaluation[name] for entry in trials]
        points = points_of(trials, [score.rel_l2 for score in scores])
        axis.plot(points.sizes, points.errors, "o-", color=color, ms=4, lw=1, label=name)
        axis.axhline(scores[0].persistence_rel_l2, color=color, ls=":", lw=1)
    axis.plot([], [], color="0.4", ls=":", lw=1, label="persistence (same colour)")
