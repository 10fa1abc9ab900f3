"""What a trial was trained on, by the stores of its data: distinct windows, and what they cost."""

from collections.abc import Mapping
from dataclasses import dataclass

from dpot_scale.config.run import RunConfig
from dpot_scale.data.store.cost import read_cost
from dpot_scale.data.store.dataset import INDEX
from dpot_scale.data.store.index import read_index
from dpot_scale.data.stream.mixture import Windows


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
        shards = read_index(folder / INDEX).splits.train
        trajectories = sum(shard.trajectories for shard in shards)
        cost = read_cost(folder)
        known = [one for one in cost.seconds.get("train", ()) if one is not None] if cost else []
        splits[name] = TrainingSplit(
            trajectories=trajectories,
            frames=sum(shard.trajectories * shard.frames for shard in shards) / trajectories,
            windows=sum(
                len(
                    Windows.of(
                        shard.trajectories, shard.frames, run.window_frames, run.data.strides
                    )
                )
                for shard in shards
            ),
            solve_seconds=sum(known) / len(known) if known else None,
        )
    return splits


def distinct_windows(run: RunConfig, splits: Mapping[str, TrainingSplit] | None) -> float:
    """Return how many of the windows that a run sees are no repeats; all where data are unknown."""
    if splits is None:
        return float(run.windows)
    weight = dict(run.data.weights)
    if run.data.sampling == "repeat":  # an epoch visits each trajectory so many times
        weight = {name: weight[name] * splits[name].trajectories for name in weight}
    total = sum(weight.values())
    seen = {name: run.windows * weight[name] / total for name in weight}
    return sum(min(seen[name], splits[name].windows) for name in seen)
