"""The weighted mixture of datasets: a pure function from a position to a window.

The share of dataset k in the stream is w_k / sum(w), so p(a window of k) = w_k / (|D_k| sum(w))
(Hao et al., section 3.3). Nothing is drawn and remembered: resuming is setting an integer, and
any number of ranks sees the same stream.
"""

import zlib
from collections.abc import Mapping
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dpot_scale.errors import ConfigError

# The stream is cut into blocks of equal composition. The longer, the finer the weights.
BLOCK = 4096


class Mixture:
    """Which window of which dataset is seen at each position of the training stream.

    Every block of 4096 positions holds each dataset exactly as often as its weight says, in an
    order shuffled per block. The draws of one dataset go through a permutation of its windows,
    then through another: none repeats before all have been seen.

    Args:
        windows: Number of windows of each dataset.
        weights: Relative frequency of each dataset in the stream.
        seed: Of all permutations.

    Raises:
        ConfigError: a weight is too small to appear once in a block.
    """

    def __init__(self, windows: Mapping[str, int], weights: Mapping[str, float], seed: int) -> None:
        assert windows.keys() == weights.keys()
        assert min(windows.values()) > 0
        self.names = sorted(windows)  # the stream does not depend on the order in a config
        self._sizes = [windows[name] for name in self.names]
        self._draws = _block_draws([weights[name] for name in self.names], self.names)
        self._seed = seed
        self._block_order = lru_cache(maxsize=4)(self._shuffled_block)
        # Neighbouring positions are in one epoch, or in two where an epoch ends.
        self._window_order = lru_cache(maxsize=2 * len(self.names))(self._permutation)

    def locate(self, position: int) -> tuple[str, int]:
        """Return the dataset and the index of its window at a position of the stream."""
        block, offset = divmod(position, BLOCK)
        dataset_of, rank_of = self._block_order(block)
        dataset = int(dataset_of[offset])
        draw = block * self._draws[dataset] + int(rank_of[offset])
        epoch, index = divmod(draw, self._sizes[dataset])
        return self.names[dataset], int(self._window_order(dataset, epoch)[index])

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
        order = np.arange(self._sizes[dataset], dtype=np.int32)
        np.random.default_rng(key).shuffle(order)
        return order


def _block_draws(weights: list[float], names: list[str]) -> list[int]:
    """Apportion a block to the weights by largest remainder."""
    quotas = np.array(weights) / sum(weights) * BLOCK
    draws = np.floor(quotas).astype(int)
    largest_remainders = np.argsort(draws - quotas, kind="stable")
    draws[largest_remainders[: BLOCK - draws.sum()]] += 1
    for name, drawn, weight in zip(names, draws, weights, strict=True):
        if drawn == 0:
            raise ConfigError(
                f"data.weights.{name}={weight:g} is less than 1/{BLOCK} of all weights; "
                "raise it or leave the dataset out"
            )
    return [int(drawn) for drawn in draws]
