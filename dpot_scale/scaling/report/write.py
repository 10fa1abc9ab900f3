"""Writes the report of a sweep into its directory, and puts it on its page in MLflow."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from dpot_scale.config.sweep import SweepConfig
from dpot_scale.errors import UserError
from dpot_scale.files import replacing, write_whole
from dpot_scale.scaling.plan import Trial
from dpot_scale.scaling.report.analysis import Analysis, analyze
from dpot_scale.scaling.report.blocks import Picture
from dpot_scale.scaling.report.compute_figure import compute_figure
from dpot_scale.scaling.report.data_figure import data_figure
from dpot_scale.scaling.report.data_files import latex_table, write_csv, write_lead_times
from dpot_scale.scaling.report.figures import scaling_figure
from dpot_scale.scaling.report.forecasts import forecast_figures
from dpot_scale.scaling.report.numbers import sweep_numbers
from dpot_scale.scaling.report.page.content import content_of
from dpot_scale.scaling.report.page.page import render
from dpot_scale.scaling.report.predictions import keep
from dpot_scale.scaling.report.results import arm_of, finished_trials
from dpot_scale.scaling.report.summary_figure import summary_figure
from dpot_scale.scaling.report.text import (
    PAGE,
    REPORT,
    report_blocks,
    summarize,
    write_markdown,
)
from dpot_scale.tracking.mlflow_client import LARGEST_TAG
from dpot_scale.tracking.mlflow_page import annotate

RESULTS = "results.csv"
LEAD_TIMES = "lead_times.csv"
LATEX = "results.tex"
FORECASTS = "forecasts_"  # and the name of a dataset
SUMMARY, FIGURE, COMPUTE_FIGURE, DATA_FIGURE = "summary", "scaling", "compute", "data"
CAPTIONS = {
    SUMMARY: "error against FLOPs, and the largest size as foretold by the smaller ones",
    FIGURE: "held-out error against model size",
    COMPUTE_FIGURE: "error and best size against FLOPs",
    DATA_FIGURE: "error against training trajectories",
}
MLFLOW_FOLDER = "report"
# Dots per inch. The summary is for pages elsewhere; MLflow shows a PNG as wide as it has dots, and
# the SVG of the summary as wide as it has inches.
DPI = {SUMMARY: 300}


class NothingToReportError(UserError):
    """No trial has finished."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """A sweep's outcome, for a terminal, as Markdown, and the files that hold it."""

    summary: str
    markdown: str
    files: tuple[Path, ...]
    numbers: Mapping[str, float]  # the sweep's own, as metrics
    is_complete: bool  # every trial has finished

    def note(self, run_id: str, charts: str) -> str:
        """Return the Markdown for the MLflow run that has the files, cut to what MLflow takes.

        Args:
            run_id: The run.
            charts: The address of the charts of its trials.
        """
        title, _, rest = self.markdown.partition("\n\n")
        markdown = f"{title}\n\n[Charts of all trials]({charts})\n\n{rest}"
        for figure in (file.name for file in self.files if file.suffix in (".png", ".svg")):
            picture = f"get-artifact?path={MLFLOW_FOLDER}%2F{figure}&run_uuid={run_id}"
            markdown = markdown.replace(f"]({figure})", f"]({picture})")
        parts = markdown.split("\n## ")
        end = f"\nThe rest is in the artifact {MLFLOW_FOLDER}/{REPORT}.\n"
        note = "\n## ".join(parts)
        while len(note) > LARGEST_TAG and len(parts) > 1:
            parts.pop()
            note = "\n## ".join(parts) + end
        return note


def write_report(sweep: SweepConfig, trials: Sequence[Trial]) -> Report:
    """Write the report, its page, figures and tables into the sweep's directory.

    Raises:
        NothingToReportError: no trial has finished.
        RecordError: another version wrote what a trial left.
    """
    trials = [trial for trial in trials if trial.role != "probe"]
    finished = finished_trials(trials)
    if not finished:
        raise NothingToReportError(
            f"no trial of sweep {sweep.name} in {sweep.directory} has finished; run it first"
        )
    arms = analyze(finished)
    _keep_predictions(trials, arms)
    figures = _figures(sweep.name, arms)
    forecasts = forecast_figures(arms)
    blocks = report_blocks(sweep, trials, finished, arms)
    pictures = [
        Picture(file=f"{name}.{'svg' if name == SUMMARY else 'png'}", caption=CAPTIONS[name])
        for name in figures
    ]
    pictures += [
        Picture(file=f"{FORECASTS}{name}.png", caption=f"forecasts of {name} by all sizes")
        for name in forecasts
    ]
    markdown = write_markdown(sweep.name, arms, pictures, blocks)
    figures |= {f"{FORECASTS}{name}": figure for name, figure in forecasts.items()}
    drawn = _save_figures(sweep.directory, figures)
    stills = {name: (sweep.directory / f"{FORECASTS}{name}.png").read_bytes() for name in forecasts}
    content = content_of(sweep, trials, finished, arms, blocks, stills)
    texts = {
        REPORT: markdown,
        PAGE: render(content, trials, arms),
        LATEX: latex_table(finished),
    }
    for name, text in texts.items():
        write_whole(sweep.directory / name, text)
    for name, write in {RESULTS: write_csv, LEAD_TIMES: write_lead_times}.items():
        with replacing(sweep.directory / name) as partial:
            write(partial, finished)
    names = [*texts, RESULTS, LEAD_TIMES, *drawn]
    return Report(
        summary=summarize(sweep, trials, finished, arms),
        markdown=markdown,
        files=tuple(sweep.directory / name for name in names),
        numbers=sweep_numbers(sweep, trials, finished, arms),
        is_complete=len(finished) == len(trials),
    )


def _keep_predictions(trials: Sequence[Trial], arms: Sequence[Analysis]) -> None:
    """Keep what the laws say of trials that have not finished, to be compared afterwards."""
    done = {entry.trial.id for found in arms for entry in found.finished}
    waiting = [trial for trial in trials if trial.role == "point" and trial.id not in done]
    for found in arms:
        own = [trial for trial in waiting if arm_of(trial) == arm_of(found.finished[0].trial)]
        for trial, expected in found.foretell(own):
            keep(trial.run.directory, expected, f"{found.law}", len(found.together))


def _figures(name: str, arms: Sequence[Analysis]) -> dict[str, Figure]:
    """Return the figures that the design allows, by the names of their files."""
    figures = {
        SUMMARY: summary_figure(arms),
        FIGURE: scaling_figure(name, arms),
        COMPUTE_FIGURE: compute_figure(name, arms),
        DATA_FIGURE: data_figure(name, arms),
    }
    return {name: figure for name, figure in figures.items() if figure is not None}


def _save_figures(directory: Path, figures: Mapping[str, Figure]) -> list[str]:
    """Write each figure as PNG and PDF, the summary as SVG too, and return their names."""
    files = []
    for name, figure in figures.items():
        for suffix in ("png", "pdf", "svg")[: 3 if name == SUMMARY else 2]:
            files.append(f"{name}.{suffix}")
            with replacing(directory / files[-1]) as partial:
                figure.savefig(partial, format=suffix, dpi=DPI.get(name, "figure"))
    return files


def publish(report: Report, sweep: SweepConfig) -> None:
    """Put a report on the page that the sweep has in MLflow."""
    annotate(
        sweep.directory,
        sweep.run.tracking,
        artifacts=dict.fromkeys(report.files, MLFLOW_FOLDER),
        note=report.note,
        numbers=report.numbers,
        is_finished=report.is_complete,
    )
