"""The results of a sweep as tables: for a terminal, in Markdown and as CSV."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from dpot_scale.evaluation.scores import DatasetScore
from dpot_scale.scaling.report.results import Finished
from dpot_scale.terminal import clock, table

VALID = "valid_rel_l2"  # the column of rollout errors on the valid split; empty without one
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


def trial_table(finished: Sequence[Finished]) -> str:
    """Return in Markdown what each trial was, took and reached."""
    return markdown(TRIAL_HEADER, [_trial_cells(entry) for entry in finished])


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
) -> str:
    """Return one score on each dataset in Markdown: that of persistence, then of each trial.

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
    return markdown(("size", "windows", *first), rows)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown, all columns but the first aligned to the right."""
    rule = ["---", *["--:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows))


def write_csv(path: Path, finished: Sequence[Finished]) -> None:
    """Write one row per trial and dataset, for people who fit their own laws."""
    columns = (
        "trial",
        "size",
        "parameters",
        "block_parameters",
        "windows",
        "train_flops",
        "distinct_windows",
        "seed",
    )
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*columns, "dataset", "digest", *DatasetScore.model_fields, VALID])
        for entry in finished:
            result = entry.result
            shared = [
                entry.trial.id,
                entry.trial.label,
                result.parameters,
                result.block_parameters,
                result.windows,
                entry.train_flops,
                round(entry.distinct_windows),
                entry.trial.run.seed,
            ]
            for name, score in result.evaluation.items():
                digest = result.datasets.get(name, "")
                valid = result.valid[name].rel_l2 if name in result.valid else ""
                writer.writerow([*shared, name, digest, *score.model_dump().values(), valid])


def _scores(evaluation: Mapping[str, DatasetScore], key: str) -> tuple[str, ...]:
    return tuple(f"{getattr(score, key):.4f}" for score in evaluation.values())


def _mean(evaluation: Mapping[str, DatasetScore], key: str) -> str:
    return f"{np.mean([getattr(score, key) for score in evaluation.values()]):.4f}"
