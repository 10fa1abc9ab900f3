"""Arrays as people have them, to the frames that a model takes, and forecasts back again.

Legend: B windows, T frames, C channels, s any number of space axes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpot_scale.config.data import SPACE_AXES
from dpot_scale.config.model import ModelConfig
from dpot_scale.config.sentences import nearest
from dpot_scale.errors import DataError

Array = NDArray[Any]
Frames = Array | Tensor | Mapping[str, Array] | Mapping[str, Tensor]

NUMBERS = "biuf"  # kinds of NumPy types that are real numbers


@dataclass(frozen=True, kw_only=True)
class History:
    """The known frames of a forecast, and how they were given."""

    frames_BTCs: Tensor  # fp32
    is_batch: bool
    is_mapping: bool
    is_numpy: bool
    dtype: torch.dtype  # of what is given back
    names: tuple[str, ...]  # of the channels; numbers where they have none

    def as_given(self, frames_BCs: Tensor, *, channel_axis: int = 1) -> Frames:
        """Return a forecast in the kind in which the history was given.

        Args:
            frames_BCs: Windows first, whose channels lie along an axis.
            channel_axis: That axis.
        """
        found = frames_BCs if self.is_batch else frames_BCs[0]
        axis = channel_axis if self.is_batch else channel_axis - 1
        if not self.is_mapping:
            return found.numpy() if self.is_numpy else found
        channels = zip(self.names, found.unbind(axis), strict=True)
        if self.is_numpy:
            return {name: channel.numpy() for name, channel in channels}
        return dict(channels)


def read_history(given: object, model: ModelConfig, names: tuple[str, ...] | None) -> History:
    """Return the history in an array (T, C, *space) or (B, T, C, *space), or in one per channel.

    Args:
        given: A NumPy array, a torch tensor, or a mapping of channel names to such, which then have
            no axis C.
        model: What the frames are for.
        names: The channels that it must have; None where nobody knows, so that any number is right
            up to that of the model.

    Raises:
        DataError: it has another shape or other channels, or holds values that are not finite.
    """
    is_mapping = isinstance(given, Mapping)
    array = _joined(given, model, names) if isinstance(given, Mapping) else _real(given)
    is_batch = array.ndim == 3 + model.space_dims
    _require_shape(tuple(array.shape), model, names)
    frames_BTCs = _in_fp32(array if is_batch else array[None])
    names = names or tuple(map(str, range(frames_BTCs.shape[2])))
    _require_finite(frames_BTCs, names, is_batch=is_batch)
    return History(
        frames_BTCs=frames_BTCs,
        is_batch=is_batch,
        is_mapping=is_mapping,
        is_numpy=isinstance(array, np.ndarray),
        dtype=_floating(array),
        names=names,
    )


def _joined(
    given: Mapping[str, Any], model: ModelConfig, names: tuple[str, ...] | None
) -> Array | Tensor:
    """Return the arrays of all channels as one, in the order of the channels."""
    if names is None:
        raise DataError(
            "the weights do not say how their channels are called: give the history as one array "
            "(T, C, *space)"
        )
    missing = [name for name in names if name not in given]
    unknown = [name for name in given if name not in names]
    if missing or unknown:
        are = "are" if missing[1:] else "is"
        found = [f"{', '.join(missing)} {are} missing"] if missing else []
        found += [f"{name!r} is none of them{nearest(name, missing)}" for name in unknown[:1]]
        raise DataError(f"the model takes the channels {', '.join(names)}; {' and '.join(found)}")
    arrays = [_real(given[name]) for name in names]
    shapes = {name: tuple(array.shape) for name, array in zip(names, arrays, strict=True)}
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise DataError(f"all channels must have one shape, got {listed}")
    shape = shapes[names[0]]
    axis = len(shape) - model.space_dims
    if axis not in (1, 2) or shape[axis - 1] != model.history:
        raise _misshaped(shape, model)
    if all(isinstance(array, np.ndarray) for array in arrays):
        return np.stack(arrays, axis)
    if all(isinstance(array, Tensor) for array in arrays):
        return torch.stack(arrays, axis)
    raise DataError("the channels must be NumPy arrays or torch tensors, all of one kind")


def _real(given: object) -> Any:  # noqa: ANN401 - an array of either kind
    """Return an array or tensor of real numbers as it is."""
    if isinstance(given, Tensor):
        if not given.is_complex():
            return given.detach()
    elif isinstance(given, np.ndarray):
        if given.dtype.kind in NUMBERS:
            return _with_gaps(given) if isinstance(given, np.ma.MaskedArray) else given
    else:
        raise DataError(
            "a history is a NumPy array, a torch tensor or a mapping of channel names to such, got "
            f"{type(given).__name__}"
        )
    raise DataError(f"a history holds real numbers, got {given.dtype}")


def _with_gaps(masked: "np.ma.MaskedArray[Any, Any]") -> Array:
    """Return an array, as netCDF files give it, with NaN at masked points."""
    if not np.ma.is_masked(masked):
        return masked.data
    floats = np.result_type(masked.dtype, np.float16)
    return np.where(np.ma.getmaskarray(masked), np.nan, masked.data.astype(floats))


def _require_shape(
    shape: tuple[int, ...], model: ModelConfig, names: tuple[str, ...] | None
) -> None:
    """Make sure that an array with an axis C has a shape that the model takes."""
    axes = len(shape) - model.space_dims
    most = model.channels if names is None else len(names)
    least = 1 if names is None else most
    fits = axes in (2, 3) and shape[axes - 2] == model.history and 0 not in shape
    if fits and least <= shape[axes - 1] <= most:
        return
    known = f"1 to {most}" if names is None else f"{most} ({', '.join(names)})"
    raise _misshaped(shape, model, "C, ", f" and C = {known}")


def _misshaped(
    shape: tuple[int, ...], model: ModelConfig, axis: str = "", value: str = ""
) -> DataError:
    frame = f"{axis}{', '.join(SPACE_AXES[: model.space_dims])}"
    return DataError(
        f"the model takes a history of shape (T, {frame}) or (B, T, {frame}) with T = "
        f"{model.history}{value}, got {shape}"
    )


def _in_fp32(array: Array | Tensor) -> Tensor:
    """Return a copy in single precision."""
    if isinstance(array, Tensor):
        return array.float()
    with np.errstate(over="ignore"):  # too large counts as infinite
        return torch.from_numpy(array.astype(np.float32))


def _floating(array: Array | Tensor) -> torch.dtype:
    """Return the type of what is given back: that of the history if it is a floating one."""
    if isinstance(array, Tensor):
        return array.dtype if array.is_floating_point() else torch.float32
    kept = {"float16": torch.float16, "float64": torch.float64}
    return kept.get(array.dtype.name, torch.float32)


def _require_finite(frames_BTCs: Tensor, names: Sequence[str], *, is_batch: bool) -> None:
    finite = frames_BTCs.isfinite()
    if finite.all():
        return
    window, frame, channel, *point = finite.logical_not().nonzero()[0].tolist()
    raise DataError(
        "the history holds values that are not finite in single precision, first in frame "
        f"{frame}{f' of window {window}' * is_batch}, channel {names[channel]}, at the point "
        f"{tuple(point)} (all counted from 0)"
    )
