"""The mixture of datasets: a pure function from a position of the stream to a window.

Nothing is drawn and remembered: resuming is setting an integer, and any number of ranks sees the
same stream. Two laws are known. `weighted` is that of the paper, `repeat` that of its code.
"""

import zlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from dpot_scale.config.data import DataConfig
from dpot_scale.errors import ConfigError

# The weighted stream is cut into blocks of equal composition. The longer, the finer the weights.
BLOCK = 4096


class Cut(NamedTuple):
    """Where a window is cut from its dataset."""

    trajectory: int
    start: int  # its first frame
    stride: int  # from one of its frames to the next


@dataclass(frozen=True)
class Windows:
    """All windows of trajectories of equal length: of each one, every stride and every start."""

    trajectories: int
    starts: Mapping[int, int]  # stride -> how many windows a trajectory has
    first: int = 0  # of the trajectories

    @classmethod
    def of(
        cls,
        trajectories: int,
        stored_frames: int,
        frames: int,
        strides: tuple[int, ...] = (1,),
        first: int = 0,
    ) -> Self:
        """Return the windows of `frames` frames in trajectories of `stored_frames`."""
        starts = {stride: max(0, stored_frames - (frames - 1) * stride) for stride in strides}
        return cls(trajectories, starts, first)

    @property
    def per_trajectory(self) -> int:
        """Return how many windows a trajectory has."""
        return sum(self.starts.values())

    def __len__(self) -> int:
        return self.trajectories * self.per_trajectory

    def __getitem__(self, index: int) -> Cut:
        trajectory, start = divmod(index, self.per_trajectory)
        for stride, starts in self.starts.items():
            if start < starts:
                return Cut(self.first + trajectory, start, stride)
            start -= starts
        raise AssertionError("the starts of all strides are the windows of a trajectory")

    def drawn(self, trajectory: int, chance: float) -> Cut:
        """Return a window of one of the trajectories, for a chance in [0, 1)."""
        return self[trajectory * self.per_trajectory + int(chance * self.per_trajectory)]


class UnequalWindows:
    """The windows of trajectories that differ in length. Those that are too short have none.

    Args:
        runs: The windows of consecutive trajectories of equal length, in order.
    """

    def __init__(self, runs: Sequence[Windows]) -> None:
        self._runs = [run for run in runs if len(run)]
        self._ends = list(accumulate(len(run) for run in self._runs))
        self._last = list(accumulate(run.trajectories for run in self._runs))

    @property
    def trajectories(self) -> int:
        """Return how many trajectories have a window."""
        return self._last[-1] if self._last else 0

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> Cut:
        number = bisect_right(self._ends, index)
        run = self._runs[number]
        return run[index - (self._ends[number] - len(run))]

    def drawn(self, trajectory: int, chance: float) -> Cut:
        """Return a window of one of the trajectories that have some, for a chance in [0, 1)."""
        number = bisect_right(self._last, trajectory)
        run = self._runs[number]
        return run.drawn(trajectory - (self._last[number] - run.trajectories), chance)


DatasetWindows = Windows | UnequalWindows


class Mixture(Protocol):
    """Which window of which dataset is seen at each position of the training stream."""

    def locate(self, position: int) -> tuple[str, Cut]:
        """Return the dataset at a position of the stream, and its window."""


def open_mixture(windows: Mapping[str, DatasetWindows], config: DataConfig, seed: int) -> Mixture:
    """Return the mixture that a config describes.

    Raises:
        ConfigError: a weight is too small to appear once in a block.
    """
    if config.sampling == "repeat":
        return RepeatMixture(windows, config.weights, seed)
    return WeightedMixture(windows, config.weights, seed)


def window_shares(config: DataConfig, trajectories: Mapping[str, int]) -> dict[str, float]:
    """Return the share of each dataset in the windows of a training.

    Args:
        config: The weights of the datasets, and what they mean.
        trajectories: How many each has for training.
    """
    visits = {
        name: weight * (trajectories[name] if config.sampling == "repeat" else 1)
        for name, weight in config.weights.items()
    }
    whole = sum(visits.values())
    return {name: visited / whole for name, visited in visits.items()}


class WeightedMixture:
    """Each dataset has a share of the stream: w_k / sum(w).

    So p(a window of k) = w_k / (|D_k| sum(w)) (Hao et al., section 3.3). Every block of 4096
    positions holds each dataset exactly as often as its weight says, in an order shuffled per
    block. The draws of one dataset go through a permutation of its windows, then through another:
    none repeats before all have been seen.

    Args:
        windows: The windows of each dataset.
        weights: Relative frequency of each dataset in the stream.
        seed: The seed of all permutations.

    Raises:
        ConfigError: a weight is too small to appear once in a block.
    """

    def __init__(
        self, windows: Mapping[str, DatasetWindows], weights: Mapping[str, float], seed: int
    ) -> None:
        assert windows.keys() == weights.keys()
        self.names = sorted(windows)  # the stream does not depend on the order in a config
        self._windows = [windows[name] for name in self.names]
        self._draws = apportioned([weights[name] for name in self.names])
        for name, draws in zip(self.names, self._draws, strict=True):
            if draws == 0:
                raise ConfigError(
                    f"data.weights.{name}={weights[name]:g} is less than 1/{BLOCK} of all weights; "
                    "raise it or leave the dataset out"
                )
        self._seed = seed
        self._block_order = lru_cache(maxsize=4)(self._shuffled_block)
        # Neighbouring positions are in one epoch, or in two where an epoch ends.
        self._window_order = lru_cache(maxsize=2 * len(self.names))(self._permutation)

    def locate(self, position: int) -> tuple[str, Cut]:
        """Return the dataset at a position of the stream, and its window."""
        block, offset = divmod(position, BLOCK)
        dataset_of, rank_of = self._block_order(block)
        dataset = int(dataset_of[offset])
        windows = self._windows[dataset]
        draw = block * self._draws[dataset] + int(rank_of[offset])
        epoch, index = divmod(draw, len(windows))
        return self.names[dataset], windows[int(self._window_order(dataset, epoch)[index])]

    def _shuffled_block(self, block: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return, for each offset of a block, the dataset and which of its draws this is."""
        dataset_of = np.repeat(np.arange(len(self._draws)), self._draws)
        np.random.default_rng((self._seed, block)).shuffle(dataset_of)
        rank_of = np.empty(BLOCK, dtype=np.int64)
        for dataset, draws in enumerate(self._draws):
            rank_of[dataset_of == dataset] = np.arange(draws)
        return dataset_of, rank_of

    def _permutation(self, dataset: int, epoch: int) -> NDArray[np.int32]:
        # Keyed by name: adding a dataset to the mixture leaves the order of the others alone.
        key = (self._seed, zlib.crc32(self.names[dataset].encode()), epoch)
        return _shuffled(np.random.default_rng(key), len(self._windows[dataset]))


class RepeatMixture:
    """An epoch has every trajectory as often as its dataset's weight says, one window each time.

    This is what the public code of the paper does: a dataset's share is w_k N_k / sum(w N), N its
    trajectories, and the window is drawn anew, uniformly, each time.

    Args:
        windows: The windows of each dataset.
        weights: How often an epoch has each trajectory; whole numbers.
        seed: The seed of all draws.
    """

    def __init__(
        self, windows: Mapping[str, DatasetWindows], weights: Mapping[str, float], seed: int
    ) -> None:
        assert windows.keys() == weights.keys()
        self.names = sorted(windows)
        self._windows = [windows[name] for name in self.names]
        self._repeats = [int(weights[name]) for name in self.names]
        visits = (w.trajectories * n for w, n in zip(self._windows, self._repeats, strict=True))
        self._ends = [0, *accumulate(visits)]
        self._seed = seed
        self._epoch = lru_cache(maxsize=2)(self._drawn_epoch)

    @property
    def epoch_length(self) -> int:
        """Return the number of positions of an epoch."""
        return self._ends[-1]

    def locate(self, position: int) -> tuple[str, Cut]:
        """Return the dataset at a position of the stream, and its window."""
        epoch, offset = divmod(position, self.epoch_length)
        visits, chances = self._epoch(epoch)
        visit = int(visits[offset])
        dataset = bisect_right(self._ends, visit) - 1
        windows = self._windows[dataset]
        trajectory = (visit - self._ends[dataset]) // self._repeats[dataset]
        return self.names[dataset], windows.drawn(trajectory, chances[offset])

    def _drawn_epoch(self, epoch: int) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """Return, for each offset of an epoch, a visit and a chance in [0, 1) for its window."""
        rng = np.random.default_rng((self._seed, epoch))
        return _shuffled(rng, self.epoch_length), rng.random(self.epoch_length)


def _shuffled(rng: np.random.Generator, size: int) -> NDArray[np.int32]:
    order = np.arange(size, dtype=np.int32)
    rng.shuffle(order)
    return order


def apportioned(weights: Sequence[float]) -> list[int]:
    """Apportion a block to weights by largest remainder."""
    quotas = np.array(weights) / sum(weights) * BLOCK
    draws = np.floor(quotas).astype(int)
    largest_remainders = np.argsort(draws - quotas, kind="stable")
    draws[largest_remainders[: BLOCK - draws.sum()]] += 1
    return [int(drawn) for drawn in draws]
