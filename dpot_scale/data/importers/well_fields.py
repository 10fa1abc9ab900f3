"""Fields and numbers of a file in The Well's layout: the axes of each array, and its channels."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from dpot_scale.data.importers.source import Array, unit_of
from dpot_scale.data.store.beside import INTERVAL, TIMES
from dpot_scale.data.store.shards import CHANNEL, COLUMN, REAL, TIME, TRAJECTORY
from dpot_scale.errors import DataError

# Groups of fields, and the axes of their components.
SCALARS, VECTORS, TENSORS = "t0_fields", "t1_fields", "t2_fields"
COMPONENTS: dict[str, list[tuple[str, ...]]] = {
    SCALARS: [()],
    VECTORS: [(CHANNEL,)],
    TENSORS: [(CHANNEL, COLUMN), (CHANNEL,)],  # the second: rows one after the other
}
NUMBERS = "scalars"
SAME = "same along "  # an axis of one point, along which a field is constant


@dataclass(frozen=True, kw_only=True)
class Field:
    """An array of fields."""

    name: str  # in the file
    axes: tuple[str, ...]
    channels: tuple[str, ...]
    unit: str  # that the file says; "" if none

    @property
    def varies_in_time(self) -> bool:
        """Return whether it has frames."""
        return TIME in self.axes

    def lacks_an_axis(self, spatial_axes: Sequence[str]) -> bool:
        """Return whether it is constant along an axis of space."""
        return not set(spatial_axes) <= set(self.axes)


def fields_of(
    path: Path, file: h5py.File, sizes: dict[str, int], *, tensors: bool
) -> Iterator[Field]:
    """Yield the arrays of scalars, then of vectors, then of tensors, each in the order of names.

    Args:
        path: The file, for sentences.
        file: The file.
        sizes: How many points each axis of space has, trajectories and frames.
        tensors: Whether tensors are among them.

    Raises:
        DataError: an array does not have the axes that its attributes say.
    """
    for group in COMPONENTS if tensors else (SCALARS, VECTORS):
        for name in sorted(file.get(group, ())):
            array = file[group][name]
            axes = _axes(array, COMPONENTS[group], sizes)
            if axes is None:
                wanted = next(_possible(array, COMPONENTS[group], sizes))
                raise DataError(
                    f"{path}: {group}/{name} of shape {array.shape} does not have the axes "
                    f"{', '.join(_said(axis, sizes) for axis in wanted)}"
                )
            space = [axis for axis in sizes if axis not in {TRAJECTORY, TIME}]
            channels = tuple(_channels(name, array, axes, space, rank=int(group[1])))
            yield Field(name=f"{group}/{name}", axes=axes, channels=channels, unit=unit_of(array))


def frames_of(file: h5py.File) -> int:
    """Return how many frames the fields have; 0 where none changes in time."""
    for group in COMPONENTS:
        for array in file.get(group, {}).values():
            if array.attrs["time_varying"]:
                return int(array.shape[1 if array.attrs["sample_varying"] else 0])
    return 0


def _said(axis: str, sizes: dict[str, int]) -> str:
    """Return an axis and how many points it must have, for a sentence."""
    points = 1 if axis.startswith(SAME) else sizes.get(axis)
    return axis.removeprefix(SAME) + ("" if points is None else f" ({points})")


def _axes(
    array: h5py.Dataset, components: list[tuple[str, ...]], sizes: dict[str, int]
) -> tuple[str, ...] | None:
    for axes in _possible(array, components, sizes):
        points = [1 if axis.startswith(SAME) else sizes.get(axis) for axis in axes]
        if len(axes) == array.ndim and all(
            expected in (None, found) for expected, found in zip(points, array.shape, strict=True)
        ):
            return axes
    return None


def _possible(
    array: h5py.Dataset, components: list[tuple[str, ...]], sizes: dict[str, int]
) -> Iterator[tuple[str, ...]]:
    """Yield the axes that an array may have.

    An axis of space along which it is constant, as `dim_varying` says, has one point or is absent.
    """
    space = [axis for axis in sizes if axis not in {TRAJECTORY, TIME}]
    varies = array.attrs.get("dim_varying", [True] * len(space))
    leading = (
        *((TRAJECTORY,) if array.attrs["sample_varying"] else ()),
        *((TIME,) if array.attrs["time_varying"] else ()),
    )
    pairs = list(zip(space, varies, strict=False))
    with_points = tuple(axis if varying else f"{SAME}{axis}" for axis, varying in pairs)
    absent = tuple(axis for axis, varying in pairs if varying)
    for inner, kinds in itertools.product((with_points, absent), components):
        yield (*leading, *inner, *kinds)


def _channels(
    name: str, array: h5py.Dataset, axes: tuple[str, ...], space: Sequence[str], rank: int
) -> Iterator[str]:
    """Yield a name for each component: with axes of space, or numbers where there are others."""
    counts = [
        points for axis, points in zip(axes, array.shape, strict=True) if axis in (CHANNEL, COLUMN)
    ]
    if int(np.prod(counts)) == len(space) ** rank:
        yield from (
            "_".join([name, "".join(of_one)] if of_one else [name])
            for of_one in itertools.product(space, repeat=rank)
        )
    else:
        yield from (
            f"{name}_{''.join(map(str, of_one))}"
            for of_one in itertools.product(*map(range, counts))
        )


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """Numbers beside the fields."""

    parameters: dict[str, Array]  # (N,) of each name
    series: dict[str, Array]  # (N, T) of each name
    left_out: tuple[str, ...]  # what is there and is no number, or has other axes


def numbers_of(file: h5py.File, sizes: dict[str, int]) -> Numbers:
    """Return the scalars of a file, and the parameters of its simulation in its attributes."""
    trajectories, frames = sizes[TRAJECTORY], sizes[TIME]
    parameters: dict[str, Array] = {}
    series: dict[str, Array] = {}
    left_out = []
    for name, array in sorted(file.get(NUMBERS, {}).items()):
        varies = bool(array.attrs.get("time_varying", False))
        differs = bool(array.attrs.get("sample_varying", False))
        leading = (trajectories,) * differs + (frames,) * varies
        is_known = array.dtype.kind in REAL and array.shape[: len(leading)] == leading
        if not is_known or name in (TIMES, INTERVAL):
            left_out.append(name)
            continue
        values = np.asarray(array, dtype=np.float64)
        values = values.reshape(*leading, -1)
        if not differs:
            values = np.broadcast_to(values, (trajectories, *values.shape))
        kept = series if varies else parameters
        for number in range(values.shape[-1]):
            key = name if values.shape[-1] == 1 else f"{name}_{number}"
            kept[key] = values[..., number]
    said = map(_text, np.atleast_1d(file.attrs.get("simulation_parameters", [])))
    for name in filter(file.attrs.__contains__, said):
        value = np.asarray(file.attrs[name])
        if value.dtype.kind not in REAL or value.size != 1:
            left_out.append(name)
        elif name not in parameters and name not in series:
            parameters[name] = np.full(trajectories, float(value.item()))
    known = {*parameters, *series}
    return Numbers(
        parameters=parameters,
        series=series,
        left_out=tuple(dict.fromkeys(name for name in left_out if name not in known)),
    )


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
