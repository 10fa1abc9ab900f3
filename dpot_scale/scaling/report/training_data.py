"""What a trial was trained on, by the stores of its data: distinct windows, and what they cost."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path

from dpot_scale.config.run import RunConfig
from dpot_scale.data.store.cost import read_cost
from dpot_scale.data.store.dataset import INDEX
from dpot_scale.data.store.index import read_index
from dpot_scale.data.stream.mixture import Windows, window_shares


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingSplit:
    """The training split of one dataset."""

    trajectories: int
    frames: float  # stored, mean over trajectories
    windows: int  # that can be cut from it
    solve_seconds: float | None  # of a worker, for one trajectory; None: not known


def training_splits(run: RunConfig) -> Mapping[str, TrainingSplit] | None:
    """Return the training split of each dataset of a run; None where the data are gone.

    Raises:
        DataError: an index or a record of costs is damaged.
    """
    splits = {}
    for name in run.data.weights:
        folder = run.data.root / name
        if not (folder / INDEX).is_file():
            return None
        lengths = _lengths(folder, run.data.most_trajectories(name))
        trajectories = sum(number for number, _ in lengths)
        cost = read_cost(folder)
        seconds = cost.seconds.get("train", ())[:trajectories] if cost else ()
        known = [one for one in seconds if one is not None]
        cuts = [
            Windows.of(number, frames, run.window_frames, run.data.strides)
            for number, frames in lengths
        ]
        splits[name] = TrainingSplit(
            trajectories=trajectories,
            frames=sum(number * frames for number, frames in lengths) / trajectories,
            windows=sum(map(len, cuts)),
            solve_seconds=sum(known) / len(known) if known else None,
        )
    return splits


def _lengths(folder: Path, most: int | None) -> list[tuple[int, int]]:
    """Return how many of the first training trajectories have how many frames, in order."""
    lengths = []
    left = inf if most is None else most
    for shard in read_index(folder / INDEX).splits.train:
        if left > 0:
            lengths.append((int(min(shard.trajectories, left)), shard.frames))
        left -= shard.trajectories
    return lengths


def distinct_windows(run: RunConfig, splits: Mapping[str, TrainingSplit] | None) -> float:
    """Return how many of the windows that a run sees are no repeats; all where data are unknown."""
    if splits is None:
        return float(run.windows)
    shares = window_shares(run.data, {name: one.trajectories for name, one in splits.items()})
    return sum(min(run.windows * share, splits[name].windows) for name, share in shares.items())
