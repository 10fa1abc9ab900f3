"""Noise is standard normal; independent where it should be, and the same where it should be."""

import math
from itertools import combinations, product

import numpy as np
import pytest
import torch
from torch import Tensor

from dpot_scale.training.noise import FIRST_MULTIPLIER, SECOND_MULTIPLIER, Noise

CPU = torch.device("cpu")
SHAPE = (4, 2, 64, 64)
NUMBERS = math.prod(SHAPE)
SIGMAS = 5  # of what chance allows; the draws are fixed, so this is no matter of luck


def drawn(*, seed: int = 0, position: int = 0, forward: int = 0) -> Tensor:
    return Noise(seed, CPU).draw([position], forward, SHAPE)[0]


def test_a_window_has_the_same_noise_whatever_it_is_batched_with() -> None:
    noise = Noise(3, CPU)
    together = noise.draw(range(100, 108), 0, SHAPE)
    apart = [noise.draw([position], 0, SHAPE)[0] for position in range(100, 108)]
    assert torch.equal(together, torch.stack(apart))


def test_it_is_the_hash_that_it_says() -> None:
    """Against the same formula in numpy's unsigned integers."""
    seed, position, forward, numbers = 7, 2**40 + 5, 1, 1001
    noise = Noise(seed, CPU)
    first, second = np.random.SeedSequence((seed, position, forward)).generate_state(2)
    x = np.arange(501, dtype=np.uint32) ^ first
    x = (x ^ (x >> 16)) * np.uint32(FIRST_MULTIPLIER) + second
    x = (x ^ (x >> 15)) * np.uint32(SECOND_MULTIPLIER % 2**32)
    x ^= x >> 16
    levels = x.view(np.int16)[:numbers].astype(np.int64) + 2**15
    found = noise.draw([position], forward, (numbers,))[0]
    assert torch.equal(found, noise._values[torch.from_numpy(levels)])


@pytest.mark.parametrize("position", [0, 1, 2**20, 2**40])
def test_it_is_standard_normal(position: int) -> None:
    values = drawn(position=position).double().flatten()
    assert abs(values.mean()) < SIGMAS / NUMBERS**0.5
    assert abs(values.square().mean() - 1) < SIGMAS * (2 / NUMBERS) ** 0.5
    assert abs((values**3).mean()) < SIGMAS * (15 / NUMBERS) ** 0.5
    assert abs((values**4).mean() - 3) < SIGMAS * (96 / NUMBERS) ** 0.5
    for limit in (0.5, 1.0, 2.0, 3.0):
        share = math.erfc(limit / 2**0.5)
        found = (values.abs() > limit).double().mean()
        assert abs(found - share) < SIGMAS * (share / NUMBERS) ** 0.5


def test_windows_forwards_and_seeds_are_independent() -> None:
    """Also those whose keys differ in one bit."""
    keys = product((0, 1), (0, 1, 2, 4096), (0, 1))
    fields = [drawn(seed=s, position=p, forward=f).flatten() for s, p, f in keys]
    for one, other in combinations(fields, 2):
        for values, others in ((one, other), (one.square() - 1, other.square() - 1)):
            spread = float(values.std() * others.std())
            assert abs(float((values * others).mean())) < SIGMAS * spread / NUMBERS**0.5


@pytest.mark.parametrize("axis", range(len(SHAPE)))
@pytest.mark.parametrize("lag", [1, 2, 3])
def test_neighbours_are_independent(axis: int, lag: int) -> None:
    """Points, fields and frames: also the two numbers of a word, which are neighbours."""
    for position in (0, 12345):
        values = drawn(position=position)
        if lag >= values.shape[axis]:
            return
        shifted = values.roll(lag, axis)
        assert abs(float((values * shifted).mean())) < SIGMAS / NUMBERS**0.5
        squares = (values.square() - 1) * (shifted.square() - 1)
        assert abs(float(squares.mean())) < SIGMAS * 2 / NUMBERS**0.5


def test_its_spectrum_is_flat() -> None:
    """No wave is stronger than chance allows, in the mean over windows."""
    fields = Noise(0, CPU).draw(range(64), 0, (64, 64))
    power = torch.fft.rfft2(fields, norm="ortho").abs().square().mean(0)[1:32, 1:32]
    assert float((power - 1).abs().max()) < SIGMAS / 64**0.5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_draws_the_same_bits() -> None:
    on_gpu = Noise(3, torch.device("cuda")).draw([5, 2**40], 1, (10, 3, 33, 7))
    assert torch.equal(on_gpu.cpu(), Noise(3, CPU).draw([5, 2**40], 1, (10, 3, 33, 7)))
