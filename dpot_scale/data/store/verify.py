"""Checks every byte of a stored dataset: against its index, and for data unfit to train on."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpot_scale.data.store.authenticity import check_authenticity
from dpot_scale.data.store.dataset import SPLITS, DatasetStore, Split
from dpot_scale.data.store.faults import require_machine
from dpot_scale.data.store.open_files import open_hdf5
from dpot_scale.data.store.published import check_published
from dpot_scale.data.store.shards import FIELDS, Shard, digest
from dpot_scale.data.store.statistics import Moments
from dpot_scale.data.store.suspect import TrajectoryCheck, shortened
from dpot_scale.errors import DataError

SHOWN_TRAJECTORIES = 5  # of each kind of problem
PIECE_BYTES = 64 * 2**20
# Pairs of splits without a trajectory in common.
LEAKS = (("valid", "train"), ("test", "train"), ("test", "valid"))
STATISTICS_TOLERANCE = 1e-5  # of the standard deviation
# Datasets that repeat themselves as they are published.
KNOWN_REPETITIONS = {
    "swe_pdb": "known of the published data: each state follows from one radius, and radii that "
    "cover the same cells give the same trajectory",
}


@dataclass
class Verification:
    """The problems and remarks on one dataset."""

    trajectories: int = 0
    minimum_C: NDArray[Any] = field(default_factory=lambda: np.empty(0))
    maximum_C: NDArray[Any] = field(default_factory=lambda: np.empty(0))
    problems: list[str] = field(default_factory=list)  # one sentence each
    notes: list[str] = field(default_factory=list)  # what is worth knowing, but no fault
    suspect: list[str] = field(default_factory=list)  # trajectories with what no solver computes


def verify_dataset(store: DatasetStore) -> Verification:
    """Check files, shapes and values of a dataset, and look for repeated trajectories.

    At most 64 MiB are in memory at a time.

    Raises:
        MachineError: a file cannot be read now, and may be intact.
    """
    channels = len(store.info.channels)
    found = Verification(minimum_C=np.full(channels, np.inf), maximum_C=np.full(channels, -np.inf))
    places: dict[str, list[str]] = defaultdict(list)  # digest of a trajectory -> where it is
    moments = Moments()
    digests: dict[str, str] = {}
    _look_for_splits(store, found)
    for split in SPLITS:
        for number in _readable(store, split, found, digests):
            place = f"{split} {number}"
            seen = moments if split == store.described_split else Moments()
            try:
                places[_look_at(store, split, number, found, seen)].append(place)
            except DataError as error:
                require_machine(store.file_of(split, number), error.__cause__ or error)
                found.problems.append(str(error))
    found.trajectories = sum(len(repeats) for repeats in places.values())
    _report_repetitions(store, list(places.values()), found)
    if not found.problems:  # otherwise there is a better reason
        found.problems += _statistics_problems(store, moments)
        try:
            found.problems += check_authenticity(store)
        except DataError as error:
            found.problems.append(str(error))
    found.problems += shortened(found.suspect)
    try:
        problems, notes = check_published(store)
    except DataError as error:
        problems, notes = [str(error)], []
    found.problems += problems
    found.notes += notes
    return found


def _look_for_splits(store: DatasetStore, found: Verification) -> None:
    if not store.shards["test"]:
        found.problems.append("the test split is empty")
    if store.is_for_evaluation:
        found.notes.append("it is for evaluation alone: there is no trajectory to train on")


def _readable(
    store: DatasetStore, split: Split, found: Verification, digests: dict[str, str]
) -> Iterator[int]:
    """Yield the trajectories of the shards that are what the index says."""
    first = 0
    for shard in store.shards[split]:
        last = first + shard.trajectories - 1
        try:
            _check_file(store, shard, found, digests)
            store.read(split, last, shard.frames - 1, 1)  # before as many sentences as trajectories
            yield from range(first, last + 1)
        except (OSError, KeyError, DataError) as error:
            require_machine(store.folder / shard.file, error.__cause__ or error)
            found.problems.append(f"{shard.file} cannot be read ({error})")
        except _Misshapen:
            found.problems.append(
                f"{shard.file} does not hold {FIELDS} {_shape(store, shard)} in float32"
            )
        first += shard.trajectories


class _Misshapen(Exception):  # noqa: N818
    """A shard that does not hold what the index says."""


def _check_file(
    store: DatasetStore, shard: Shard, found: Verification, digests: dict[str, str]
) -> None:
    path = store.folder / shard.file  # of a linked file, the absolute path
    if shard.file not in digests:
        digests[shard.file] = digest(path)
        if digests[shard.file] != shard.sha256:
            found.problems.append(f"{shard.file} has changed since it was written (other sha256)")
    if shard.view is None:
        _check_shape(path, _shape(store, shard))


def _check_shape(path: Path, expected: tuple[int, ...]) -> None:
    with open_hdf5(path) as file:
        fields = file.get(FIELDS)
        if getattr(fields, "shape", None) != expected or fields.dtype != np.float32:
            raise _Misshapen


def _shape(store: DatasetStore, shard: Shard) -> tuple[int, ...]:
    return (shard.trajectories, shard.frames, sum(store.info.scored), *store.info.grid)


def _look_at(
    store: DatasetStore, split: Split, number: int, found: Verification, moments: Moments
) -> str:
    """Check the values of a trajectory and return its digest."""
    frames = store.num_frames(split, number)
    frame_bytes = 4 * len(store.info.channels) * int(np.prod(store.info.grid))
    length = max(1, PIECE_BYTES // frame_bytes)
    content, not_finite = hashlib.blake2b(digest_size=16), 0
    check = TrajectoryCheck(store.info.channels, store.info.scored)
    for first in range(0, frames, length):
        piece_TCxy = store.read(split, number, first, min(length, frames - first))
        content.update(np.ascontiguousarray(piece_TCxy).data)
        finite = np.isfinite(piece_TCxy)
        not_finite += int((~finite).sum())
        if finite.all():
            space = (0, *range(2, piece_TCxy.ndim))
            found.minimum_C = np.minimum(found.minimum_C, piece_TCxy.min(axis=space))
            found.maximum_C = np.maximum(found.maximum_C, piece_TCxy.max(axis=space))
            moments.add(piece_TCxy)
            check.add(piece_TCxy)
    if not_finite:
        found.problems.append(f"{split} {number} holds {not_finite:,} values that are not finite")
    else:
        found.suspect += [f"{split} {number} {sentence}" for sentence in check.sentences()]
    return content.hexdigest()


def _statistics_problems(store: DatasetStore, moments: Moments) -> list[str]:
    """Say which channels have another mean or standard deviation than the index says."""
    actual = moments.statistics(len(store.info.channels))
    problems = []
    for channel, *values in zip(
        store.info.channels,
        actual.mean,
        store.statistics.mean,
        actual.std,
        store.statistics.std,
        strict=True,
    ):
        mean, stated_mean, std, stated_std = values
        distance = max(abs(mean - stated_mean), abs(std - stated_std))
        if distance > STATISTICS_TOLERANCE * max(std, abs(mean)):
            problems.append(
                f"the index gives {channel} a mean of {stated_mean:.6g} and a deviation of "
                f"{stated_std:.6g}, the {store.described_split} split has {mean:.6g} and {std:.6g}"
            )
    return problems


def _report_repetitions(store: DatasetStore, places: list[list[str]], found: Verification) -> None:
    known = KNOWN_REPETITIONS.get(store.info.name) if store.info.origin == "imported" else None
    sentences = _repetitions(places)
    if known is None:
        found.problems += sentences
    else:
        found.notes += [f"{sentence}; {known}" for sentence in sentences]


def _repetitions(places: list[list[str]]) -> list[str]:
    """Say which trajectories are there more than once, and which leak into another split."""
    repeated = [same for same in places if len(same) > 1]
    superfluous = sum(len(same) - 1 for same in repeated)
    sentences = []
    for held_out, seen in LEAKS:
        leaked = [same for same in repeated if {held_out, seen} <= _splits(same)]
        count = sum(place.startswith(held_out) for same in leaked for place in same)
        if leaked:
            sentences.append(
                f"{count} {held_out} trajectories are also in the {seen} split{_list_some(leaked)}"
            )
    if repeated:
        sentences.append(f"{superfluous} trajectories repeat another one{_list_some(repeated)}")
    return sentences


def _splits(places: list[str]) -> set[str]:
    return {place.split()[0] for place in places}


def _list_some(groups: list[list[str]]) -> str:
    shown = "; ".join(" = ".join(same[:SHOWN_TRAJECTORIES]) for same in groups[:SHOWN_TRAJECTORIES])
    return f" ({shown}{'; ...' if len(groups) > SHOWN_TRAJECTORIES else ''})"
