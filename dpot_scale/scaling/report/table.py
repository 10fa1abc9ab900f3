"""The results of a sweep as tables, for a terminal and for a report."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from dpot_scale.evaluation.scores import DatasetScore
from dpot_scale.scaling.report.analysis import Analysis
from dpot_scale.scaling.report.blocks import Table
from dpot_scale.scaling.report.laws.fit import Interval
from dpot_scale.scaling.report.lines import TRAJECTORIES, mean_over_seeds
from dpot_scale.scaling.report.results import Finished
from dpot_scale.terminal import clock, table

OVERVIEW_HEADER = (
    "model",
    "parameters",
    "windows",
    "seeds",
    "rollout rel_l2",
    "95 % of the seeds",
    "law (95 %)",
    "over persistence",
)
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


def error_table(finished: Sequence[Finished]) -> str:
    """Return the errors of all trials beside those of persistence, for a terminal."""
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
    return table(header, rows)


def overview_table(arms: Sequence[Analysis], *, all_lengths: bool = True) -> Table:
    """Return the errors of each size and length beside persistence, with their intervals.

    Args:
        arms: The laws.
        all_lengths: Or only those of the trials to speak of.
    """
    first = arms[0].shown.result
    persistence = [f"{score.persistence_rel_l2:.4f}" for score in first.evaluation.values()]
    mean = first.mean_persistence_rel_l2
    rows: list[Sequence[str]] = [
        ("persistence", "", "", "", f"{mean:.4f}", "", "", "1.00", *persistence)
    ]
    for found in arms:
        entries = found.finished if all_lengths else found.main.trials
        rows += [_overview_cells(found, group, mean) for group in _groups(entries)]
    return Table(header=(*OVERVIEW_HEADER, *first.evaluation), rows=rows)


def _groups(finished: Sequence[Finished]) -> list[list[Finished]]:
    """Return the trials that differ in their seed alone, by size and length."""
    groups: dict[tuple[float, ...], list[Finished]] = defaultdict(list)
    for entry in finished:
        amount = float(entry.trial.factors.get(TRAJECTORIES, 0))
        groups[entry.result.parameters, entry.result.windows, amount].append(entry)
    return [groups[key] for key in sorted(groups)]


def _overview_cells(found: Analysis, group: Sequence[Finished], persistence: float) -> list[str]:
    first = group[0]
    name = str(first.trial.factors.get("size", first.trial.label))
    error = mean_over_seeds([entry.result.mean_rel_l2 for entry in group])
    law = found.law_at(group)
    of_datasets = [
        mean_over_seeds([entry.result.evaluation[name].rel_l2 for entry in group]).value
        for name in first.result.evaluation
    ]
    return [
        f"{found.arm}, {name}" if found.arm and found.arm != name else name,
        f"{first.result.parameters:,}",
        f"{first.result.windows:,}",
        str(len(group)),
        f"{error.value:.4f}",
        _ends(error) if len(group) > 1 else "",
        f"{law.value:.4f} ({_ends(law)})" if law is not None else "",
        f"{error.value / persistence:.2f}" if persistence else "",
        *(f"{value:.4f}" for value in of_datasets),
    ]


def _ends(interval: Interval) -> str:
    return f"{interval.low:.4f} to {interval.high:.4f}"


def trial_table(finished: Sequence[Finished]) -> Table:
    """Return what each trial was, took and reached."""
    return Table(header=TRIAL_HEADER, rows=[_trial_cells(entry) for entry in finished])


def _trial_cells(entry: Finished) -> tuple[str, ...]:
    result = entry.result
    return (
        entry.trial.label,
        f"{result.parameters:,}",
        f"{result.block_parameters:,}",
        f"{result.windows:,}",
        f"{entry.train_flops:.2e}",
        f"{result.mean_rel_l2:.4f}",
        f"{result.mean_one_step_rel_l2:.4f}",
        f"{result.windows_per_second:.1f}",
        f"{result.peak_memory_gib:.2f} GiB",
        clock(result.seconds),
    )


def dataset_table(
    finished: Sequence[Finished],
    score: str,
    baseline: str,
    split: Literal["valid", "test"] = "test",
) -> Table:
    """Return one score on each dataset: that of persistence, then of each trial.

    Args:
        finished: The trials.
        score: A field of `DatasetScore`.
        baseline: The field that holds the same of persistence.
        split: The held-out split.
    """
    evaluations = [
        entry.result.evaluation if split == "test" else entry.result.valid for entry in finished
    ]
    first = evaluations[0]
    rows = [("persistence", "", *_scores(first, baseline))]
    rows += [
        (entry.trial.label, f"{entry.result.windows:,}", *_scores(evaluation, score))
        for entry, evaluation in zip(finished, evaluations, strict=True)
    ]
    return Table(header=("size", "windows", *first), rows=rows)


def _scores(evaluation: Mapping[str, DatasetScore], key: str) -> tuple[str, ...]:
    return tuple(f"{getattr(score, key):.4f}" for score in evaluation.values())


def _mean(evaluation: Mapping[str, DatasetScore], key: str) -> str:
    return f"{np.mean([getattr(score, key) for score in evaluation.values()]):.4f}"
