"""Scores as tables: for a terminal, a spreadsheet and a paper."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from math import isnan

from dpot_scale.data.catalog import CATALOG
from dpot_scale.evaluation.published import PUBLISHED, nearest_size
from dpot_scale.evaluation.scores import REL_L2, DatasetScore, Measured, Metric, Scores
from dpot_scale.terminal import table

PERSISTENCE = "persistence"
VRMSE = "vrmse"
COLUMNS = ("source", "dataset", "split", "grid", "forecast", "metric", "field", "of", "value")
ALL_FIELDS = "all"


def score_table(scores: Mapping[str, DatasetScore]) -> str:
    """Return the scores of each dataset as lines of text, with those of persistence beside.

    Fields that were left out, because the truth is zero everywhere, are said below.
    """
    rows = [
        (
            name,
            f"{score.rel_l2:.4f}",
            f"{score.persistence_rel_l2:.4f}",
            f"{score.one_step_rel_l2:.4f}",
            f"{score.persistence_one_step_rel_l2:.4f}",
        )
        for name, score in scores.items()
    ]
    return "\n".join([table(_header(REL_L2), rows), *_left_out(scores)])


def metric_table(sources: Mapping[str, Scores], metric: str) -> str:
    """Return one metric of every model, of persistence, and what was published, as lines of text.

    Of one model persistence stands beside it; of several it has a row of its own.
    """
    first = next(iter(sources.values()))
    if len(sources) == 1 and first.scored_on == "stored":
        rows = [
            (name, *(_number(value) for value in _side_by_side(found.model, found.persistence)))
            for name, found in _metrics(first, metric).items()
        ]
        lines = [table(_header(metric), rows)]
    else:
        windows = _windows(first, metric)
        rows = [
            (*row, *[""] * (4 + len(windows) - len(row)))
            for dataset in first.details
            for row in _rows_of(dataset, sources, metric, windows)
        ]
        header = (f"held-out {metric}", "", "rollout", "one step", *windows)
        lines = [table(header, rows, left=2)]
    return "\n".join([*lines, *_left_out(first.evaluation), *_grids(sources, metric)])


class _Pair:
    """The same metric of a model and of persistence."""

    def __init__(self, model: Metric, persistence: Metric) -> None:
        self.model = model
        self.persistence = persistence


def _metrics(scores: Scores, metric: str) -> dict[str, _Pair]:
    return {
        name: _Pair(found.model[metric], found.persistence[metric])
        for name, found in scores.details.items()
    }


def _header(metric: str) -> tuple[str, ...]:
    return (f"held-out {metric}", "rollout", PERSISTENCE, "one step", PERSISTENCE)


def _side_by_side(model: Measured, persistence: Measured) -> tuple[float, ...]:
    return (model.rollout, persistence.rollout, model.one_step, persistence.one_step)


def _number(value: float) -> str:
    """Return a score with four decimals, or with four digits where that would show none."""
    return (
        f"{value:.4f}"
        if isnan(value) or value == 0 or 0.001 <= abs(value) < 1e5
        else f"{value:.3e}"
    )


def _rows_of(
    dataset: str, sources: Mapping[str, Scores], metric: str, windows: Sequence[str]
) -> Iterator[tuple[str, ...]]:
    """Yield the rows of a dataset, the first of which names it."""
    first = next(iter(sources.values()))
    forecasts = [(name, scores.details[dataset].model[metric]) for name, scores in sources.items()]
    forecasts.append((PERSISTENCE, first.details[dataset].persistence[metric]))
    for number, (name, found) in enumerate(forecasts):
        shown = "" if number else dataset
        values = [_number(found.windows[w]) if w in found.windows else "" for w in windows]
        yield (shown, name, _number(found.rollout), _number(found.one_step), *values)
    if first.scored_on == "published":
        for size in dict.fromkeys(nearest_size(scores.parameters) for scores in sources.values()):
            error = PUBLISHED[size].get(dataset)
            if error is not None:
                yield ("", f"DPOT-{size}, published", _number(error))


def _windows(scores: Scores, metric: str) -> list[str]:
    """Return the windows of lead times that a dataset reaches, each once."""
    of_each = [found.model[metric].windows for found in scores.details.values()]
    return list(dict.fromkeys(window for windows in of_each for window in windows))


def _left_out(scores: Mapping[str, DatasetScore]) -> list[str]:
    return [
        f"left out of {name}: {score.zero_targets:,} frames of a field that are zero everywhere"
        for name, score in scores.items()
        if score.zero_targets
    ]


def _grids(sources: Mapping[str, Scores], metric: str) -> Iterator[str]:
    """Yield on which grid and trajectories the scores are, and what a training reports."""
    first = next(iter(sources.values()))
    found = first.details.items()
    for name, one in found:
        if one.constant_targets and metric == VRMSE:
            yield (
                f"left out of {name}, too: {one.constant_targets:,} frames of a field that are "
                "the same at all points"
            )
    if first.scored_on == "stored":
        counts = sorted({one.trajectories for _, one in found})
        there = " to ".join(f"{n:,}" for n in dict.fromkeys([counts[0], counts[-1]]))
        how = f"as stored, {there} {'trajectory' if there == '1' else 'trajectories'} of a dataset"
    else:
        there = ", ".join(f"{one.trajectories:,} of {CATALOG[name].test:,}" for name, one in found)
        how = f"by the published protocol, {there} published trajectories"
    listed = _listed({name: one.grid for name, one in found})
    yield f"compared {how}; {listed}"
    for source, scores in sources.items():
        other = {
            name: one.seen_on for name, one in scores.details.items() if one.seen_on != one.grid
        }
        errors = [f"{name} {_number(scores.evaluation[name].rel_l2)}" for name in other]
        if other and metric == REL_L2 and scores.scored_on == "stored":
            of = f" of {source}" if len(sources) > 1 else ""
            yield f"rollouts{of} as a training compares them, on the grid of the model: " + (
                ", ".join(errors)
            )


def _listed(grids: Mapping[str, tuple[int, ...]]) -> str:
    """Return grids in words, each with the datasets that have it."""
    return "; ".join(
        f"{' x '.join(map(str, grid))} points: "
        f"{', '.join(name for name, of_one in grids.items() if of_one == grid)}"
        for grid in dict.fromkeys(grids.values())
    )


def csv_text(sources: Mapping[str, Scores]) -> str:
    """Return every number of every model, one a line, under the names of `COLUMNS`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for name, scores in sources.items():
        for dataset, details in scores.details.items():
            grid = "x".join(map(str, details.grid))
            for forecast, metrics in (("model", details.model), (PERSISTENCE, details.persistence)):
                head = (name, dataset, scores.split, grid, forecast)
                for metric, found in metrics.items():
                    for field, measured in {ALL_FIELDS: found, **found.fields}.items():
                        writer.writerows(
                            (*head, metric, field, of, value) for of, value in _values(measured)
                        )
    return text.getvalue()


def _values(measured: Measured) -> Iterator[tuple[str, float]]:
    yield "rollout", measured.rollout
    yield "one_step", measured.one_step
    yield from measured.windows.items()
    for lead, value in enumerate(measured.lead_times, start=1):
        yield f"lead_{lead}", value


def latex_table(sources: Mapping[str, Scores], metric: str) -> str:
    """Return the rollout errors as a LaTeX table (package booktabs), the best in bold."""
    first = next(iter(sources.values()))
    names = [*sources, PERSISTENCE]
    lines = [
        f"% held-out {metric} of rollouts; needs \\usepackage{{booktabs}}",
        f"\\begin{{tabular}}{{l{'r' * len(names)}}}",
        "\\toprule",
        " & ".join(["dataset", *map(_escaped, names)]) + r" \\",
        "\\midrule",
    ]
    for dataset, details in first.details.items():
        values = [scores.details[dataset].model[metric].rollout for scores in sources.values()]
        values.append(details.persistence[metric].rollout)
        best = min((value for value in values if not isnan(value)), default=None)
        cells = [
            f"\\textbf{{{_number(value)}}}" if value == best else _number(value) for value in values
        ]
        lines.append(" & ".join([_escaped(dataset), *cells]) + r" \\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])


def _escaped(text: str) -> str:
    return "".join(f"\\{letter}" if letter in "_&%#$" else letter for letter in text)


def headline(scores: Scores) -> dict[str, float]:
    """Return the means over fields of a model as tracked metrics, `evaluate/<dataset>/...`."""
    return {
        f"evaluate/{dataset}/{metric}{_suffix(of)}": value
        for dataset, details in scores.details.items()
        for metric, found in details.model.items()
        for of, value in _values(found)
        if not of.startswith("lead_") and not isnan(value)
    }


def _suffix(of: str) -> str:
    return "" if of == "rollout" else f"_{of.replace(':', '-')}"
