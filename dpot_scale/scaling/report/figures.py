"""The figure of a sweep: error against model size."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from dpot_scale.evaluation.figures import LINE_COLORS, label_with_numbers
from dpot_scale.scaling.report.laws import fit_power_law
from dpot_scale.scaling.report.results import Finished, by_windows


def scaling_figure(name: str, finished: Sequence[Finished]) -> Figure:
    """Show held-out error against model size, the mean with its fit and each dataset."""
    figure = Figure(figsize=(7, 8.4), dpi=100, layout="constrained")  # MLflow shows 700 pixels
    mean_axis, dataset_axis = figure.subplots(2, 1)
    for color, (windows, group) in zip(LINE_COLORS, by_windows(finished).items(), strict=False):
        _draw_mean(mean_axis, group, windows, color)
    _draw_datasets(dataset_axis, list(by_windows(finished).values())[-1])
    for axis in (mean_axis, dataset_axis):
        axis.set(xscale="log", yscale="log")
        axis.set_xlabel("parameters", fontsize=9)
        axis.set_ylabel("held-out relative L2 error", fontsize=9)
        axis.grid(which="both", alpha=0.2)
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
        axis.xaxis.set_minor_formatter(NullFormatter())
        label_with_numbers(axis)
        axis.legend(fontsize=7.5, edgecolor="none", framealpha=0.9)
    mean_axis.set_title("mean over datasets", fontsize=10)
    dataset_axis.set_title("rollout on each dataset", fontsize=10)
    figure.suptitle(f"Sweep {name}: error against model size", fontsize=11)
    return figure


def _draw_mean(axis: Axes, group: Sequence[Finished], windows: int, color: str) -> None:
    sizes = [entry.result.parameters for entry in group]
    for kind, errors, marker in (
        ("rollout", [entry.result.mean_rel_l2 for entry in group], "o"),
        ("one step", [entry.result.mean_one_step_rel_l2 for entry in group], "s"),
    ):
        law = fit_power_law(sizes, errors)
        fill, style = (color, "-") if kind == "rollout" else ("white", "--")
        label = f"{kind}, {windows:,} windows"
        axis.plot(sizes, errors, marker, color=color, ms=5, label=label, mfc=fill)
        if law is not None:
            line = np.geomspace(min(sizes), max(sizes), 50)
            axis.plot(
                line,
                law.predict(line),
                style,
                color=color,
                lw=1,
                label=f"fit N$^{{{-law.exponent:+.2f}}}$",
            )
    for entry in group:
        axis.annotate(
            entry.trial.label,
            (entry.result.parameters, entry.result.mean_rel_l2),
            textcoords="offset points",
            xytext=(4, 5),
            fontsize=8,
        )


def _draw_datasets(axis: Axes, group: Sequence[Finished]) -> None:
    sizes = [entry.result.parameters for entry in group]
    for i, name in enumerate(group[0].result.evaluation):
        color = LINE_COLORS[i % len(LINE_COLORS)]
        scores = [entry.result.evaluation[name] for entry in group]
        axis.plot(sizes, [s.rel_l2 for s in scores], "o-", color=color, ms=4, lw=1, label=name)
        axis.axhline(scores[0].persistence_rel_l2, color=color, ls=":", lw=1)
    axis.plot([], [], color="0.4", ls=":", lw=1, label="persistence (same colour)")
