"""The charts of the page, as Vega-Lite specifications whose numbers come from the analysis.

Names of trials, datasets and arms appear in them as data alone, never as fields or expressions.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from math import isfinite

import numpy as np

from dpot_scale.evaluation.figures import LINE_COLORS
from dpot_scale.scaling.report.analysis import Analysis, Curve
from dpot_scale.scaling.report.laws.fit import Fit
from dpot_scale.scaling.report.laws.points import Array
from dpot_scale.scaling.report.lines import (
    POINTS,
    Line,
    amount_lines,
    frontier,
    law_line,
    parabola_of,
    size_lines,
)
from dpot_scale.scaling.report.page.parts import (
    ERROR,
    Colors,
    Row,
    Spec,
    band,
    curve_of,
    dots,
    layered,
    logarithmic,
    rule,
    shades,
)
from dpot_scale.scaling.report.results import Finished, points_of

SIZE = logarithmic("size", "parameters", "s")
FLOPS = logarithmic("flops", "training FLOPs", ".0e")
ERRORS = logarithmic("error", ERROR, "~g")


def law_chart(arms: Sequence[Analysis]) -> Spec:
    """Show the error against the size, with the law of each length or arm and its interval."""
    curves = [(found, curve) for found in arms for curve in _shown_curves(found, arms)]
    names = _names(curves, len(arms) > 1)
    points, lines = list[Row](), list[Row]()
    for name, (found, curve) in zip(names, curves, strict=True):
        points += _trials(curve.trials, name)
        if isinstance(found.law, Fit) and found.law.form.size:
            lines += _line_rows(law_line(found.law, curve), name, "size")
    colors = Colors(names, shades(len(names)) if len(arms) == 1 else LINE_COLORS)
    persistence = arms[0].shown.result.mean_persistence_rel_l2
    layers = [
        band(lines, SIZE, ERRORS, colors),
        curve_of(lines, SIZE, ERRORS, colors),
        dots(points, SIZE, ERRORS, colors),
        rule(persistence, ERRORS, "persistence"),
    ]
    return layered(layers, colors)


def _shown_curves(found: Analysis, arms: Sequence[Analysis]) -> list[Curve]:
    """Return all curves of the only arm, or the longest of each of several."""
    return found.curves if len(arms) == 1 else [found.main]


def _name(found: Analysis, curve: Curve, has_arms: bool) -> str:
    return f"{found.arm}, {curve}" if has_arms else str(curve)


def _names(curves: Sequence[tuple[Analysis, Curve]], has_arms: bool) -> list[str]:
    """Return the series of curves: by arm alone where all are of one length or number of FLOPs."""
    if has_arms and len({str(curve) for _, curve in curves}) == 1:
        return [found.arm for found, _ in curves]
    return [_name(found, curve, has_arms) for found, curve in curves]


def law_caption(arms: Sequence[Analysis]) -> str:
    """Return which trials of several arms the chart of laws shows."""
    lengths = {str(found.main) for found in arms}
    return f"At {lengths.pop()}. " if len(arms) > 1 and len(lengths) == 1 else ""


def _trials(trials: Iterable[Finished], name: str) -> list[Row]:
    """Return the trials whose errors are finite."""
    return [
        {
            "name": name,
            "size": entry.result.parameters,
            "flops": entry.train_flops,
            "error": entry.result.mean_rel_l2,
            "trial": entry.trial.id,
            "windows": entry.result.windows,
            "seed": entry.trial.run.seed,
        }
        for entry in trials
        if isfinite(entry.result.mean_rel_l2)
    ]


def _line_rows(line: Line, name: str, along: str) -> list[Row]:
    """Return the points of a line; where its interval has no end on a chart, without the band."""
    rows = []
    for x, y, low, high in zip(line.x, line.y, line.low, line.high, strict=True):
        if not (isfinite(y) and y > 0):
            continue
        row: Row = {"name": name, along: float(f"{x:.6g}"), "error": float(f"{y:.5g}")}
        if isfinite(low) and isfinite(high) and low > 0:
            row |= {"low": float(f"{low:.5g}"), "high": float(f"{high:.5g}")}
        rows.append(row)
    return rows


def compute_chart(arms: Sequence[Analysis]) -> Spec | None:
    """Show all trials against their FLOPs, with the least error that a law of both allows.

    None for sizes at one length.
    """
    names = [found.arm or "trials" for found in arms]
    points, lines, sizes = list[Row](), list[Row](), list[Row]()
    for name, found in zip(names, arms, strict=True):
        points += _trials(found.finished, name)
        if found.trade is None:
            continue
        best = frontier(found, found.trade)
        budgets = np.array([one.flops for one in best])
        lines += _line_rows(Line.of(budgets, [one.error for one in best]), name, "flops")
        if len(arms) == 1:
            sizes += _size_rows(found, found.trade)
    if len(arms) == 1 and len({row["windows"] for row in points}) < 2:
        return None  # FLOPs then tell what sizes tell
    colors = Colors(names, LINE_COLORS)
    layers = [
        band(lines, FLOPS, ERRORS, colors),
        curve_of(sizes, FLOPS, ERRORS, None, detail="size"),
        curve_of(lines, FLOPS, ERRORS, colors),
        dots(points, FLOPS, ERRORS, colors),
    ]
    return layered(layers, colors)


def _size_rows(found: Analysis, law: Fit) -> list[Row]:
    """Return what the law says of each size along its lengths."""
    return [
        {"size": line.size, "flops": float(flops), "error": float(error)}
        for line in size_lines(found, law)
        for flops, error in zip(line.law_flops, line.law_errors, strict=True)
    ]


def isoflop_chart(arms: Sequence[Analysis]) -> Spec | None:
    """Show the error against the size at equal FLOPs, with the parabola of each number of them."""
    equal = [found for found in arms if found.is_of_equal_flops]
    points, lines, least, names = list[Row](), list[Row](), list[Row](), list[str]()
    for found in equal:
        for curve in found.of_equal_flops:
            name = _name(found, curve, len(arms) > 1)
            names.append(name)
            points += _trials(curve.trials, name)
            if (one := parabola_of(found, curve)) is None:
                continue
            x = np.geomspace(*one.sizes, POINTS)
            rows = zip(x, one.predict(x), strict=True)
            lines += [{"name": name, "size": float(n), "error": float(e)} for n, e in rows]
            least.append({"name": name, "size": one.size, "error": one.error})
    if not points:
        return None
    colors = Colors(names, shades(len(names)) if len(arms) == 1 else LINE_COLORS)
    layers = [
        curve_of(lines, SIZE, ERRORS, colors),
        dots(points, SIZE, ERRORS, colors),
        dots(least, SIZE, ERRORS, colors, shape="diamond"),
    ]
    return layered(layers, colors)


def size_chart(arms: Sequence[Analysis]) -> Spec | None:
    """Show the best size for a number of FLOPs; None where no arm has a law of size and data."""
    lines, points = list[Row](), list[Row]()
    shown = dict[str, str]()  # the colours of arms are those of all charts
    for color, found in zip(cycle(LINE_COLORS), arms, strict=False):
        if found.trade is None:
            continue
        name = found.arm or "the best size"
        shown[name] = color
        best = frontier(found, found.trade)
        budgets = np.array([one.flops for one in best])
        lines += _line_rows(Line.of(budgets, [one.size for one in best]), name, "flops")
        points += _trials(found.finished, name)
    if not shown:
        return None
    colors = Colors(list(shown), list(shown.values()))
    # The values of a line are named as errors; here they are sizes.
    along = logarithmic("error", "parameters", "s")
    layers = [
        band(lines, FLOPS, along, colors),
        curve_of(lines, FLOPS, along, colors),
        dots(points, FLOPS, SIZE, colors),
    ]
    return layered(layers, colors)


def amount_chart(arms: Sequence[Analysis]) -> Spec | None:
    """Show the error against the number of trajectories; None where the design has one number."""
    lines = dict(amount_lines(arms))
    if not lines:
        return None
    rows = [row for name, line in lines.items() for row in _line_rows(line, name, "amount")]
    colors = Colors(list(lines), LINE_COLORS)
    x = logarithmic("amount", "training trajectories of each dataset", "~g")
    layers = [band(rows, x, ERRORS, colors), curve_of(rows, x, ERRORS, colors)]
    return layered([*layers, dots(rows, x, ERRORS, colors)], colors)


def dataset_charts(arms: Sequence[Analysis]) -> Mapping[str, Spec]:
    """Show for each dataset the error against the size, beside that of persistence."""
    charts = {}
    names = [found.arm or "rollout" for found in arms]
    colors = Colors(names, LINE_COLORS, columns=3)
    for dataset, score in arms[0].shown.result.evaluation.items():
        points = [
            row | {"error": error}
            for name, found in zip(names, arms, strict=True)
            for entry in found.main.trials
            for row in _trials([entry], name)
            if dataset in entry.result.evaluation
            and isfinite(error := entry.result.evaluation[dataset].rel_l2)
        ]
        means = [
            {"name": name, "size": float(size), "error": float(error)}
            for name, found in zip(names, arms, strict=True)
            for size, error in zip(*_mean_errors(found, dataset), strict=True)
        ]
        layers = [
            curve_of(means, SIZE, ERRORS, colors),
            dots(points, SIZE, ERRORS, colors),
            rule(score.persistence_rel_l2, ERRORS, "persistence"),
        ]
        charts[dataset] = layered(layers, colors, height=200)
    return charts


def _mean_errors(found: Analysis, dataset: str) -> tuple[Array, Array]:
    """Return the sizes and the errors on a dataset, mean over seeds."""
    trials = [entry for entry in found.main.trials if dataset in entry.result.evaluation]
    points = points_of(trials, [entry.result.evaluation[dataset].rel_l2 for entry in trials])
    return points.sizes, points.errors


def lead_time_charts(arms: Sequence[Analysis]) -> Mapping[str, Spec]:
    """Show for each dataset how the error grows with the lead time.

    There is a line for each size, or of several arms for the one to speak of.
    """
    entries = [
        (found.arm, entry)
        for found in arms
        for entry in (_one_seed(found.main.trials) if len(arms) == 1 else [found.shown])
    ]
    named = [(arm or entry.trial.label, entry) for arm, entry in entries]
    names = list(dict.fromkeys(name for name, _ in named))
    palette = shades(len(names)) if len(arms) == 1 else LINE_COLORS
    colors = Colors(names, palette, columns=3)
    x = {
        "field": "lead",
        "type": "quantitative",
        "title": "lead time [frames]",
        "axis": {"tickMinStep": 1, "grid": False},
    }
    charts = {}
    for dataset in arms[0].shown.result.evaluation:
        rows: list[Row] = [
            {"name": name, "trial": entry.trial.id, "lead": lead, "error": error}
            for name, entry in named
            for lead, error in enumerate(entry.result.lead_times.get(dataset, ()), start=1)
            if isfinite(error) and error > 0
        ]
        if rows:
            layers = [
                curve_of(rows, x, ERRORS, colors, detail="trial"),
                dots(rows, x, ERRORS, colors, size=14),
            ]
            charts[dataset] = layered(layers, colors, height=200)
    return charts


def _one_seed(trials: Sequence[Finished]) -> list[Finished]:
    """Return one trial of each size."""
    first: dict[int, Finished] = {}
    for entry in trials:
        first.setdefault(entry.result.parameters, entry)
    return list(first.values())
