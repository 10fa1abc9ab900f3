"""What the reference's preprocessing writes: HDF5 with `data`, frames and channels last.

One file for each trajectory, (H, W, T, C), in folders train and test; or one for a split,
(N, H, W, T, C), or (N, H, W, T) of vorticity. The files do not say what they hold; the names of
their folders do.
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import h5py

from dpot_scale.data.catalog import CATALOG
from dpot_scale.data.importers.source import Source, file_view, sliced_in_place
from dpot_scale.data.importers.splits import SPLIT_WORDS, by_folder_or_name, train_before_valid
from dpot_scale.data.info import MASK
from dpot_scale.data.store.open_files import open_hdf5
from dpot_scale.data.store.shards import CHANNEL, TIME, TRAJECTORY
from dpot_scale.errors import DataError

DATA = "data"
MOST_CHANNELS = 8
# Sets whose first space axis is y, as the reference stores them.
ROWS_FIRST = ("ns2d_fno_1e-4", "ns2d_fno_1e-3", "dr_pdb", "cfdbench")


@dataclass(frozen=True)
class _Layout:
    trajectories: int
    frames: int
    channels: int
    grid: tuple[int, ...]
    axes: tuple[str, ...]  # with "first" and "second" for space


def recognise(path: Path, *, paper: bool) -> list[Source]:
    """Return the file as a source if it holds one array, `data`.

    Raises:
        DataError: `data` has no shape that the reference writes.
    """
    del paper  # it is the paper's preprocessing already
    if not h5py.is_hdf5(path):
        return []
    with open_hdf5(path) as file:
        if list(file) != [DATA] or not isinstance(file[DATA], h5py.Dataset):
            return []
        shape, value_bytes = file[DATA].shape, file[DATA].dtype.itemsize
    layout = _layout(shape)
    if layout is None:
        raise DataError(
            f"{path}: {DATA} has shape {shape}; expected (H, W, T, C), (N, H, W, T, C) or "
            "(N, H, W, T)"
        )
    names = tuple(
        name
        for name, entry in CATALOG.items()
        if len(entry.channels) == layout.channels and entry.frames <= layout.frames
    )
    name = _named_by(path, names)
    source = partial(_source, path, layout, value_bytes, (name,) if name else names)
    return [source(name) if name else replace(source(None), says_name=False, named=source)]


def _layout(shape: tuple[int, ...]) -> _Layout | None:
    space = ("first", "second")
    match shape:
        case (n, h, w, t, c) if c <= MOST_CHANNELS:
            return _Layout(n, t, c, (h, w), (TRAJECTORY, *space, TIME, CHANNEL))
        case (h, w, t, c) if c <= MOST_CHANNELS:
            return _Layout(1, t, c, (h, w), (*space, TIME, CHANNEL))
        case (n, h, w, t):
            return _Layout(n, t, 1, (h, w), (TRAJECTORY, *space, TIME))
    return None


def _named_by(path: Path, names: tuple[str, ...]) -> str | None:
    """Return the dataset that the path names, as `ns2d_1e-3_train.hdf5` does."""
    text = "/".join(path.parts[-3:])
    found = [name for name in names if name in text or name.replace("_fno", "") in text]
    return max(found, key=len, default=None)


def _source(
    path: Path,
    layout: _Layout,
    value_bytes: int,
    candidates: tuple[str, ...],
    name: str | None,
) -> Source:
    """Return the source. Its channels and axes follow from its name alone."""
    entry = CATALOG.get(name or "")
    spatial_axes = ("y", "x") if name in ROWS_FIRST else ("x", "y")
    names = dict(zip(("first", "second"), spatial_axes, strict=True))
    channels = entry.channels if entry else tuple(f"c{i}" for i in range(layout.channels))
    view = file_view(
        path,
        [(DATA, tuple(names.get(axis, axis) for axis in layout.axes))],
        spatial_axes=spatial_axes,
        trajectories=layout.trajectories,
        frames=layout.frames,
    )
    source = Source(
        **sliced_in_place([view]),
        path=path,
        format="preprocessed by the reference",
        candidates=candidates,
        equation="unknown",
        channels=channels,
        grid=layout.grid,
        domain_length=(1.0, 1.0),
        frame_interval=1.0,
        boundary="unknown",
        value_bytes=value_bytes,
        constant=(MASK,) if MASK in channels else (),
        fluid_mask=MASK if MASK in channels else "",
        split=by_folder_or_name(path),
        collection=name or str(_folder(path)),
        arrange=train_before_valid,
    )
    # Frames last: a window is strided all over the file, and a mask is not stored apart.
    return replace(source, views=())


def _folder(path: Path) -> Path:
    """Return the folder of a dataset, above those of its splits."""
    return path.parent.parent if path.parent.name in SPLIT_WORDS else path.parent
