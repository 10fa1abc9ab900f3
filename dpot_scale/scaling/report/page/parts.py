"""What the charts of the page are made of: axes, colours and layers of Vega-Lite."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from math import ceil, floor, isfinite, log10
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex

from dpot_scale.evaluation.figures import LINE_COLORS

Spec = dict[str, Any]
Row = dict[str, Any]

ERROR = "held-out rel_l2"
HEIGHT = 340
MOST_LABELS = 9  # names that a legend shows beside each other
GRAY = "#777"
FEWEST_DECADES, MANY_DECADES, MOST_DECADES = 0.7, 1.8, 5.0  # of an axis


class Colors:
    """The colour of each named series."""

    def __init__(self, names: Sequence[str], colors: Sequence[str], columns: int = 4) -> None:
        self._columns = columns  # of the legend
        self.names = list(dict.fromkeys(names))
        self.colors = [color for color, _ in zip(cycle(colors), self.names, strict=False)]

    def encoding(self) -> Spec:
        """Return the channel; its legend is below the chart, and a click on it picks a series."""
        legend: Spec | None = None
        if len(self.names) > 1:
            legend = {
                "orient": "bottom",
                "title": None,
                "columns": self._columns,
                "labelLimit": 960 // self._columns,
            }
            legend |= {"symbolType": "circle", "symbolOpacity": 1}
        scale = {"domain": self.names, "range": self.colors}
        return {"field": "name", "type": "nominal", "scale": scale, "legend": legend}


def shades(count: int) -> list[str]:
    """Return colours from few to much."""
    if count < 2:
        return [LINE_COLORS[0]]
    return [to_hex(shade) for shade in colormaps["viridis"](np.linspace(0.85, 0.0, count))]


def logarithmic(field: str, title: str, format_: str) -> Spec:
    """Return a logarithmic axis of a field."""
    axis: Spec = {"format": format_, "labelOverlap": "greedy", "labelFlush": 14, "tickCount": 6}
    scale = {"type": "log", "nice": False, "padding": 12}
    return {"field": field, "type": "quantitative", "title": title, "scale": scale, "axis": axis}


def layered(layers: Sequence[Spec], colors: Colors, height: int = HEIGHT) -> Spec:
    """Return one chart of layers that have rows; shift and drag or scroll moves and zooms it."""
    drawn = [layer for layer in layers if layer["data"]["values"]]
    if not drawn:
        return {}
    moves = "[pointerdown[event.shiftKey], window:pointerup] > window:pointermove!"
    zoom = {
        "name": "zoom",
        "select": {"type": "interval", "translate": moves, "zoom": "wheel![event.shiftKey]"},
        "bind": "scales",
    }
    picked = {
        "name": "picked",
        "select": {"type": "point", "fields": ["name"]},
        "bind": "legend",
    }
    first, *others = [_with_ticks(layer, drawn) for layer in drawn]
    params = [zoom, picked] if len(colors.names) > 1 else [zoom]
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "width": "container",
        "height": height,
        "layer": [first | {"params": params}, *others],
    }


def _with_ticks(layer: Spec, layers: Sequence[Spec]) -> Spec:
    """Return a layer whose logarithmic axes have ticks at round numbers, where they reach far.

    Vega labels those numbers from below for which there is room, so their distances are alike.
    """
    if "encoding" not in layer:
        return layer
    encoding = dict(layer["encoding"])
    for channel in {"x", "y"} & set(encoding):
        if encoding[channel].get("scale", {}).get("type") != "log":
            continue
        values = [
            row[one["encoding"][end]["field"]]
            for one in layers
            for end in {channel, f"{channel}2"} & set(one.get("encoding", {}))
            for row in one["data"]["values"]
        ]
        if ticks := round_numbers(min(values), max(values)):
            axis = encoding[channel]["axis"] | {"values": ticks}
            encoding[channel] = encoding[channel] | {"axis": axis}
    return layer | {"encoding": encoding}


def round_numbers(low: float, high: float) -> list[float]:
    """Return powers of ten and some of their multiples, the fewer the further the ends are apart.

    There are none where numbers between these are needed, too.
    """
    decades = log10(high / low)
    if decades < FEWEST_DECADES:
        return []
    digits = (1, 2, 5) if decades < MANY_DECADES else (1, 3) if decades < MOST_DECADES else (1,)
    powers = range(floor(log10(low)), ceil(log10(high)) + 1)
    return [float(f"{digit}e{power}") for power in powers for digit in digits]


def _faded(opacity: float, colors: Colors | None) -> Spec:
    """Return the opacity of a series, which is less while others are picked."""
    if colors is None or len(colors.names) < 2:
        return {"value": opacity}
    return {"condition": {"param": "picked", "value": opacity}, "value": opacity / 10}


def band(rows: Sequence[Row], x: Spec, y: Spec, colors: Colors) -> Spec:
    """Return the intervals of laws."""
    known = [row for row in rows if "low" in row]
    encoding = {"x": x, "y": y | {"field": "low"}, "y2": {"field": "high"}}
    encoding |= {"color": colors.encoding(), "opacity": _faded(0.15, colors)}
    mark = {"type": "area", "clip": True}
    return {"data": {"values": known}, "mark": mark, "encoding": encoding}


def curve_of(
    rows: Sequence[Row],
    x: Spec,
    y: Spec,
    colors: Colors | None,
    *,
    detail: str = "",
) -> Spec:
    """Return lines through rows, gray ones without colours."""
    encoding: Spec = {"x": x, "y": y}
    encoding["opacity"] = _faded(1.0, colors)
    encoding["color"] = colors.encoding() if colors else {"value": "#bbb"}
    if detail:
        encoding["detail"] = {"field": detail}
    mark = {"type": "line", "strokeWidth": 1.6 if colors else 1.0, "clip": True}
    return {"data": {"values": list(rows)}, "mark": mark, "encoding": encoding}


TOOLTIP: Mapping[str, tuple[str, str]] = {
    "name": ("series", ""),
    "trial": ("trial", ""),
    "size": ("parameters", ",d"),
    "windows": ("windows", ",d"),
    "amount": ("trajectories", ",d"),
    "lead": ("lead time", "d"),
    "seed": ("seed", "d"),
    "flops": ("training FLOPs", ".2e"),
    "error": ("rel_l2", ".4f"),
}


def dots(
    rows: Sequence[Row],
    x: Spec,
    y: Spec,
    colors: Colors,
    *,
    size: int = 55,
    shape: str = "circle",
) -> Spec:
    """Return a point for each row, which tells its numbers."""
    known = [key for key in TOOLTIP if rows and key in rows[0]]
    tooltip = []
    for key in known:
        title, number = TOOLTIP[key]
        kind = {"type": "quantitative", "format": number} if number else {"type": "nominal"}
        tooltip.append({"field": key, "title": title} | kind)
    encoding = {"x": x, "y": y, "color": colors.encoding(), "opacity": _faded(1.0, colors)}
    mark = {"type": "point", "filled": True, "size": size, "shape": shape, "clip": True}
    return {
        "data": {"values": list(rows)},
        "mark": mark,
        "encoding": encoding | {"tooltip": tooltip},
    }


def rule(value: float, y: Spec, label: str) -> Spec:
    """Return a horizontal line with its name; nothing where the value is no number."""
    rows = [{"error": value, "label": label}] if isfinite(value) and value > 0 else []
    axis = {"y": y}
    line = {"mark": {"type": "rule", "strokeDash": [4, 3], "color": GRAY}, "encoding": axis}
    mark = {"type": "text", "align": "left", "baseline": "top", "dx": 4, "dy": 4, "x": 0}
    text = {
        "mark": mark | {"color": GRAY},
        "encoding": axis | {"text": {"field": "label"}},
    }
    return {"data": {"values": rows}, "layer": [line, text]}
