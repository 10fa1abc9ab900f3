"""The curves of every trial, thinned so that a page can hold them."""

from collections.abc import Mapping, Sequence
from math import isfinite

from dpot_scale.evaluation.example import spread
from dpot_scale.evaluation.figures import LINE_COLORS
from dpot_scale.scaling.plan import Trial
from dpot_scale.scaling.report.page.parts import (
    ERROR,
    HEIGHT,
    Colors,
    Row,
    Spec,
    logarithmic,
    shades,
)
from dpot_scale.scaling.report.results import arm_labels
from dpot_scale.tracking.names import LOSS, MEAN, score_key
from dpot_scale.tracking.spool import SPOOL, read_metrics

MOST_POINTS = 12_000  # on both charts together
FEWEST_OF_TRIAL, MOST_OF_TRIAL = 12, 200
# What a chart of held-out errors shows of a trial: the first of these that it recorded.
HELD_OUT = (score_key(MEAN, split="valid"), score_key(MEAN))


def curve_charts(trials: Sequence[Trial]) -> Mapping[str, Spec]:
    """Show the loss and the held-out error of all trials, failed ones too, along their windows.

    Raises:
        RecordError: another version wrote the metrics of a trial.
    """
    spools = {trial.id: trial.run.directory / SPOOL for trial in trials}
    begun = [trial for trial in trials if spools[trial.id].is_file()]
    most = MOST_POINTS // max(1, 2 * len(begun))
    most = min(MOST_OF_TRIAL, max(FEWEST_OF_TRIAL, most))
    losses, errors = list[Row](), list[Row]()
    names = _names(begun)
    for trial in begun:
        metrics = read_metrics(spools[trial.id])
        held_out = next((metrics[key] for key in HELD_OUT if key in metrics), {})
        losses += _rows(trial, names[trial.id], metrics.get(LOSS, {}), most)
        errors += _rows(trial, names[trial.id], held_out, most)
    colors = _colors(names, are_sizes=not any(arm_labels(begun).values()))
    charts = {"loss": _chart(losses, "training loss", colors)}
    if _moves(errors):
        charts["held_out"] = _chart(errors, f"{ERROR}, mean over datasets", colors)
    return charts


def _moves(rows: Sequence[Row]) -> bool:
    """Return whether any trial was scored more than once."""
    return len({(row["trial"], row["windows"]) for row in rows}) > len({r["trial"] for r in rows})


def _names(trials: Sequence[Trial]) -> Mapping[str, str]:
    """Return the series of each trial, in the order of sizes: its arm, or of one arm its size.

    Families come first, as in the other charts, so that each has its colour.
    """
    ordered = sorted(trials, key=lambda trial: (trial.run.model.family, trial.parameters))
    arms = arm_labels(ordered)
    return {t.id: arms[t.id] or f"{t.parameters:,} parameters" for t in ordered}


def _colors(names: Mapping[str, str], *, are_sizes: bool) -> Colors:
    series = list(dict.fromkeys(names.values()))
    return Colors(series, shades(len(series)) if are_sizes else LINE_COLORS)


def _rows(trial: Trial, name: str, curve: Mapping[int, float], most: int) -> list[Row]:
    steps = [step for step, value in sorted(curve.items()) if isfinite(value) and value > 0]
    batch = trial.run.batch.global_batch
    return [
        {
            "trial": trial.id,
            "name": name,
            "windows": steps[number] * batch,
            "value": float(f"{curve[steps[number]]:.5g}"),
        }
        for number in spread(len(steps), most)
    ]


def _chart(rows: Sequence[Row], title: str, colors: Colors) -> Spec:
    """Return the curves of trials; the one below the pointer stands out."""
    if not rows:
        return {}
    pointed = {
        "name": "pointed",
        "select": {
            "type": "point",
            "fields": ["trial"],
            "on": "pointerover",
            "clear": "pointerout",
        },
    }
    picked = {"name": "picked", "select": {"type": "point", "fields": ["name"]}, "bind": "legend"}
    both = {"and": [{"param": "pointed"}, {"param": "picked"}]}
    x = {
        "field": "windows",
        "type": "quantitative",
        "title": "training windows",
        "axis": {"format": "~s", "grid": False},
    }
    tooltip = [
        {"field": "trial", "type": "nominal", "title": "trial"},
        {"field": "name", "type": "nominal", "title": "series"},
        {"field": "windows", "type": "quantitative", "title": "windows", "format": ",d"},
        {"field": "value", "type": "quantitative", "title": "value", "format": ".4g"},
    ]
    encoding = {
        "x": x,
        "y": logarithmic("value", title, "~g"),
        "detail": {"field": "trial"},
        "color": colors.encoding(),
        "opacity": {"condition": {"test": both, "value": 0.95}, "value": 0.12},
        "tooltip": tooltip,
    }
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "width": "container",
        "height": HEIGHT,
        "params": [pointed, *([picked] if len(colors.names) > 1 else [])],
        "data": {"values": list(rows)},
        "mark": {"type": "line", "strokeWidth": 1.6, "point": {"size": 14}},
        "encoding": encoding,
    }
