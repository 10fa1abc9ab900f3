"""Pictures of held-out forecasts, drawn from arrays, without pyplot's global state.

Legend: L lead times, C fields, x y points.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from dpot_scale.data.info import DatasetInfo
from dpot_scale.evaluation.example import middle_plane
from dpot_scale.files import replacing

if TYPE_CHECKING:
    from dpot_scale.evaluation.evaluator import DatasetEvaluation

Array = NDArray[np.float32]

Scale = tuple[str, float, float]  # colours and their limits

CELL, LEAST = 1.75, 0.6  # inches: the longer side of a picture of one frame, the shortest other
CROWDED = 5.0  # the greatest over the least value of an axis from which on not all digits have room
FIELD_COLORS = "RdBu_r"
ERROR_COLORS = "magma"
# Distinguishable with any colour vision (Okabe and Ito).
LINE_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def save_figures(folder: Path, evaluations: Mapping[str, "DatasetEvaluation"]) -> list[Path]:
    """Write one rollout picture per dataset and the growth of the error with lead time.

    Raises:
        DiskError: they cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    figures = {f"rollout_{name}": rollout_figure(name, one) for name, one in evaluations.items()}
    figures["error_growth"] = error_growth_figure(evaluations)
    for name, figure in figures.items():
        with replacing(folder / f"{name}.png") as partial:
            figure.savefig(partial, dpi=110, format="png")
    return [folder / f"{name}.png" for name in figures]


def rollout_figure(name: str, evaluation: "DatasetEvaluation") -> Figure:
    """Show truth, forecast and error of one trajectory at a few lead times.

    Truth and forecast of a field share their colours; the error has a scale of its own. Of a 3D
    field the plane through the middle of its last axis is shown.
    """
    truth_LCxy = plane(evaluation.example_truth_LCs)
    forecast_LCxy = plane(evaluation.example_forecast_LCs)
    leads, fields = truth_LCxy.shape[:2]
    info = evaluation.info
    width, height = cell(info)
    size = (width * leads + 1.8, 3 * height * fields + 0.7)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(3 * fields, leads, squeeze=False)
    for field in range(fields):
        truth_Lxy, forecast_Lxy = truth_LCxy[:, field], forecast_LCxy[:, field]
        rows = axes[3 * field : 3 * field + 3]
        error_Lxy = np.abs(forecast_Lxy - truth_Lxy)
        value = (FIELD_COLORS, *limits_of(truth_Lxy))
        error = (ERROR_COLORS, 0.0, float(error_Lxy.max()))
        shown = ("truth", truth_Lxy, value), ("forecast", forecast_Lxy, value)
        for row, (words, frames_Lxy, scale) in zip(
            rows, (*shown, ("|error|", error_Lxy, error)), strict=True
        ):
            _row(figure, row, frames_Lxy, info, scale)
            label_row(row[0], f"{info.labels[field]}\n{words}")
    for axis, lead in zip(axes[0], evaluation.example_leads, strict=True):
        axis.set_title(f"+{lead} frames" if lead > 1 else "+1 frame", fontsize=10)
    score = evaluation.score
    figure.suptitle(
        f"{name}: rollout of a held-out trajectory "
        f"(rel. L2 of the split {score.rel_l2:.3f}, persistence {score.persistence_rel_l2:.3f})",
        fontsize=10,
    )
    return figure


def error_growth_figure(evaluations: Mapping[str, "DatasetEvaluation"]) -> Figure:
    """Show the relative L2 error of each lead time, model and persistence, per dataset."""
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axis = figure.subplots()
    for i, (name, evaluation) in enumerate(evaluations.items()):
        color = LINE_COLORS[i % len(LINE_COLORS)]
        leads = np.arange(1, len(evaluation.rel_l2_L) + 1)
        axis.plot(leads, evaluation.rel_l2_L, color=color, marker="o", ms=3, label=name)
        axis.plot(leads, evaluation.persistence_rel_l2_L, color=color, ls="--", lw=1)
    axis.plot([], [], color="0.4", ls="--", lw=1, label="persistence (same colour)")
    axis.set(yscale="log", xlabel="lead time [frames]", ylabel="relative L2 error")
    axis.set_title("Error growth of held-out rollouts", fontsize=11)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    label_with_numbers(axis)
    axis.grid(which="both", alpha=0.2)
    axis.legend(fontsize=8, edgecolor="none", framealpha=0.9)
    return figure


def label_row(axis: Axes, text: str) -> None:
    """Write what a row shows beside its first picture, which may be low."""
    axis.set_ylabel(text, fontsize=8, rotation=0, ha="right", va="center")


def label_with_numbers(axis: Axes) -> None:
    """Label a logarithmic y axis with plain numbers, as 0.2, instead of powers of ten.

    Its limits are those at the call. Where not all digits have room, there are 1, 2 and 5.
    """
    low, high = axis.get_ylim()
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    if high > CROWDED * low:
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_minor_formatter(NullFormatter())
    else:
        axis.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))
    axis.tick_params(which="both", labelsize=8)


def _row(
    figure: Figure,
    axes: NDArray[np.object_],
    frames_Lxy: Array,
    info: DatasetInfo,
    scale: Scale,
) -> None:
    """Draw frames on the domain of their dataset."""
    image = None
    colors, low, high = scale
    extent = (*info.ends[0], *info.ends[1])
    for axis, frame_xy in zip(axes, frames_Lxy, strict=True):
        assert isinstance(axis, Axes)
        image = axis.imshow(
            frame_xy.T,
            origin="lower",
            cmap=colors,
            vmin=low,
            vmax=high,
            extent=extent,
            interpolation="nearest",  # the patches of a model are seen as they are
        )
        axis.set(xticks=[], yticks=[])
    assert image is not None
    figure.colorbar(image, ax=list(axes), shrink=0.85, pad=0.01).ax.tick_params(labelsize=8)


def cell(info: DatasetInfo) -> tuple[float, float]:
    """Return width and height of a picture of one frame, in inches, as those of its domain."""
    x_length, y_length = (high - low for low, high in info.ends[:2])
    longest = max(x_length, y_length)
    return max(LEAST, CELL * x_length / longest), max(LEAST, CELL * y_length / longest)


def plane(frames_LCs: Array) -> Array:
    """Return (L, C, x, y)."""
    return np.stack([middle_plane(frame_Cs) for frame_Cs in frames_LCs])


def limits_of(field_Lxy: Array) -> tuple[float, float]:
    """Return colour limits: symmetric where the field changes sign."""
    low, high = float(field_Lxy.min()), float(field_Lxy.max())
    if low < 0 < high:
        high = max(-low, high)
        low = -high
    return low, high
