"""Writes the report of a sweep into its directory, and puts it on its page in MLflow."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dpot_scale.config.sweep import SweepConfig
from dpot_scale.errors import UserError
from dpot_scale.files import replacing, write_whole
from dpot_scale.scaling.plan import Trial
from dpot_scale.scaling.report.analysis import Analysis, analyze
from dpot_scale.scaling.report.compute_figure import compute_figure
from dpot_scale.scaling.report.data_figure import data_figure
from dpot_scale.scaling.report.figures import scaling_figure
from dpot_scale.scaling.report.predictions import keep
from dpot_scale.scaling.report.results import arm_of, finished_trials
from dpot_scale.scaling.report.table import write_csv
from dpot_scale.scaling.report.text import (
    COMPUTE_FIGURE,
    DATA_FIGURE,
    FIGURE,
    REPORT,
    summarize,
    write_markdown,
)
from dpot_scale.tracking.mlflow_page import LARGEST_NOTE, annotate

RESULTS = "results.csv"
MLFLOW_FOLDER = "report"


class NothingToReportError(UserError):
    """No trial has finished."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """A sweep's outcome, for a terminal, as Markdown, and the files that hold it."""

    summary: str
    markdown: str
    files: tuple[Path, ...]
    is_complete: bool  # every trial has finished

    def note(self, run_id: str) -> str:
        """Return the Markdown for the MLflow run that has the files, cut to what MLflow takes."""
        markdown = self.markdown
        for figure in (FIGURE, COMPUTE_FIGURE, DATA_FIGURE):
            picture = f"get-artifact?path={MLFLOW_FOLDER}%2F{figure}&run_uuid={run_id}"
            markdown = markdown.replace(f"]({figure})", f"]({picture})")
        parts = markdown.split("\n## ")
        end = f"\nThe rest is in the artifact {MLFLOW_FOLDER}/{REPORT}.\n"
        note = "\n## ".join(parts)
        while len(note) > LARGEST_NOTE and len(parts) > 1:
            parts.pop()
            note = "\n## ".join(parts) + end
        return note


def write_report(sweep: SweepConfig, trials: Sequence[Trial]) -> Report:
    """Write report.md, its figures and results.csv into the sweep's directory.

    Raises:
        NothingToReportError: no trial has finished.
    """
    trials = [trial for trial in trials if trial.role != "probe"]
    finished = finished_trials(trials)
    if not finished:
        raise NothingToReportError(
            f"no trial of sweep {sweep.name} in {sweep.directory} has finished; run it first"
        )
    arms = analyze(finished)
    _keep_predictions(trials, arms)
    figures = {FIGURE: scaling_figure(sweep.name, arms)}
    if (compute := compute_figure(sweep.name, arms)) is not None:
        figures[COMPUTE_FIGURE] = compute
    if (data := data_figure(sweep.name, arms)) is not None:
        figures[DATA_FIGURE] = data
    markdown = write_markdown(sweep, trials, finished, arms)
    files = tuple(sweep.directory / name for name in (REPORT, *figures, RESULTS))
    write_whole(files[0], markdown)
    for name, figure in figures.items():
        with replacing(sweep.directory / name) as partial:
            figure.savefig(partial, format="png")
    with replacing(files[-1]) as partial:
        write_csv(partial, finished)
    return Report(
        summary=summarize(sweep, trials, finished, arms),
        markdown=markdown,
        files=files,
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


def publish(report: Report, sweep: SweepConfig) -> None:
    """Put a report on the page that the sweep has in MLflow."""
    annotate(
        sweep.directory,
        sweep.run.tracking,
        artifacts=dict.fromkeys(report.files, MLFLOW_FOLDER),
        note=report.note,
        is_finished=report.is_complete,
    )
