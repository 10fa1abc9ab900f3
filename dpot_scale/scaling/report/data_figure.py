"""The figure of a sweep over amounts of data: what trajectories buy, for each start."""

from collections.abc import Sequence
from itertools import cycle

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from dpot_scale.evaluation.figures import LINE_COLORS, label_with_numbers
from dpot_scale.scaling.report.analysis import Analysis
from dpot_scale.scaling.report.lines import amount_lines, has_amounts


def data_figure(name: str, arms: Sequence[Analysis]) -> Figure | None:
    """Show error against trajectories for each arm, size and length; None without amounts."""
    if not has_amounts(arms):
        return None
    figure = Figure(figsize=(7, 4.6), dpi=100, layout="constrained")  # MLflow shows 700 pixels
    axis = figure.subplots()
    lines = dict(amount_lines(arms))
    for color, (label, line) in zip(cycle(LINE_COLORS), lines.items(), strict=False):
        around = [line.y - line.low, line.high - line.y]
        axis.errorbar(line.x, line.y, around, fmt="o-", color=color, ms=4, lw=1.2, capsize=3)
        axis.plot([], [], "o-", color=color, ms=4, label=label)
    axis.set(xscale="log", yscale="log", xlabel="training trajectories of each dataset")
    axis.set_ylabel("held-out relative L2 error", fontsize=9)
    axis.xaxis.set_major_locator(
        FixedLocator(sorted({n for line in lines.values() for n in line.x}))
    )
    axis.xaxis.set_major_formatter(FuncFormatter(lambda n, _: f"{n:,.0f}"))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_title("rollout, mean over datasets; bars: 95 % interval of the seeds", fontsize=10)
    axis.grid(which="both", alpha=0.2)
    label_with_numbers(axis)
    axis.legend(fontsize=7.5, edgecolor="none", framealpha=0.9)
    figure.suptitle(f"Sweep {name}: what trajectories buy", fontsize=11)
    return figure
