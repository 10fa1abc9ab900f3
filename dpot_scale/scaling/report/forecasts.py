"""Pictures of one held-out trajectory as all sizes forecast it, beside each other.

Legend: L lead times, C fields, x y points.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from dpot_scale.config.places import FIGURES
from dpot_scale.evaluation.example import spread
from dpot_scale.evaluation.fields import frame_image, label_space, scales_of, scored_fields
from dpot_scale.evaluation.figures import cell, label_row
from dpot_scale.evaluation.frames import Shown, read_frames
from dpot_scale.scaling.report.analysis import Analysis
from dpot_scale.scaling.report.results import Finished

MOST_MODELS = 6  # beside each other
SHRUNK = 0.8  # cells, of those of a figure of one model


def kept_frames(entry: Finished) -> Mapping[str, Shown]:
    """Return what a trial kept of its forecasts, by dataset.

    Raises:
        RecordError: a file is damaged, or another version wrote it.
    """
    return read_frames(entry.trial.run.directory / FIGURES)


def compared(arms: Sequence[Analysis]) -> dict[str, Finished]:
    """Return one trial of each size, by its name: of the trials that the report speaks of.

    Where there is no room for all, each arm has as many, and its largest one among them.
    """
    of_arms = [_one_of_each_size(found) for found in arms]
    has_room = sum(map(len, of_arms)) <= MOST_MODELS
    most = MOST_MODELS if has_room else max(1, MOST_MODELS // len(arms))
    chosen = [own[::-1][number] for own in of_arms for number in reversed(spread(len(own), most))]
    return {entry.trial.label: entry for entry in chosen[:MOST_MODELS]}


def _one_of_each_size(found: Analysis) -> list[Finished]:
    """Return a trial with frames of each size."""
    of_size: dict[int, Finished] = {}
    for entry in found.main.trials:
        if entry.result.parameters not in of_size and kept_frames(entry):
            of_size[entry.result.parameters] = entry
    return list(of_size.values())


def forecast_figures(arms: Sequence[Analysis]) -> dict[str, Figure]:
    """Return the figure of each dataset; none where trials have kept no frames.

    Raises:
        RecordError: a file of frames is damaged, or another version wrote it.
    """
    frames = {name: kept_frames(entry) for name, entry in compared(arms).items()}
    figures = {}
    for dataset in arms[0].shown.result.evaluation:
        models = {name: found[dataset] for name, found in frames.items() if dataset in found}
        if models:
            figures[dataset] = forecast_figure(dataset, models)
    return figures


def forecast_figure(dataset: str, models: Mapping[str, Shown]) -> Figure:
    """Show truth and forecasts, and the errors below them, in the middle and at the end.

    Truth and forecasts of a field share one scale, all its errors another.
    """
    first = next(iter(models.values()))
    info, leads = first.info, first.example.leads
    shown = sorted({(len(leads) - 1) // 2, len(leads) - 1})
    fields = scored_fields(info)
    width, height = (SHRUNK * side for side in cell(info))
    rows, columns = 2 * len(shown) * len(fields), 1 + len(models)
    figure = Figure(figsize=(width * columns + 2.2, height * rows + 0.8), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    of_field = np.split(axes, len(fields))
    for field, own in zip(fields, of_field, strict=True):
        _draw_field(figure, own, models, field, shown)
    for axis, name in zip(axes[0], ("truth", *models), strict=True):
        axis.set_title(name, fontsize=9)
    label_space(axes[-1:, 1:], info)
    figure.suptitle(f"{dataset}: a held-out trajectory, forecast by each model", fontsize=10)
    return figure


def _draw_field(
    figure: Figure,
    axes: NDArray[np.object_],
    models: Mapping[str, Shown],
    field: int,
    shown: Sequence[int],
) -> None:
    """Draw two rows for each lead time: truth with the forecasts, and their errors."""
    first = next(iter(models.values()))
    truth_Lxy = first.example.truth_LCs[shown, field]
    forecasts = [found.example.forecast_LCs[shown, field] for found in models.values()]
    errors = [np.abs(forecast_Lxy - truth_Lxy) for forecast_Lxy in forecasts]
    value, error = scales_of(truth_Lxy, errors)
    for number, lead in enumerate(shown):
        upper, lower = axes[2 * number : 2 * number + 2]
        for axis, frames_Lxy in zip(upper, (truth_Lxy, *forecasts), strict=True):
            image = frame_image(axis, frames_Lxy[number], first.info, value)
        lower[0].set_axis_off()
        for axis, error_Lxy in zip(lower[1:], errors, strict=True):
            error_image = frame_image(axis, error_Lxy[number], first.info, error)
        words = first.words(lead).replace(", ", "\n")
        label_row(upper[0], f"{first.info.labels[field]}\n{words}")
        label_row(lower[1], "|error|")
        for row, drawn in ((upper, image), (lower, error_image)):
            bar = figure.colorbar(drawn, ax=list(row), shrink=0.9, pad=0.01, aspect=12)
            bar.ax.tick_params(labelsize=7)
