"""The moments of a dataset, in one pass and in pieces."""

import json
from collections.abc import Sequence

import numpy as np
import pytest

from dpot_scale.data.store.statistics import Moments, Statistics

FRAMES = 7


def fields(mean: float = 0.0) -> np.ndarray:
    """Frames (T, C, *space) of two channels, of unequal spread, around a mean."""
    generator = np.random.default_rng(0)
    return mean + generator.standard_normal((FRAMES, 2, 4, 5)) * np.array([1, 3])[:, None, None]


def moments_of(pieces: Sequence[np.ndarray]) -> Moments:
    moments = Moments()
    for piece in pieces:
        moments.add(piece)
    return moments


@pytest.mark.parametrize("cuts", [[], [1], [3], [1, 2, 3, 4, 5, 6]])
def test_pieces_have_the_moments_of_the_whole(cuts: list[int]) -> None:
    found = moments_of(np.split(fields(), cuts)).statistics(channels=2)
    np.testing.assert_allclose(found.mean, fields().mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(found.std, fields().std(axis=(0, 2, 3)), rtol=1e-12)


def test_a_small_spread_around_a_large_mean_is_kept() -> None:
    """As sums of squares in double precision would lose it."""
    found = moments_of(np.split(fields(mean=1e8), FRAMES)).statistics(channels=2)
    np.testing.assert_allclose(found.std, fields().std(axis=(0, 2, 3)), rtol=1e-6)


def test_float32_frames_are_added_in_double_precision() -> None:
    frames = np.full((FRAMES, 1, 64, 64), 0.1, dtype=np.float32)
    found = moments_of([frames]).statistics(channels=1)
    assert found.mean == (float(np.float32(0.1)),)


def test_an_interrupted_writer_goes_on_from_exactly_what_it_had() -> None:
    first, second = np.split(fields(), [3])
    restored = Moments.from_json(json.loads(json.dumps(moments_of([first]).to_json())))
    restored.add(second)
    assert restored.statistics(channels=2) == moments_of([first, second]).statistics(channels=2)


def test_without_data_nothing_is_scaled() -> None:
    assert Moments().statistics(channels=3) == Statistics((0.0,) * 3, (1.0,) * 3)
