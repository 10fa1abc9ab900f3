"""The figure of a sweep over amounts of data: what trajectories buy, for each start."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import cycle

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from scipy import stats

from dpot_scale.evaluation.figures import LINE_COLORS, label_with_numbers
from dpot_scale.scaling.report.analysis import Analysis
from dpot_scale.scaling.report.laws.fit import LEVEL
from dpot_scale.scaling.report.laws.points import Array
from dpot_scale.scaling.report.results import Finished

TRAJECTORIES = "trajectories"  # the factor of a design


def has_amounts(arms: Sequence[Analysis]) -> bool:
    """Return whether some trials were trained on fewer trajectories than others."""
    amounts = {entry.trial.factors.get(TRAJECTORIES) for found in arms for entry in found.finished}
    return len(amounts - {None}) > 1


def data_figure(name: str, arms: Sequence[Analysis]) -> Figure | None:
    """Show error against trajectories, a line for each arm, size and length; None without amounts.

    The points are means over seeds of the logarithms of errors, with their 95 % intervals (Student)
    where there are several seeds.
    """
    if not has_amounts(arms):
        return None
    figure = Figure(figsize=(7, 4.6), dpi=100, layout="constrained")  # MLflow shows 700 pixels
    axis = figure.subplots()
    lines = _lines(arms)
    for color, (label, errors) in zip(cycle(LINE_COLORS), lines.items(), strict=False):
        amounts = sorted(errors)
        middle, low, high = np.transpose([_interval(np.array(errors[n])) for n in amounts])
        around = [middle - low, high - middle]
        axis.errorbar(amounts, middle, around, fmt="o-", color=color, ms=4, lw=1.2, capsize=3)
        axis.plot([], [], "o-", color=color, ms=4, label=label)
    axis.set(xscale="log", yscale="log", xlabel="training trajectories of each dataset")
    axis.set_ylabel("held-out relative L2 error", fontsize=9)
    axis.xaxis.set_major_locator(FixedLocator(sorted({n for one in lines.values() for n in one})))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda n, _: f"{n:,.0f}"))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_title("rollout, mean over datasets; bars: 95 % interval of the seeds", fontsize=10)
    axis.grid(which="both", alpha=0.2)
    label_with_numbers(axis)
    axis.legend(fontsize=7.5, edgecolor="none", framealpha=0.9)
    figure.suptitle(f"Sweep {name}: what trajectories buy", fontsize=11)
    return figure


def _lines(arms: Sequence[Analysis]) -> dict[str, dict[int, list[float]]]:
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


def _interval(errors: Array) -> tuple[float, float, float]:
    """Return the geometric mean over seeds and the ends of its interval, alike for one seed."""
    logs = np.log(errors)
    half = 0.0
    if len(logs) > 1:
        reach = stats.t.ppf((1 + LEVEL) / 2, len(logs) - 1)
        half = float(reach * logs.std(ddof=1) / len(logs) ** 0.5)
    middle = float(logs.mean())
    return float(np.exp(middle)), float(np.exp(middle - half)), float(np.exp(middle + half))
