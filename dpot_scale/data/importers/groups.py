"""The groups of a PDEBench file, one for each seed: those that are sound, and those left out."""

from collections import Counter
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from dpot_scale.data.importers.source import DAMAGE, unusable
from dpot_scale.errors import DataError

DATA = "data"
GRIDS = ("grid/t", "grid/x", "grid/y")
SHOWN = 5  # groups left out that are named one by one

Key = tuple[tuple[int, ...], bytes]  # the shape of the data, and the points of the grid


def has_seeds(file: h5py.File) -> bool:
    """Return whether the names at the top level are numbers, and those of groups."""
    return (
        len(file) > 0
        and all(name.isdigit() for name in file)
        and any(file.get(name, getclass=True, default=None) is h5py.Group for name in file)
    )


def sound_groups(path: Path, file: h5py.File) -> tuple[list[str], list[DataError]]:
    """Return the groups of equal shape and grid by number, and an error that names the others.

    Raises:
        DataError: at least half of the groups are not as they should be.
    """
    names = sorted(file, key=int)
    keys: dict[str, Key] = {}
    bad: dict[str, DataError] = {}
    for name in names:
        try:
            keys[name] = _key(path, file, name)
        except DataError as error:
            bad[name] = error
        except DAMAGE as error:
            bad[name] = unusable(f"{path}: group {name}", error)
    if 2 * len(bad) >= len(names):
        raise next(iter(bad.values()))
    (usual, count), *_ = Counter(keys.values()).most_common(1)
    if 2 * count <= len(names):
        _refuse_mixture(path, keys)
        return list(keys), []
    first = next(name for name in names if keys.get(name) == usual)
    for name in names:
        if name in keys and keys[name] != usual:
            bad[name] = _differing(path, name, keys[name], first, usual)
    return [name for name in names if name not in bad], _left_out(path, names, bad)


def grids_of(group: h5py.Group) -> list[NDArray[Any]]:
    """Return the times, x and y of a group."""
    return [np.asarray(group[name], dtype=np.float64) for name in GRIDS]


def _key(path: Path, file: h5py.File, name: str) -> Key:
    group = file[name]
    data = group.get(DATA) if isinstance(group, h5py.Group) else None
    if not isinstance(data, h5py.Dataset):
        raise DataError(f"{path}: group {name} holds no {DATA}; download it again")
    for grid in GRIDS:
        if not isinstance(group.get(grid), h5py.Dataset):
            raise DataError(f"{path}: group {name} has no {grid}")
    return tuple(data.shape), b"".join(values.tobytes() + b"|" for values in grids_of(group))


def _refuse_mixture(path: Path, keys: dict[str, Key]) -> None:
    """Refuse groups of several shapes, none of which most of them have."""
    shapes = {shape: name for name, (shape, _) in keys.items()}
    if len(shapes) > 1:
        (first, of_first), (second, of_second), *_ = shapes.items()
        raise DataError(
            f"{path}: the groups differ in shape, {of_first} has {first}, {of_second} has {second}"
        )


def _differing(path: Path, name: str, key: Key, first: str, usual: Key) -> DataError:
    if key[0] == usual[0]:
        return DataError(f"{path}: group {name} has another grid or other times than {first}")
    return DataError(f"{path}: group {name} has {DATA} of shape {key[0]}, and {first} {usual[0]}")


def _left_out(path: Path, names: list[str], bad: dict[str, DataError]) -> list[DataError]:
    if not bad:
        return []
    reasons = [str(error).removeprefix(f"{path}: ") for error in list(bad.values())[:SHOWN]]
    more = ["..."] if len(bad) > SHOWN else []
    return [
        DataError(
            f"{path}: {len(bad)} of {len(names)} groups left out: {'; '.join([*reasons, *more])}"
        )
    ]
