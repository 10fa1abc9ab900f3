"""What a sweep has shown, in words: one conclusion, for a terminal and in Markdown."""

import textwrap
from collections.abc import Sequence
from itertools import pairwise
from math import isfinite

from dpot_scale.config.sweep import SweepConfig
from dpot_scale.scaling.plan import Trial
from dpot_scale.scaling.report.laws import FEWEST_SIZES, fit_power_law
from dpot_scale.scaling.report.results import Finished, by_windows, chosen_by_valid
from dpot_scale.scaling.report.table import dataset_table, error_table, trial_table
from dpot_scale.tracking.mlflow_page import review

REPORT = "report.md"
FIGURE = "scaling.png"


def conclude(finished: Sequence[Finished]) -> str:
    """Return what the longest trainings say about size, in sentences made of their numbers."""
    windows, group = list(by_windows(finished).items())[-1]
    smallest, largest = group[0].result, group[-1].result
    ends = [smallest, largest][len({smallest.parameters, largest.parameters}) == 1 :]
    errors_at = " and ".join(f"{e.mean_rel_l2:.3f} for {e.parameters:,} parameters" for e in ends)
    sentences = [
        f"At {windows:,} windows the held-out rollout error (rel_l2, mean over "
        f"{len(largest.evaluation)} datasets) is {errors_at}."
    ]
    sizes = [entry.result.parameters for entry in group]
    errors = [entry.result.mean_rel_l2 for entry in group]
    law, count = fit_power_law(sizes, errors), len(set(sizes))
    sentences.append(
        f"{count} finished size{'s' * (count > 1)}: a power law needs at least {FEWEST_SIZES}."
        if law is None
        else f"Power law: rel_l2 = {law}, N in parameters."
    )
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
    sentences += _choice(finished)
    worse = [n for n, s in largest.evaluation.items() if not s.rel_l2 < s.persistence_rel_l2]
    sentences.append(
        f"{group[-1].trial.label} does not beat repeating the last frame on: {', '.join(worse)}."
        if worse
        else f"{group[-1].trial.label} beats repeating the last frame on every dataset."
    )
    return " ".join(sentences)


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


def summarize(sweep: SweepConfig, finished: Sequence[Finished]) -> str:
    """Return for a terminal: the errors beside persistence, and the conclusion."""
    lines = [error_table(finished), "", *textwrap.wrap(conclude(finished), 100), ""]
    lines += [f"report: {sweep.directory / REPORT}", f"figure: {sweep.directory / FIGURE}"]
    lines += review(sweep.directory, sweep.run.tracking, page="experiment")
    return "\n".join(lines)


def _valid_table(finished: Sequence[Finished]) -> list[str]:
    scored = [entry for entry in finished if entry.result.valid]
    if not scored:
        return []
    table = dataset_table(scored, "rel_l2", "persistence_rel_l2", split="valid")
    return ["## Rollout rel_l2 on the valid split", table]


def write_markdown(
    sweep: SweepConfig, trials: Sequence[Trial], finished: Sequence[Finished]
) -> str:
    """Return the whole report in Markdown: the conclusion, the figure and every table."""
    parts = [
        f"# Sweep {sweep.name}",
        conclude(finished),
        f"![held-out error against model size]({FIGURE})",
        f"{len(finished)} of {len(trials)} trials finished, each on {sweep.resources.workers} "
        f"workers with {sweep.run.engine.deepspeed.name}. Lower is better; persistence repeats the "
        "last known frame.",
        "## Trials",
        trial_table(finished),
        "## Rollout rel_l2",
        dataset_table(finished, "rel_l2", "persistence_rel_l2"),
        *_valid_table(finished),
        "## One-step rel_l2",
        dataset_table(finished, "one_step_rel_l2", "persistence_one_step_rel_l2"),
    ]
    return "\n\n".join(parts) + "\n"
