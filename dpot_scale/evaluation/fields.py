"""Frames of one field, drawn on the domain of their dataset.

Legend: L lead times, x y points.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.image import AxesImage, NonUniformImage
from numpy.typing import NDArray

from dpot_scale.data.info import DatasetInfo
from dpot_scale.evaluation.figures import ERROR_COLORS, FIELD_COLORS, Scale, limits_of

Array = NDArray[np.float32]

POSITIVE_COLORS = "cividis"  # of a field that does not change its sign


def scored_fields(info: DatasetInfo) -> list[int]:
    """Return the numbers of the channels that are forecast."""
    return [index for index, scored in enumerate(info.scored) if scored]


def scales_of(truth_Lxy: Array, errors: Sequence[Array]) -> tuple[Scale, Scale]:
    """Return the scale of a field, which is that of the truth, and the one of all errors."""
    low, high = limits_of(truth_Lxy)
    colors = FIELD_COLORS if low < 0 < high else POSITIVE_COLORS
    finite = [error[np.isfinite(error)] for error in errors]
    largest = max((float(values.max()) for values in finite if values.size), default=1.0)
    return (colors, low, high), (ERROR_COLORS, 0.0, largest or 1.0)


def frame_image(axis: Axes, frame_xy: Array, info: DatasetInfo, scale: Scale) -> AxesImage:
    """Draw a frame on its domain; points of unequal distance are drawn where they are."""
    colors, low, high = scale
    (x_low, x_high), (y_low, y_high) = info.ends[:2]
    options: dict[str, Any] = {
        "cmap": colors,
        "interpolation": "nearest",
        "extent": (x_low, x_high, y_low, y_high),
    }
    image: AxesImage
    if info.coordinates:
        image = NonUniformImage(axis, **options)
        image.set_clim(low, high)
        axis.add_image(image)
        axis.set(xlim=(x_low, x_high), ylim=(y_low, y_high), aspect="equal")
    else:
        image = axis.imshow(frame_xy.T, origin="lower", vmin=low, vmax=high, **options)
    axis.set(xticks=[], yticks=[])
    put_frame(image, frame_xy, info)
    return image


def put_frame(image: AxesImage, frame_xy: Array, info: DatasetInfo) -> None:
    """Put a frame, which may lack points in between, into a picture."""
    if not isinstance(image, NonUniformImage):
        image.set_data(frame_xy.T)
        return
    places = []
    for axis, points in enumerate(info.coordinates[:2]):
        kept = np.asarray(points)[:: -(-len(points) // frame_xy.shape[axis])]
        order = np.argsort(kept)  # matplotlib takes points that increase
        places.append(kept[order])
        frame_xy = frame_xy.take(order, axis)
    uneven: Any = image  # whose stub is that of an even image
    uneven.set_data(*places, frame_xy.T)


def label_space(axes: NDArray[np.object_], info: DatasetInfo) -> None:
    """Name the space axes at the lower left picture, with the ends of the domain."""
    corner = axes[-1, 0]
    x_ends, y_ends = info.ends[:2]
    x_label, y_label = info.axis_labels[:2]
    (low, high), words = y_ends, [f"{end:.4g}" for end in y_ends]
    corner.set(xticks=x_ends, yticks=(low, (low + high) / 2, high))
    corner.set_xticklabels([f"{end:.4g}" for end in x_ends], fontsize=7)
    # As a tick, or the label of the row would be written over it.
    corner.set_yticklabels([words[0], y_label, words[1]], fontsize=7)
    corner.tick_params(axis="y", length=0)
    corner.set_xlabel(x_label, fontsize=8, labelpad=-6)
