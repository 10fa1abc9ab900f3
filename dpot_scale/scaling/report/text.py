"""What a sweep has shown, in words: one conclusion, for a terminal and in Markdown."""

import textwrap
from collections.abc import Sequence
from math import isfinite

import numpy as np

from dpot_scale.config.sweep import SweepConfig
from dpot_scale.scaling.plan import Trial
from dpot_scale.scaling.report.analysis import Analysis
from dpot_scale.scaling.report.law_text import law_sentences, law_tables
from dpot_scale.scaling.report.price_text import price_sentences, price_tables
from dpot_scale.scaling.report.results import Finished, chosen_by_valid
from dpot_scale.scaling.report.table import dataset_table, error_table, trial_table
from dpot_scale.tracking.mlflow_page import review

REPORT = "report.md"
FIGURE = "scaling.png"


def conclude(found: Analysis) -> str:
    """Return what the longest trainings say about size, in sentences made of their numbers."""
    group = found.group
    largest = group[-1].result
    ends = sorted({group[0].result.parameters, largest.parameters})
    errors_at = " and ".join(
        f"{_mean_error(group, parameters):.3f} for {parameters:,} parameters" for parameters in ends
    )
    sentences = [
        f"At {largest.windows:,} windows the held-out rollout error (rel_l2, mean over "
        f"{len(largest.evaluation)} datasets) is {errors_at}."
    ]
    sentences += law_sentences(found)
    lost = [entry.trial.label for entry in group if not isfinite(entry.result.mean_rel_l2)]
    if lost:
        sentences.append(f"No law holds the forecasts of {', '.join(lost)}, which are not finite.")
    sentences += [*_choice(found.finished), *price_sentences(found)]
    worse = [n for n, s in largest.evaluation.items() if not s.rel_l2 < s.persistence_rel_l2]
    sentences.append(
        f"{group[-1].trial.label} does not beat repeating the last frame on: {', '.join(worse)}."
        if worse
        else f"{group[-1].trial.label} beats repeating the last frame on every dataset."
    )
    return " ".join(sentences)


def _mean_error(group: Sequence[Finished], parameters: int) -> float:
    """Return the rollout error of a size, mean over its trials."""
    results = [entry.result for entry in group if entry.result.parameters == parameters]
    return float(np.mean([result.mean_rel_l2 for result in results]))


def _choice(finished: Sequence[Finished]) -> list[str]:
    """Say which trial the valid split chooses, and what the test says of it."""
    best = chosen_by_valid(finished)
    if best is None:
        return []
    result = best.result
    return [
        f"Chosen by the valid split: {best.trial.label} at {result.windows:,} windows, with "
        f"{result.mean_valid_rel_l2:.3f} there and {result.mean_rel_l2:.3f} on the test split."
    ]


def summarize(sweep: SweepConfig, found: Analysis) -> str:
    """Return for a terminal: the errors beside persistence, and the conclusion."""
    lines = [error_table(found.finished), "", *textwrap.wrap(conclude(found), 100), ""]
    lines += [f"report: {sweep.directory / REPORT}", f"figure: {sweep.directory / FIGURE}"]
    lines += review(sweep.directory, sweep.run.tracking, page="experiment")
    return "\n".join(lines)


def _valid_table(finished: Sequence[Finished]) -> list[str]:
    scored = [entry for entry in finished if entry.result.valid]
    if not scored:
        return []
    table = dataset_table(scored, "rel_l2", "persistence_rel_l2", split="valid")
    return ["## Rollout rel_l2 on the valid split", table]


def write_markdown(sweep: SweepConfig, trials: Sequence[Trial], found: Analysis) -> str:
    """Return the whole report in Markdown: the conclusion, the figure and every table."""
    finished = found.finished
    parts = [
        f"# Sweep {sweep.name}",
        conclude(found),
        f"![held-out error against model size]({FIGURE})",
        f"{len(finished)} of {len(trials)} trials finished, each on {sweep.resources.workers} "
        f"workers with {sweep.run.engine.deepspeed.name}. Lower is better; persistence repeats the "
        "last known frame.",
        "## Trials",
        trial_table(finished),
        *law_tables(trials, found),
        *price_tables(found),
        "## Rollout rel_l2",
        dataset_table(finished, "rel_l2", "persistence_rel_l2"),
        *_valid_table(finished),
        "## One-step rel_l2",
        dataset_table(finished, "one_step_rel_l2", "persistence_one_step_rel_l2"),
    ]
    return "\n\n".join(parts) + "\n"
