"""Steps whose windows all have one grid: batches by shape.

The datasets of each grid are a mixture of their own. A step belongs to one of them and takes its
next windows. Which one that is, is a pure function of the step.
"""

import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dpot_scale.config.data import DataConfig
from dpot_scale.config.model import Points
from dpot_scale.data.grids import said
from dpot_scale.data.stream.mixture import (
    BLOCK,
    Cut,
    DatasetWindows,
    Mixture,
    apportioned,
    open_mixture,
    window_shares,
)
from dpot_scale.errors import ConfigError

# Or the draws were those by which a mixture shuffles the block of the same number.
KEY = zlib.crc32(b"groups")


def open_groups(
    windows: Mapping[str, DatasetWindows],
    grids: Mapping[str, Points],
    config: DataConfig,
    *,
    global_batch: int,
    seed: int,
) -> Mixture:
    """Return the mixture that a config describes, in which all windows of a step have one grid.

    Args:
        windows: The windows of each dataset.
        grids: The grid on which the model sees each dataset.
        config: The weights of the datasets, and what they mean.
        global_batch: Windows of a step.
        seed: The seed of all draws.

    Raises:
        ConfigError: a weight is too small to appear once in a block.
    """
    names = defaultdict(list)
    for name, grid in sorted(grids.items()):
        names[grid].append(name)
    if len(names) == 1:
        return open_mixture(windows, config, seed)
    shares = window_shares(config, {name: w.trajectories for name, w in windows.items()})
    mixtures, group_shares = [], []
    for grid, members in sorted(names.items()):
        weights = {name: config.weights[name] for name in members}
        of_group = config.model_copy(update={"weights": weights})
        mixtures.append(open_mixture({name: windows[name] for name in members}, of_group, seed))
        group_shares.append(sum(shares[name] for name in members))
        if group_shares[-1] * BLOCK < 1:
            raise ConfigError(
                f"{', '.join(members)} on the grid {said(grid)} have less than 1/{BLOCK} of all "
                "weights together; raise them in data.weights or leave them out"
            )
    return GroupedMixture(mixtures, group_shares, global_batch=global_batch, seed=seed)


class GroupedMixture:
    """Each group of datasets has its share of the steps, spread evenly over them.

    Of every 4096 steps each group has as many as its share says, and the j-th of n is drawn from
    the j-th n-th of them: so any part of a training has its share, but for a step or two. The
    windows of a group's steps are, one step after the other, those of its mixture.

    Args:
        mixtures: That of each group.
        shares: Of each group, which add up to 1.
        global_batch: Windows of a step.
        seed: The seed of the order of the groups.
    """

    def __init__(
        self,
        mixtures: Sequence[Mixture],
        shares: Sequence[float],
        *,
        global_batch: int,
        seed: int,
    ) -> None:
        self._mixtures = mixtures
        self._draws = apportioned(shares)
        self._global_batch = global_batch
        self._seed = seed
        self._block_order = lru_cache(maxsize=4)(self._spread_block)

    def locate(self, position: int) -> tuple[str, Cut]:
        """Return the dataset at a position of the stream, and its window."""
        step, offset = divmod(position, self._global_batch)
        block, of_block = divmod(step, BLOCK)
        groups, ranks = self._block_order(block)
        group = int(groups[of_block])
        turn = block * self._draws[group] + int(ranks[of_block])
        return self._mixtures[group].locate(turn * self._global_batch + offset)

    def _spread_block(self, block: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return, for each step of a block, its group and which of the group's steps this is."""
        rng = np.random.default_rng((self._seed, KEY, block))
        times = [(np.arange(n) + rng.random(n)) / n for n in self._draws]
        order = np.argsort(np.concatenate(times), kind="stable")
        groups = np.repeat(np.arange(len(self._draws)), self._draws)[order]
        ranks = np.concatenate([np.arange(n) for n in self._draws])[order]
        return groups, ranks
