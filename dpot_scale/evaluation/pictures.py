"""Pictures of one or several models on held-out data, side by side, without pyplot.

Legend: L shown lead times, C fields, S lead times of spectra, x y points.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.animation import FFMpegWriter, PillowWriter
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from dpot_scale.data.info import DatasetInfo, has_unit, with_unit
from dpot_scale.evaluation.details import Details
from dpot_scale.evaluation.example import Example
from dpot_scale.evaluation.fields import (
    frame_image,
    label_space,
    put_frame,
    scales_of,
    scored_fields,
)
from dpot_scale.evaluation.figures import (
    LINE_COLORS,
    cell,
    label_row,
    label_with_numbers,
    plane,
)
from dpot_scale.evaluation.metrics import BAND_EDGES
from dpot_scale.evaluation.scores import REL_L2
from dpot_scale.evaluation.tally import FIRST_LEAD

Array = NDArray[np.float32]
Sources = Mapping[str, Details]  # of one dataset, by the names of the models

DPI = 130
MOVIE_DPI = 90
FRAMES_PER_SECOND = 8
MARKED_LEADS = 20  # of a longer rollout points would touch
SPECTRA = 3  # lead times of which spectra are drawn
QUANTILES = (0.1, 0.5, 0.9)  # over trajectories


def fields_figure(dataset: str, sources: Sources) -> Figure:
    """Show truth, forecasts and errors of one trajectory, a column for each lead time.

    Truth and forecasts of a field share one scale, all errors another. Of a 3D field the plane
    through the middle of its last axis is shown.
    """
    examples = {name: found.example for name, found in sources.items()}
    first = next(iter(sources.values()))
    info, leads = first.info, first.example.leads
    fields = scored_fields(info)
    width, height = cell(info)
    rows = (1 + 2 * len(sources)) * len(fields)
    figure = Figure(figsize=(width * len(leads) + 2.5, height * rows + 0.9), layout="constrained")
    axes = figure.subplots(rows, len(leads), squeeze=False)
    for number, field in enumerate(fields):
        of_field = axes[rows // len(fields) * number : rows // len(fields) * (number + 1)]
        _draw_field(figure, of_field, info, field, examples)
    for axis, lead in zip(axes[0], leads, strict=True):
        axis.set_title(f"{_lead(lead)}\n{_time(first, lead)}", fontsize=9)
    label_space(axes, info)
    figure.align_ylabels(list(axes[:, 0]))
    figure.suptitle(f"{dataset}: rollout of a held-out trajectory", fontsize=11)
    return figure


def growth_figure(datasets: Mapping[str, Sources]) -> Figure:
    """Show how the errors of trajectories are spread at each lead time, a panel per dataset."""
    columns = min(3, len(datasets))
    rows = -(-len(datasets) // columns)
    figure = Figure(figsize=(4.2 * columns + 0.4, 3.2 * rows + 0.5), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis, (dataset, sources) in zip(axes, datasets.items(), strict=False):
        for color, (name, found) in zip(LINE_COLORS, sources.items(), strict=False):
            leads = np.arange(1, found.errors_NL.shape[1] + 1)
            low, middle, high = _quantiles(found.errors_NL)
            axis.fill_between(leads, low, high, color=color, alpha=0.2, lw=0)
            marker = "o" if len(leads) <= MARKED_LEADS else ""
            axis.plot(leads, middle, color=color, marker=marker, ms=3, label=name)
        first = next(iter(sources.values()))
        persistence = first.totals.of(REL_L2, "persistence")[FIRST_LEAD:][: len(leads)]
        axis.plot(leads, persistence, color="0.4", ls="--", lw=1, label="persistence, mean")
        axis.set(yscale="log", title=dataset, xlabel="lead time [frames]")
        axis.title.set_fontsize(10)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        label_with_numbers(axis)
        axis.grid(which="both", alpha=0.2)
    for axis in axes[len(datasets) :]:
        axis.remove()
    figure.axes[0].set_ylabel("relative L2 error")
    figure.axes[0].legend(fontsize=8, edgecolor="none", framealpha=0.8)
    figure.suptitle("Error growth: median, and 10 to 90 % of the trajectories", fontsize=11)
    return figure


def spectra_figure(dataset: str, sources: Sources) -> Figure:
    """Show the mean energy of truth and forecasts at each wave number, a row for each field."""
    first = next(iter(sources.values()))
    fields, leads = scored_fields(first.info), first.spectrum_leads
    shown = np.unique(np.linspace(0, len(leads) - 1, SPECTRA).astype(int))
    figure = Figure(figsize=(3.0 * len(shown) + 0.8, 2.4 * len(fields) + 0.7), layout="constrained")
    axes = figure.subplots(len(fields), len(shown), squeeze=False, sharex=True, sharey="row")
    for row, field in zip(axes, fields, strict=True):
        for axis, s in zip(row, shown, strict=True):
            waves = np.arange(1, first.truth_spectra_SCK.shape[-1])
            truth = first.truth_spectra_SCK[s, field, 1:]
            axis.loglog(waves, truth, color="black", lw=2.2, label="truth")
            for color, (name, found) in zip(LINE_COLORS, sources.items(), strict=False):
                spectrum = found.forecast_spectra_SCK[s, field, 1:]
                axis.loglog(waves, spectrum, color=color, lw=1.2, label=name)
            for edge in BAND_EDGES:
                axis.axvline(edge, color="0.6", lw=0.8, ls=":")
            axis.grid(alpha=0.2)
            axis.tick_params(labelsize=8)
        row[0].set_ylabel(_energy(first.info, field), fontsize=9)
    for axis, s in zip(axes[0], shown, strict=True):
        axis.set_title(_lead(leads[s]), fontsize=9)
    for axis in axes[-1]:
        axis.set_xlabel("wave number [cycles per domain]", fontsize=9)
    axes[0, 0].legend(fontsize=8, edgecolor="none", framealpha=0.8)
    figure.suptitle(f"{dataset}: energy spectra, mean over trajectories", fontsize=11)
    return figure


def save_movies(folder: Path, dataset: str, sources: Sources) -> list[Path]:
    """Write a rollout as a GIF, and as an MP4 where ffmpeg is found; return the files."""
    movies = {name: found.moving for name, found in sources.items()}
    first = next(iter(sources.values()))
    examples = {name: movie for name, movie in movies.items() if movie is not None}
    if not examples:
        return []
    figure, images = _movie_figure(first.info, examples)
    FigureCanvasAgg(figure)
    writers: dict[str, Any] = {"gif": PillowWriter(fps=FRAMES_PER_SECOND)}
    if FFMpegWriter.isAvailable():
        writers["mp4"] = FFMpegWriter(fps=FRAMES_PER_SECOND)
    leads = next(iter(examples.values())).leads
    files = []
    for suffix, writer in writers.items():
        files.append(folder / f"rollout_{dataset}.{suffix}")
        with writer.saving(figure, str(files[-1]), MOVIE_DPI):
            for number, lead in enumerate(leads):
                for image, frames_Lxy in images:
                    put_frame(image, frames_Lxy[number], first.info)
                title = f"{dataset}: {_lead(lead)}, {_time(first, lead)}"
                figure.suptitle(title, fontsize=11)
                writer.grab_frame()
    return files


def _movie_figure(
    info: DatasetInfo, examples: Mapping[str, Example]
) -> tuple[Figure, list[tuple[AxesImage, Array]]]:
    """Return a row of truth, forecasts and errors for each field, and what moves in each."""
    fields, columns = scored_fields(info), 1 + 2 * len(examples)
    width, height = cell(info)
    figure = Figure(
        figsize=(1.3 * width * columns + 1.4, 1.3 * height * len(fields) + 0.9),
        layout="constrained",
    )
    axes = figure.subplots(len(fields), columns, squeeze=False)
    images = []
    for row, field in zip(axes, fields, strict=True):
        drawn = _draw_row(figure, row, info, field, examples)
        label_row(row[0], info.labels[field])
        images += drawn
    titles = ["truth", *examples, *(f"|error| of {name}" for name in examples)]
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=9)
    return figure, images


def _draw_row(
    figure: Figure,
    row: NDArray[np.object_],
    info: DatasetInfo,
    field: int,
    examples: Mapping[str, Example],
) -> list[tuple[AxesImage, Array]]:
    truth_Lxy, forecasts, errors = _of_field(field, examples)
    value, error = scales_of(truth_Lxy, errors)
    shown = [truth_Lxy, *forecasts, *errors]
    scales = [value] * (1 + len(forecasts)) + [error] * len(errors)
    images = [
        frame_image(axis, frames_Lxy[0], info, scale)
        for axis, frames_Lxy, scale in zip(row, shown, scales, strict=True)
    ]
    split = 1 + len(forecasts)
    figure.colorbar(images[0], ax=list(row[:split]), shrink=0.8, pad=0.01)
    figure.colorbar(images[-1], ax=list(row[split:]), shrink=0.8, pad=0.01)
    return list(zip(images, shown, strict=True))


def _draw_field(
    figure: Figure,
    axes: NDArray[np.object_],
    info: DatasetInfo,
    field: int,
    examples: Mapping[str, Example],
) -> None:
    """Draw the rows of a field: truth, forecasts, errors; with a bar for each scale."""
    truth_Lxy, forecasts, errors = _of_field(field, examples)
    value, error = scales_of(truth_Lxy, errors)
    channel, names = info.labels[field], list(examples) if len(examples) > 1 else [""]
    labels = [f"{channel}\n{words}" for words in ("truth", *(name or "forecast" for name in names))]
    labels += [f"{channel}\n|error| {name}".rstrip() for name in names]
    scales = [value] * (1 + len(forecasts)) + [error] * len(errors)
    rows = [truth_Lxy, *forecasts, *errors]
    images = []
    for row, frames_Lxy, label, scale in zip(axes, rows, labels, scales, strict=True):
        for axis, frame_xy in zip(row, frames_Lxy, strict=True):
            images.append(frame_image(axis, frame_xy, info, scale))
        label_row(row[0], label)
    split = 1 + len(forecasts)
    for part, image in ((axes[:split], images[0]), (axes[split:], images[-1])):
        bar = figure.colorbar(image, ax=part.ravel().tolist(), shrink=0.9, pad=0.01, aspect=20)
        bar.ax.tick_params(labelsize=8)


def _of_field(
    field: int, examples: Mapping[str, Example]
) -> tuple[Array, list[Array], list[Array]]:
    """Return truth, forecasts and absolute errors of a field, (L, x, y) each."""
    truth_Lxy: Array = plane(next(iter(examples.values())).truth_LCs)[:, field]
    forecasts = [plane(example.forecast_LCs)[:, field] for example in examples.values()]
    return truth_Lxy, forecasts, [np.abs(forecast - truth_Lxy) for forecast in forecasts]


def _lead(lead: int) -> str:
    return f"+{lead} frame{'s' * (lead > 1)}"


def _time(found: Details, lead: int) -> str:
    """Return the time since the last known frame, in words."""
    unit = found.info.time_unit
    return f"t = {found.times_L[lead - 1]:.3g}{f' {unit}' if has_unit(unit) else ''}"


def _energy(info: DatasetInfo, field: int) -> str:
    unit = info.units[field] if info.units else ""
    squared = f"{unit}²" if unit.isalpha() else f"({unit})²"
    return with_unit(f"energy of {info.channels[field]}", squared if has_unit(unit) else "")


def _quantiles(errors_NL: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (3, L); NaN where no trajectory has a frame."""
    found = np.full((len(QUANTILES), errors_NL.shape[1]), np.nan)
    for lead, errors_N in enumerate(errors_NL.T):
        there = errors_N[~np.isnan(errors_N)]
        if there.size:
            with np.errstate(invalid="ignore"):  # between infinite errors
                found[:, lead] = np.quantile(there, QUANTILES)
    return found
