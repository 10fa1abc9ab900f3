"""The results of a sweep as CSV and LaTeX, for people who fit, plot or print them."""

import csv
from collections.abc import Iterable, Sequence
from math import isfinite, nan
from pathlib import Path

from dpot_scale.evaluation.scores import DatasetScore
from dpot_scale.scaling.report.results import Finished

VALID = "valid_rel_l2"  # the column of rollout errors on the valid split; empty without one
COLUMNS = (
    "trial",
    "label",
    "size",
    "parameters",
    "block_parameters",
    "windows",
    "train_flops",
    "distinct_windows",
    "seed",
    "family",
)
LEAD_TIME_COLUMNS = ("trial", "label", "dataset", "lead_time", "rel_l2")
# What LaTeX reads otherwise than as it stands.
LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def write_csv(path: Path, finished: Sequence[Finished]) -> None:
    """Write one row per trial and dataset, with every factor of the design."""
    factors = other_factors(finished)
    header = [*COLUMNS, *factors, "dataset", "digest", *DatasetScore.model_fields, VALID]
    _write(path, header, (row for entry in finished for row in _rows(entry, factors)))


def other_factors(finished: Iterable[Finished]) -> list[str]:
    """Return the factors of trials that no column has yet, in the order of the design."""
    named = dict.fromkeys(name for entry in finished for name in entry.trial.factors)
    return [name for name in named if name not in COLUMNS]


def _rows(entry: Finished, factors: Sequence[str]) -> Iterable[list[object]]:
    trial, result = entry.trial, entry.result
    shared: list[object] = [
        trial.id,
        trial.label,
        trial.factors.get("size", trial.label),
        result.parameters,
        result.block_parameters,
        result.windows,
        entry.train_flops,
        round(entry.distinct_windows),
        trial.run.seed,
        trial.run.model.family,
        *(trial.factors.get(name, "") for name in factors),
    ]
    for name, score in result.evaluation.items():
        valid = result.valid[name].rel_l2 if name in result.valid else ""
        digest = result.datasets.get(name, "")
        yield [*shared, name, digest, *score.model_dump().values(), valid]


def write_lead_times(path: Path, finished: Sequence[Finished]) -> None:
    """Write the error of each lead time of the rollouts, in frames from 1, by trial and dataset."""
    _write(
        path,
        LEAD_TIME_COLUMNS,
        (
            [entry.trial.id, entry.trial.label, name, lead, error]
            for entry in finished
            for name, errors in entry.result.lead_times.items()
            for lead, error in enumerate(errors, start=1)
        ),
    )


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def latex_table(finished: Sequence[Finished]) -> str:
    """Return the rollout errors of all trials in LaTeX, for the package booktabs.

    The least error of a column is bold. The last row is that of persistence.
    """
    datasets = list(finished[0].result.evaluation)
    header = ["model", "parameters", "windows", "mean", *datasets]
    errors = [
        [entry.result.mean_rel_l2, *(entry.result.evaluation[n].rel_l2 for n in datasets)]
        for entry in finished
    ]
    least = [min(filter(isfinite, column), default=nan) for column in zip(*errors, strict=True)]
    lines = [
        rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
        r"\toprule",
        _latex_row(map(latex, header)),
        r"\midrule",
    ]
    for entry, row in zip(finished, errors, strict=True):
        result = entry.result
        cells = [latex(entry.trial.label), f"{result.parameters:,}", f"{result.windows:,}"]
        for error, best in zip(row, least, strict=True):
            cells.append(rf"\textbf{{{error:.4f}}}" if error == best else f"{error:.4f}")
        lines.append(_latex_row(cells))
    first = finished[0].result
    persistence = [first.evaluation[name].persistence_rel_l2 for name in datasets]
    mean = sum(persistence) / len(persistence)
    cells = ["persistence", "", "", *(f"{error:.4f}" for error in (mean, *persistence))]
    lines += [r"\midrule", _latex_row(cells), r"\bottomrule", r"\end{tabular}"]
    return "\n".join(lines) + "\n"


def _latex_row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def latex(text: str) -> str:
    """Return a text that LaTeX prints as it stands."""
    return "".join(LATEX.get(character, character) for character in text)
