"""Moving pictures of the best model's forecasts: every frame as it is, a point of colour a point.

Legend: L lead times, C fields, x y points.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image

from dpot_scale.evaluation.example import spread
from dpot_scale.evaluation.fields import POSITIVE_COLORS
from dpot_scale.evaluation.figures import ERROR_COLORS, FIELD_COLORS, limits_of
from dpot_scale.evaluation.frames import Shown

Array = NDArray[np.float32]

MOST_BYTES = 2_200_000  # of all pictures on a page
FEWER = (12, 8, 6, 4, 3, 2)  # lead times, tried one after another until the pictures fit


@dataclass(frozen=True, kw_only=True, slots=True)
class Strip:
    """One kind of frames of a field, below each other by lead time."""

    title: str  # truth, forecast or |error|
    picture: str  # a PNG as a data address
    bar: str  # the colours from low to high, likewise
    low: str
    high: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Field:
    """One field of a dataset."""

    name: str  # with its unit
    strips: Sequence[Strip]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollout:
    """The forecast of one trajectory of a dataset."""

    dataset: str
    leads: Sequence[str]  # in words
    fields: Sequence[Field]
    width: int  # of a frame, in points
    height: int
    ratio: float  # of the domain's sides
    space: str  # its axes, in words

    @property
    def size(self) -> int:
        """Return how many bytes its pictures take on a page."""
        return sum(len(strip.picture) for field in self.fields for strip in field.strips)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollouts:
    """The forecasts that a page shows, and the datasets whose pictures it has no room for."""

    shown: Sequence[Rollout]
    left_out: Sequence[str]


def rollouts_of(frames: Mapping[str, Shown], most_bytes: int = MOST_BYTES) -> Rollouts:
    """Return the pictures of each dataset; fewer lead times and at last datasets if they are large.

    Args:
        frames: What the best trial kept, by dataset.
        most_bytes: Of all pictures.
    """
    found: list[Rollout] = []
    for leads in FEWER:
        found = [_rollout(name, _thinned(shown, leads)) for name, shown in frames.items()]
        if sum(one.size for one in found) <= most_bytes:
            break
    sizes = np.cumsum([one.size for one in found])
    kept = [one for one, size in zip(found, sizes, strict=True) if size <= most_bytes]
    return Rollouts(shown=kept, left_out=[one.dataset for one in found[len(kept) :]])


def _thinned(shown: Shown, most: int) -> Shown:
    """Return the forecast at no more lead times, from the first to the last."""
    return shown.at(spread(len(shown.example.leads), most))


def _rollout(name: str, shown: Shown) -> Rollout:
    info, example = shown.info, shown.example
    scored = [index for index, counts in enumerate(info.scored) if counts]
    width, height = example.truth_LCs.shape[2:]
    (x_low, x_high), (y_low, y_high) = info.ends[:2]
    axes = zip(info.axis_labels, info.ends[:2], strict=False)
    return Rollout(
        dataset=name,
        leads=[shown.words(number) for number in range(len(example.leads))],
        fields=[_field(shown, index) for index in scored],
        width=width,
        height=height,
        ratio=(x_high - x_low) / (y_high - y_low),
        space=", ".join(f"{axis} from {low:.4g} to {high:.4g}" for axis, (low, high) in axes),
    )


def _field(shown: Shown, index: int) -> Field:
    truth_Lxy = shown.example.truth_LCs[:, index]
    forecast_Lxy = shown.example.forecast_LCs[:, index]
    error_Lxy = np.abs(forecast_Lxy - truth_Lxy)
    low, high = limits_of(truth_Lxy)
    colors = FIELD_COLORS if low < 0 < high else POSITIVE_COLORS
    finite = error_Lxy[np.isfinite(error_Lxy)]
    largest = float(finite.max()) if finite.size else 0.0
    return Field(
        name=shown.info.labels[index],
        strips=[
            _strip("truth", truth_Lxy, colors, low, high),
            _strip("forecast", forecast_Lxy, colors, low, high),
            _strip("|error|", error_Lxy, ERROR_COLORS, 0.0, largest or 1.0),
        ],
    )


def _strip(title: str, frames_Lxy: Array, colors: str, low: float, high: float) -> Strip:
    span = (high - low) or 1.0
    scaled = np.nan_to_num((frames_Lxy - low) / span, nan=0.0, posinf=1.0, neginf=0.0)
    levels_Lxy = np.round(np.clip(scaled, 0.0, 1.0) * 255).astype(np.uint8)
    # Rows of a picture go down, and y goes up.
    below = np.concatenate([frame_xy.T[::-1] for frame_xy in levels_Lxy])
    return Strip(
        title=title,
        picture=_png(below, colors),
        bar=_png(np.arange(256, dtype=np.uint8)[None], colors),
        low=f"{low:.3g}",
        high=f"{high:.3g}",
    )


def _png(levels: NDArray[np.uint8], colors: str) -> str:
    """Return levels as a PNG whose palette is a map of colours, as a data address."""
    image = Image.fromarray(levels).convert("P")
    palette = (colormaps[colors](np.arange(256))[:, :3] * 255).round().astype(np.uint8)
    image.putpalette(palette.ravel().tolist())
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
