"""Standard normal noise for training windows, drawn for a whole micro-batch at once.

Every number is a function of the seed, the window's position in the stream, the forward of its
unroll and the number's place in the window. So nothing has to be saved to resume, and the noise is
the same, bit by bit, for any number of ranks, any micro-batch and any device.

Legend: B windows, N numbers of a window, W words of 32 bits, each of which gives two numbers.
"""

from collections.abc import Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor

BITS = 16  # of a word for one number, which so has one of 65,536 values, up to 4.3
# Drawn at once on a CPU: few enough for its cache, enough to outweigh the start of its threads.
CPU_NUMBERS = 10 * 4 * 128**2
# The hash is lowbias32 by Chris Wellons (https://nullprogram.com/blog/2018/07/31/), with a key at
# its beginning and another one in its middle. The multipliers are as signed as torch's integers.
FIRST_MULTIPLIER = 0x7FEB352D
SECOND_MULTIPLIER = 0x846CA68B - 2**32


class Noise:
    """N(0, 1) of a seed.

    Args:
        seed: Of all that is drawn.
        device: Where it is drawn.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self.seed = seed
        self.device = device
        self._values = _normal_values().to(device)

    def draw(self, positions: Sequence[int], forward: int, shape: Sequence[int]) -> Tensor:
        """Return what belongs to some windows, (B, *shape) in fp32.

        Args:
            positions: Of the windows in the stream.
            forward: Of the unroll, from 0 on.
            shape: Of one window.
        """
        drawn_BN = torch.empty(len(positions), prod(shape), device=self.device)
        keys_B2 = self._keys(positions, forward)
        at_once = len(positions)
        if self.device.type == "cpu":
            at_once = max(1, CPU_NUMBERS // prod(shape))
        for some_BN, some_B2 in zip(
            torch.split(drawn_BN, at_once), torch.split(keys_B2, at_once), strict=True
        ):
            self._fill(some_BN, some_B2)
        return drawn_BN.view(len(positions), *shape)

    def _fill(self, drawn_BN: Tensor, keys_B2: Tensor) -> None:
        numbers = drawn_BN.shape[1]
        words_W = torch.arange(-(-numbers // 2), dtype=torch.int32, device=self.device)
        hashed_BW = words_W ^ keys_B2[:, :1]
        room_BW = torch.empty_like(hashed_BW)
        _fold(hashed_BW, 16, room_BW)
        hashed_BW.mul_(FIRST_MULTIPLIER).add_(keys_B2[:, 1:])
        _fold(hashed_BW, 15, room_BW)
        hashed_BW.mul_(SECOND_MULTIPLIER)
        _fold(hashed_BW, 16, room_BW)
        halves_BN = hashed_BW.view(torch.int16)[:, :numbers]
        levels_BN = halves_BN.int().add_(2 ** (BITS - 1))
        torch.index_select(self._values, 0, levels_BN.flatten(), out=drawn_BN.view(-1))

    def _keys(self, positions: Sequence[int], forward: int) -> Tensor:
        """Return (B, 2): two words for each window; the host does not wait for the device."""
        words_B2 = np.array(
            [np.random.SeedSequence((self.seed, p, forward)).generate_state(2) for p in positions]
        )
        keys_B2 = torch.from_numpy(words_B2.view(np.int32))
        if self.device.type == "cuda":
            keys_B2 = keys_B2.pin_memory()
        return keys_B2.to(self.device, non_blocking=True)


def _fold(hashed: Tensor, bits: int, room: Tensor) -> None:
    """Mix the upper bits into the lower ones: hashed ^= hashed >> bits, without its sign."""
    torch.bitwise_right_shift(hashed, bits, out=room)
    hashed.bitwise_xor_(room.bitwise_and_(2 ** (32 - bits) - 1))


def _normal_values() -> Tensor:
    """Return the middle quantiles of as many equal parts of N(0, 1), scaled to a variance of 1."""
    levels = torch.arange(2**BITS, dtype=torch.float64)
    values: Tensor = torch.special.ndtri((levels + 0.5) / 2**BITS)
    return (values / values.square().mean().sqrt()).float()
