"""What a sweep has shown, in words: one conclusion, for a terminal and in Markdown."""

import textwrap
from collections.abc import Sequence
from math import isfinite

import numpy as np

from dpot_scale.config.sweep import SweepConfig
from dpot_scale.scaling.plan import Trial
from dpot_scale.scaling.plan_text import rule_lines
from dpot_scale.scaling.report.analysis import Analysis
from dpot_scale.scaling.report.blocks import Block, Heading, Items, Picture, markdown
from dpot_scale.scaling.report.law_text import law_sentences, law_tables
from dpot_scale.scaling.report.left_out import left_out
from dpot_scale.scaling.report.price_text import price_sentences, price_tables
from dpot_scale.scaling.report.results import Finished, arm_of, chosen_by_valid
from dpot_scale.scaling.report.table import dataset_table, error_table, trial_table
from dpot_scale.tracking.mlflow_page import review

REPORT = "report.md"
PAGE = "report.html"


def conclude(arms: Sequence[Analysis]) -> list[str]:
    """Return what the trials say about size and data, a paragraph for each arm."""
    paragraphs = [f"{found.arm}: " * bool(found.arm) + _conclude(found) for found in arms]
    choice = _choice([entry for found in arms for entry in found.finished])
    return [*paragraphs, *choice]


def _conclude(found: Analysis) -> str:
    """Return what the longest trainings say about size, in sentences made of their numbers."""
    shown = found.shown.result
    sentences = [_errors(found)]
    sentences += law_sentences(found)
    lost = _lost(found)
    if lost:
        sentences.append(f"No law holds the forecasts of {', '.join(lost)}, which are not finite.")
    sentences += price_sentences(found)
    worse = [n for n, s in shown.evaluation.items() if not s.rel_l2 < s.persistence_rel_l2]
    sentences.append(
        f"{found.shown.trial.label} does not beat repeating the last frame on: {', '.join(worse)}."
        if worse
        else f"{found.shown.trial.label} beats repeating the last frame on every dataset."
    )
    return " ".join(sentences)


def _lost(found: Analysis) -> list[str]:
    """Return the trials that no law goes through, as their errors are not finite."""
    lengths = {entry.result.windows for entry in found.together}
    return [
        entry.trial.label + f" at {entry.result.windows:,} windows" * (len(lengths) > 1)
        for entry in found.together
        if not isfinite(entry.result.mean_rel_l2)
    ]


def _errors(found: Analysis) -> str:
    """Say the errors of the smallest and the largest model, or the best for the most FLOPs."""
    group, shown = found.group, found.shown.result
    first, *others = shown.evaluation
    on = f"mean over {len(shown.evaluation)} datasets" if others else f"on {first}"
    what = f"the held-out rollout error (rel_l2, {on}) is"
    if found.has_no_ladder:
        return (
            f"At {found.shown.train_flops:.2g} FLOPs {what} {shown.mean_rel_l2:.3f} at best, for "
            f"{shown.parameters:,} parameters and {shown.windows:,} windows."
        )
    ends = sorted({group[0].result.parameters, shown.parameters})
    errors_at = " and ".join(
        f"{_mean_error(group, parameters):.3f} for {parameters:,} parameters" for parameters in ends
    )
    return f"At {shown.windows:,} windows {what} {errors_at}."


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


def summarize(
    sweep: SweepConfig,
    trials: Sequence[Trial],
    finished: Sequence[Finished],
    arms: Sequence[Analysis],
) -> str:
    """Return for a terminal: the errors beside persistence, and the conclusion."""
    lines = [error_table(finished), ""]
    reasons = left_out(sweep, trials, finished)
    lines += [f"left out: {trial}, {why}" for trial, why in reasons.items()]
    lines += [""] if reasons else []
    for paragraph in conclude(arms):
        lines += [*textwrap.wrap(paragraph, 100), ""]
    lines += [f"report: {sweep.directory / REPORT}", f"page: {sweep.directory / PAGE}"]
    lines += review(sweep.directory, sweep.run.tracking, page="experiment")
    return "\n".join(lines)


def report_blocks(
    sweep: SweepConfig,
    trials: Sequence[Trial],
    finished: Sequence[Finished],
    arms: Sequence[Analysis],
) -> list[Block]:
    """Return the tables of the report, each below its heading."""
    resources = sweep.resources
    return [
        Heading(text="Trials"),
        f"{len(finished)} of {len(trials)} trials finished, each on "
        f"{resources.workers_in_words} worker{'s' * (resources.most_workers != 1)} with "
        f"{sweep.run.engine.deepspeed.name}. Lower is better; persistence repeats the last known "
        "frame.",
        *rule_lines(sweep, trials),
        trial_table(finished),
        *_left_out(sweep, trials, finished),
        *_arms(trials, arms),
        Heading(text="Rollout rel_l2"),
        dataset_table(finished, "rel_l2", "persistence_rel_l2"),
        *_valid_table(finished),
        Heading(text="One-step rel_l2"),
        dataset_table(finished, "one_step_rel_l2", "persistence_one_step_rel_l2"),
    ]


def _valid_table(finished: Sequence[Finished]) -> list[Block]:
    scored = [entry for entry in finished if entry.result.valid]
    if not scored:
        return []
    table = dataset_table(scored, "rel_l2", "persistence_rel_l2", split="valid")
    return [Heading(text="Rollout rel_l2 on the valid split"), table]


def write_markdown(
    name: str, arms: Sequence[Analysis], pictures: Sequence[Picture], blocks: Sequence[Block]
) -> str:
    """Return the whole report in Markdown: the conclusion, the figures and every table."""
    parts = [*conclude(arms), *pictures, *blocks]
    return f"# Sweep {name}\n\n{markdown(parts)}\n"


def _left_out(
    sweep: SweepConfig, trials: Sequence[Trial], finished: Sequence[Finished]
) -> list[Block]:
    """Return the trials that no law goes through, with their reasons."""
    reasons = left_out(sweep, trials, finished)
    if not reasons:
        return []
    return ["Left out of every fit:", Items(texts=[f"{t}: {why}" for t, why in reasons.items()])]


def _arms(trials: Sequence[Trial], arms: Sequence[Analysis]) -> list[Block]:
    """Return the laws and the prices of each arm."""
    done = {entry.trial.id for found in arms for entry in found.finished}
    waiting = [trial for trial in trials if trial.id not in done]
    parts: list[Block] = []
    for found in arms:
        own = [trial for trial in waiting if arm_of(trial) == arm_of(found.finished[0].trial)]
        parts += [*law_tables(own, found), *price_tables(found)]
    return parts
