"""Plain arrays, in .npy, .npz, .pt or HDF5, whose axes the user names.

An array (N, T, X, Y, C), or the channels one by one, (N, T, X, Y) each; N, T and C may be missing
where there is only one. Files whose names differ only in the words train, valid and test are one
dataset, and so are all files for which the user gives one name.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from dpot_scale.config.data import SPACE_AXES, ArrayLayout
from dpot_scale.data.catalog import CATALOG
from dpot_scale.data.importers import arrays
from dpot_scale.data.importers.npz import ArrayLike
from dpot_scale.data.importers.source import Source, file_view, sliced_in_place, unit_of
from dpot_scale.data.importers.splits import (
    by_folder_or_name,
    name_without_split,
    train_before_valid,
)
from dpot_scale.data.info import is_dataset_name
from dpot_scale.data.store.open_files import NPY, open_hdf5
from dpot_scale.data.store.shards import CHANNEL, REAL, TIME, TRAJECTORY, sliced
from dpot_scale.errors import DataError

NAMES = {"N": TRAJECTORY, "T": TIME, "C": CHANNEL} | {axis: axis.lower() for axis in SPACE_AXES}
SHOWN_ARRAYS = 8

Load = Callable[[], Mapping[str, ArrayLike]]


@dataclass(frozen=True)
class _Chosen:
    """An array to read."""

    name: str
    axes: tuple[str, ...]  # with the words of a view
    size: Mapping[str, int]  # points of each axis
    dtype: np.dtype[Any]
    chunk: int  # trajectories that lie in one chunk of the file
    unit: str  # that the file says; "" if none


def recognise(path: Path, *, paper: bool, layout: ArrayLayout, name: str | None) -> list[Source]:
    """Return the arrays of a file as a source; nothing for a file of another kind.

    Args:
        path: The file.
        paper: Of no meaning here.
        layout: What its axes and channels are.
        name: Of the dataset, if the user gave one.

    Raises:
        DataError: the file is damaged or holds no such arrays.
    """
    del paper  # the arrays are the user's own
    if h5py.is_hdf5(path):
        with open_hdf5(path) as file:
            chosen = _chosen(path, _datasets(file), layout)
        return [_source(path, chosen, layout, name, _in_place(path, chosen, layout))]
    load = arrays.loader(path)
    if load is None:
        return []
    chosen = _chosen(path, load(), layout)
    if path.suffix == NPY and chosen[0].name == "":
        return [_source(path, chosen, layout, name, _in_place(path, chosen, layout))]
    reading = {
        "trajectories": chosen[0].size.get(TRAJECTORY, 1),
        "frames": chosen[0].size.get(TIME, 1),
        "read": partial(_read, load, chosen, _space(layout)),
        "spatial_axes": _space(layout),
    }
    return [_source(path, chosen, layout, name, reading)]


def _datasets(file: h5py.File) -> dict[str, h5py.Dataset]:
    """Return the arrays of an HDF5 file, also those in groups."""
    found: dict[str, h5py.Dataset] = {}

    def add(name: str, item: h5py.HLObject) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item

    file.visititems(add)
    return found


def _chosen(path: Path, found: Mapping[str, ArrayLike], layout: ArrayLayout) -> list[_Chosen]:
    """Return the arrays to read, which agree in everything but their number of channels."""
    names = _names(path, found, layout)
    chosen = [_choose(path, name, found[name], layout) for name in names]
    sizes = [{**array.size, CHANNEL: 1} for array in chosen]
    if any(size != sizes[0] for size in sizes):
        raise DataError(f"{path}: the arrays differ in shape: {_listed(found, names)}")
    return chosen


def _names(path: Path, found: Mapping[str, ArrayLike], layout: ArrayLayout) -> Sequence[str]:
    """Return the names of the arrays to read."""
    axes = f"{len(layout.layout)} axes {layout.layout}"
    wanted = layout.arrays
    if not wanted and "C" not in layout.layout and found.keys() >= set(layout.channels):
        wanted = layout.channels
    if missing := [name for name in wanted if name not in found]:
        raise DataError(
            f"{path} has no array {', '.join(missing)}; it holds {_listed(found, list(found))}"
        )
    fitting = [name for name in found if len(found[name].shape) == len(layout.layout)]
    if wanted or len(fitting) == 1:
        return wanted or fitting
    if fitting:
        raise DataError(
            f"{path} holds several arrays with the {axes}: {_listed(found, fitting)}; say with "
            "--arrays which of them to read"
        )
    raise DataError(
        f"{path} holds no array with the {axes}, but {_listed(found, list(found))}; say with "
        "--layout what its axes are"
    )


def _choose(path: Path, name: str, array: ArrayLike, layout: ArrayLayout) -> _Chosen:
    letters = layout.layout
    if len(array.shape) == len(letters) - 1:
        letters = letters.replace("C", "")  # one channel, beside an array of several
    if len(array.shape) != len(letters):
        raise DataError(
            f"{path}: {_listed({name: array}, [name])} does not have the "
            f"{len(layout.layout)} axes {layout.layout}"
        )
    if array.dtype.kind not in REAL:
        raise DataError(f"{path}: {name or 'its array'} holds {array.dtype}, not real numbers")
    axes = tuple(NAMES[letter] for letter in letters)
    chunks = getattr(array, "chunks", None)
    chunk = chunks[axes.index(TRAJECTORY)] if chunks and TRAJECTORY in axes else 1
    return _Chosen(
        name, axes, dict(zip(axes, array.shape, strict=True)), array.dtype, chunk, unit_of(array)
    )


def _listed(found: Mapping[str, ArrayLike], names: Sequence[str]) -> str:
    some = [f"{name or 'an array'} {found[name].shape}" for name in names[:SHOWN_ARRAYS]]
    return ", ".join([*some, "..."] if len(names) > SHOWN_ARRAYS else some) or "nothing"


def _space(layout: ArrayLayout) -> tuple[str, ...]:
    return tuple(NAMES[axis] for axis in layout.space_axes)


def _in_place(path: Path, chosen: Sequence[_Chosen], layout: ArrayLayout) -> dict[str, Any]:
    view = file_view(
        path,
        [(array.name, array.axes) for array in chosen],
        spatial_axes=_space(layout),
        trajectories=chosen[0].size.get(TRAJECTORY, 1),
        frames=chosen[0].size.get(TIME, 1),
    )
    return sliced_in_place([view])


def _read(
    load: Load, chosen: Sequence[_Chosen], space: tuple[str, ...], rows: slice, frames: slice
) -> NDArray[Any]:
    """Read (N, T, C, *space), a copy of what may be mapped."""
    found = load()
    parts = [sliced(found[array.name], array.axes, space, rows, frames) for array in chosen]
    return np.concatenate(parts, axis=2)


def _source(
    path: Path,
    chosen: Sequence[_Chosen],
    layout: ArrayLayout,
    name: str | None,
    reading: Mapping[str, Any],
) -> Source:
    """Return the source of some arrays; `reading` says how they are read."""
    name = name or name_without_split(path)
    can_be_named = is_dataset_name(name) and name not in CATALOG
    return Source(
        **reading,
        path=path,
        format=f"arrays {layout.layout}",
        candidates=(name,) if can_be_named else (),
        equation=layout.equation,
        channels=_channels(path, chosen, layout),
        grid=tuple(chosen[0].size[axis] for axis in _space(layout)),
        domain_length=layout.lengths,
        frame_interval=layout.dt,
        boundary=layout.boundary,
        units=_units(path, chosen, layout),
        length_unit=layout.length_unit,
        time_unit=layout.time_unit,
        has_lengths=bool(layout.domain),
        aligned_to=max(array.chunk for array in chosen),
        value_bytes=max(array.dtype.itemsize for array in chosen),
        test_share=layout.test_share,
        collection=name,
        arrange=partial(_arrange, by_name=layout.test_share is None),
    )


def _channels(path: Path, chosen: Sequence[_Chosen], layout: ArrayLayout) -> tuple[str, ...]:
    """Return the names of the channels.

    Raises:
        DataError: the user names more or fewer than there are.
    """
    names: list[str] = []
    for array in chosen:
        stem = array.name.rpartition("/")[2]
        count = array.size.get(CHANNEL, 1)
        several = [f"{stem}_{i}" if stem else f"c{i}" for i in range(count)]
        names += [stem] if stem and count == 1 else several
    if layout.channels and len(layout.channels) != len(names):
        raise DataError(
            f"{path} has {len(names)} channels, but --channels names {len(layout.channels)}: "
            f"{', '.join(layout.channels)}"
        )
    return layout.channels or tuple(names)


def _units(path: Path, chosen: Sequence[_Chosen], layout: ArrayLayout) -> tuple[str, ...]:
    """Return the units of the channels: those that the user gives, else those in the file.

    Raises:
        DataError: the user gives more or fewer than there are.
    """
    said = [array.unit for array in chosen for _ in range(array.size.get(CHANNEL, 1))]
    if layout.units and len(layout.units) != len(said):
        raise DataError(
            f"{path} has {len(said)} channels, but --units gives {len(layout.units)}: "
            f"{', '.join(layout.units)}"
        )
    return layout.units or tuple(said)


def _arrange(sources: Sequence[Source], *, by_name: bool) -> list[Source]:
    """Return the files in order, with their splits if the paths of some say that they are tests."""
    splits = {source.path: by_folder_or_name(source.path) for source in sources}
    ordered = train_before_valid(sources)
    if not by_name:
        return ordered
    if "test" not in splits.values():
        valid = {path for path, split in splits.items() if split == "valid"}
        return [replace(s, split="valid") if s.path in valid else s for s in ordered]
    return [replace(source, split=splits[source.path] or "train") for source in ordered]
