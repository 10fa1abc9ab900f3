"""What a sweep has shown: a table, a figure, a power law and one conclusion, from its results."""

import csv
import textwrap
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from dpot_scale.config.sweep import SweepConfig
from dpot_scale.errors import UserError
from dpot_scale.evaluation.figures import LINE_COLORS, label_with_numbers
from dpot_scale.evaluation.scores import DatasetScore
from dpot_scale.files import replacing, write_whole
from dpot_scale.runs.result import TrainingResult, read_result
from dpot_scale.scaling.law import FEWEST_SIZES, PowerLaw, fit_power_law
from dpot_scale.scaling.plan import Trial, duration
from dpot_scale.terminal import table
from dpot_scale.tracking.mlflow_run import LARGEST_NOTE, annotate, review

REPORT = "report.md"
FIGURE = "scaling.png"
RESULTS = "results.csv"
MLFLOW_FOLDER = "report"


class NothingToReportError(UserError):
    """No trial has finished."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """A finished trial."""

    trial: Trial
    result: TrainingResult


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """A sweep's outcome, for a terminal, as Markdown, and the files that hold it."""

    summary: str
    markdown: str
    files: tuple[Path, ...]
    is_complete: bool  # every trial has finished

    def note(self, run_id: str) -> str:
        """Return the Markdown for the MLflow run that has the files, cut to what MLflow takes."""
        picture = f"get-artifact?path={MLFLOW_FOLDER}%2F{FIGURE}&run_uuid={run_id}"
        parts = self.markdown.replace(f"]({FIGURE})", f"]({picture})").split("\n## ")
        end = f"\nThe rest is in the artifact {MLFLOW_FOLDER}/{REPORT}.\n"
        note = "\n## ".join(parts)
        while len(note) > LARGEST_NOTE and len(parts) > 1:
            parts.pop()
            note = "\n## ".join(parts) + end
        return note


def write_report(sweep: SweepConfig, trials: Sequence[Trial]) -> Report:
    """Write report.md, scaling.png and results.csv into the sweep's directory.

    Raises:
        NothingToReportError: no trial has finished.
    """
    finished = finished_trials(trials)
    if not finished:
        raise NothingToReportError(
            f"no trial of sweep {sweep.name} in {sweep.directory} has finished; run it first"
        )
    markdown = _markdown(sweep, trials, finished)
    files = tuple(sweep.directory / name for name in (REPORT, FIGURE, RESULTS))
    write_whole(files[0], markdown)
    with replacing(files[1]) as partial:
        scaling_figure(sweep.name, finished).savefig(partial, format="png")
    with replacing(files[2]) as partial:
        _write_csv(partial, finished)
    return Report(
        summary=_summary(sweep, finished),
        markdown=markdown,
        files=files,
        is_complete=len(finished) == len(trials),
    )


def publish(report: Report, sweep: SweepConfig) -> None:
    """Put a report on the page that the sweep has in MLflow."""
    annotate(
        sweep.directory,
        sweep.run.tracking,
        artifacts=dict.fromkeys(report.files, MLFLOW_FOLDER),
        note=report.note,
        is_finished=report.is_complete,
    )


def finished_trials(trials: Sequence[Trial]) -> list[Finished]:
    """Return the trials that have a result, in the order of the plan."""
    results = [(trial, read_result(trial.run.directory)) for trial in trials]
    return [Finished(trial=t, result=r) for t, r in results if r is not None]


def scaling_figure(name: str, finished: Sequence[Finished]) -> Figure:
    """Show held-out error against model size, the mean with its fit and each dataset."""
    figure = Figure(figsize=(7, 8.4), dpi=100, layout="constrained")  # MLflow shows 700 pixels
    mean_axis, dataset_axis = figure.subplots(2, 1)
    for color, (windows, group) in zip(LINE_COLORS, _by_windows(finished).items(), strict=False):
        _draw_mean(mean_axis, group, windows, color)
    _draw_datasets(dataset_axis, list(_by_windows(finished).values())[-1])
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
        label = f"{kind}, {windows:,} windows"
        axis.plot(sizes, errors, marker, color=color, ms=5, label=label, mfc=_fill(kind, color))
        if law is not None:
            line = np.geomspace(min(sizes), max(sizes), 50)
            style = "-" if kind == "rollout" else "--"
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


def _fill(kind: str, color: str) -> str:
    return color if kind == "rollout" else "white"


def _draw_datasets(axis: Axes, group: Sequence[Finished]) -> None:
    sizes = [entry.result.parameters for entry in group]
    for i, name in enumerate(group[0].result.evaluation):
        color = LINE_COLORS[i % len(LINE_COLORS)]
        scores = [entry.result.evaluation[name] for entry in group]
        axis.plot(sizes, [s.rel_l2 for s in scores], "o-", color=color, ms=4, lw=1, label=name)
        axis.axhline(scores[0].persistence_rel_l2, color=color, ls=":", lw=1)
    axis.plot([], [], color="0.4", ls=":", lw=1, label="persistence (same colour)")


def _by_windows(finished: Sequence[Finished]) -> dict[int, list[Finished]]:
    """Return the trials of equal training length together, each group by model size."""
    groups: dict[int, list[Finished]] = defaultdict(list)
    for entry in sorted(finished, key=lambda entry: entry.result.parameters):
        groups[entry.result.windows].append(entry)
    return dict(sorted(groups.items()))


def _conclusion(finished: Sequence[Finished]) -> str:
    """Return what the longest trainings say about size, in sentences made of their numbers."""
    windows, group = list(_by_windows(finished).items())[-1]
    smallest, largest = group[0].result, group[-1].result
    ends = [smallest, largest][len({smallest.parameters, largest.parameters}) == 1 :]
    errors_at = " and ".join(f"{e.mean_rel_l2:.3f} for {e.parameters:,} parameters" for e in ends)
    sentences = [
        f"At {windows:,} windows the held-out rollout error (rel_l2, mean over "
        f"{len(largest.evaluation)} datasets) is {errors_at}."
    ]
    law = _law(group)
    sizes = len({entry.result.parameters for entry in group})
    sentences.append(
        f"{sizes} finished size{'s' * (sizes > 1)}: a power law needs at least {FEWEST_SIZES}."
        if law is None
        else f"Power law: rel_l2 = {law}, N in parameters."
    )
    errors = [entry.result.mean_rel_l2 for entry in group]
    lost = [entry.trial.label for entry in group if not isfinite(entry.result.mean_rel_l2)]
    if lost:
        sentences.append(f"No law holds the forecasts of {', '.join(lost)}, which are not finite.")
    if len(errors) > 1:
        falls = all(after < before for before, after in pairwise(errors))
        sentences.append(
            "The error falls with every step in size."
            if falls
            else "The error does not fall with every step in size."
        )
    worse = [n for n, s in largest.evaluation.items() if not s.rel_l2 < s.persistence_rel_l2]
    sentences.append(
        f"{group[-1].trial.label} does not beat repeating the last frame on: {', '.join(worse)}."
        if worse
        else f"{group[-1].trial.label} beats repeating the last frame on every dataset."
    )
    return " ".join(sentences)


def _law(group: Sequence[Finished]) -> PowerLaw | None:
    sizes = [entry.result.parameters for entry in group]
    return fit_power_law(sizes, [entry.result.mean_rel_l2 for entry in group])


def _summary(sweep: SweepConfig, finished: Sequence[Finished]) -> str:
    """Return for a terminal: the errors beside persistence, and the conclusion."""
    first = finished[0].result.evaluation
    header = ("size", "parameters", "windows", "rollout rel_l2", *first)
    rows = [
        (
            "persistence",
            "",
            "",
            _mean(first, "persistence_rel_l2"),
            *_scores(first, "persistence_rel_l2"),
        )
    ]
    for entry in finished:
        result = entry.result
        cells = (entry.trial.label, f"{result.parameters:,}", f"{result.windows:,}")
        scores = _scores(result.evaluation, "rel_l2")
        rows.append((*cells, _mean(result.evaluation, "rel_l2"), *scores))
    lines = [table(header, rows), "", *textwrap.wrap(_conclusion(finished), 100), ""]
    lines += [f"report: {sweep.directory / REPORT}", f"figure: {sweep.directory / FIGURE}"]
    lines += review(sweep.directory, sweep.run.tracking, page="experiment")
    return "\n".join(lines)


def _markdown(sweep: SweepConfig, trials: Sequence[Trial], finished: Sequence[Finished]) -> str:
    parts = [
        f"# Sweep {sweep.name}",
        _conclusion(finished),
        f"![held-out error against model size]({FIGURE})",
        f"{len(finished)} of {len(trials)} trials finished, each on {sweep.resources.workers} "
        f"workers with {sweep.run.engine.deepspeed.name}. Lower is better; persistence repeats the "
        "last known frame.",
        "## Trials",
        _markdown_table(TRIAL_HEADER, [_trial_cells(entry) for entry in finished]),
        *_dataset_tables(finished),
    ]
    return "\n\n".join(parts) + "\n"


TRIAL_HEADER = (
    "size",
    "parameters",
    "in blocks",
    "windows",
    "train FLOPs",
    "rollout rel_l2",
    "one-step rel_l2",
    "windows/s",
    "peak memory",
    "time",
)


def _trial_cells(entry: Finished) -> tuple[str, ...]:
    result = entry.result
    return (
        entry.trial.label,
        f"{result.parameters:,}",
        f"{result.block_parameters:,}",
        f"{result.windows:,}",
        f"{result.train_flops:.2e}",
        f"{result.mean_rel_l2:.4f}",
        f"{result.mean_one_step_rel_l2:.4f}",
        f"{result.windows_per_second:.1f}",
        f"{result.peak_memory_gib:.2f} GiB",
        duration(result.seconds),
    )


def _dataset_tables(finished: Sequence[Finished]) -> list[str]:
    """Return a table of rollout and one of one-step errors: persistence, then each trial."""
    parts = []
    for title, score, baseline in (
        ("Rollout rel_l2", "rel_l2", "persistence_rel_l2"),
        ("One-step rel_l2", "one_step_rel_l2", "persistence_one_step_rel_l2"),
    ):
        first = finished[0].result.evaluation
        rows = [("persistence", "", *_scores(first, baseline))]
        rows += [
            (
                entry.trial.label,
                f"{entry.result.windows:,}",
                *_scores(entry.result.evaluation, score),
            )
            for entry in finished
        ]
        parts += [f"## {title}", _markdown_table(("size", "windows", *first), rows)]
    return parts


def _scores(evaluation: Mapping[str, DatasetScore], key: str) -> tuple[str, ...]:
    return tuple(f"{getattr(score, key):.4f}" for score in evaluation.values())


def _mean(evaluation: Mapping[str, DatasetScore], key: str) -> str:
    return f"{np.mean([getattr(score, key) for score in evaluation.values()]):.4f}"


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["--:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows))


def _write_csv(path: Path, finished: Sequence[Finished]) -> None:
    """Write one row per trial and dataset, for people who fit their own laws."""
    columns = ("trial", "size", "parameters", "block_parameters", "windows", "train_flops")
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*columns, "dataset", "digest", *DatasetScore.model_fields])
        for entry in finished:
            result = entry.result
            shared = [
                entry.trial.id,
                entry.trial.label,
                result.parameters,
                result.block_parameters,
                result.windows,
                result.train_flops,
            ]
            for name, score in result.evaluation.items():
                digest = result.datasets.get(name, "")
                writer.writerow([*shared, name, digest, *score.model_dump().values()])
