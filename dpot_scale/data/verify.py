"""Look at every byte of a stored dataset: is it what its index says, and fit to train on?"""

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from dpot_scale.data.store import FIELDS, SPLITS, DatasetStore, Shard, Split, sha256

SHOWN_TRAJECTORIES = 5  # of each kind of problem


@dataclass
class Verification:
    """What was found in one dataset."""

    trajectories: int = 0
    minimum_C: NDArray[Any] = field(default_factory=lambda: np.empty(0))
    maximum_C: NDArray[Any] = field(default_factory=lambda: np.empty(0))
    problems: list[str] = field(default_factory=list)  # one sentence each


def verify_dataset(store: DatasetStore) -> Verification:
    """Check files, shapes, values and repeated trajectories, holding one trajectory in memory."""
    channels = len(store.info.channels)
    found = Verification(minimum_C=np.full(channels, np.inf), maximum_C=np.full(channels, -np.inf))
    places: dict[str, list[str]] = defaultdict(list)  # digest of a trajectory -> where it is
    for split in SPLITS:
        if not store.shards[split]:
            found.problems.append(f"the {split} split is empty")
        for number, trajectory in enumerate(_trajectories(store, split, found)):
            place = f"{split} {number}"
            places[hashlib.blake2b(trajectory.data, digest_size=16).hexdigest()].append(place)
            _check_values(trajectory, place, found)
    found.trajectories = sum(len(repeats) for repeats in places.values())
    found.problems.extend(_repetitions(list(places.values())))
    return found


def _trajectories(
    store: DatasetStore, split: Split, found: Verification
) -> Iterator[NDArray[np.float32]]:
    """Yield the trajectories (T, C, *space) of the shards that are what the index says."""
    for shard in store.shards[split]:
        try:
            yield from _shard_trajectories(store, shard, found)
        except OSError as error:
            found.problems.append(f"{shard.file} cannot be read ({error})")


def _shard_trajectories(
    store: DatasetStore, shard: Shard, found: Verification
) -> Iterator[NDArray[np.float32]]:
    path = store.folder / shard.file
    if sha256(path) != shard.sha256:
        found.problems.append(f"{shard.file} has changed since it was written (other sha256)")
    info = store.info
    expected = (shard.trajectories, shard.frames, len(info.channels), *info.grid)
    with h5py.File(path, "r") as file:
        fields = file.get(FIELDS)
        if getattr(fields, "shape", None) != expected or fields.dtype != np.float32:
            found.problems.append(f"{shard.file} does not hold {FIELDS} {expected} in float32")
            return
        yield from fields


def _check_values(trajectory: NDArray[np.float32], place: str, found: Verification) -> None:
    space = (0, *range(2, trajectory.ndim))
    finite = np.isfinite(trajectory)
    if not finite.all():
        found.problems.append(f"{place} holds {(~finite).sum():,} values that are not finite")
        return
    found.minimum_C = np.minimum(found.minimum_C, trajectory.min(axis=space))
    found.maximum_C = np.maximum(found.maximum_C, trajectory.max(axis=space))


def _repetitions(places: list[list[str]]) -> list[str]:
    """Say which trajectories are there more than once, and which of them leak into the test."""
    repeated = [same for same in places if len(same) > 1]
    leaked = [same for same in repeated if _splits(same) == {"train", "test"}]
    tests = sum(place.startswith("test") for same in leaked for place in same)
    superfluous = sum(len(same) - 1 for same in repeated)
    sentences = []
    if leaked:
        sentences.append(f"{tests} test trajectories are also in the train split{_shown(leaked)}")
    if repeated:
        sentences.append(f"{superfluous} trajectories repeat another one{_shown(repeated)}")
    return sentences


def _splits(places: list[str]) -> set[str]:
    return {place.split()[0] for place in places}


def _shown(groups: list[list[str]]) -> str:
    shown = "; ".join(" = ".join(same[:SHOWN_TRAJECTORIES]) for same in groups[:SHOWN_TRAJECTORIES])
    return f" ({shown}{'; ...' if len(groups) > SHOWN_TRAJECTORIES else ''})"
