"""Relative errors, against numbers worked out by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dpot_scale.forecasting.errors import mean_over_fields, mean_rel_l2, rel_l2


def test_rel_l2_is_per_window_and_field_over_frames_and_space() -> None:
    target = torch.zeros(1, 2, 2, 2, 2)
    target[0, 0, 0] = 3.0  # norm 6
    target[0, :, 1] = 1.0  # norm sqrt(8)
    forecast = target.clone()
    forecast[0, 1, 0, 0, 0] += 3.0
    assert rel_l2(forecast, target).tolist() == [[pytest.approx(0.5), 0.0]]


@pytest.mark.parametrize("shape", [(2, 1, 1, 4, 4), (2, 2, 3, 4, 4), (1, 1, 3, 4, 4)])
def test_frames_of_another_shape_are_not_compared(shape: tuple[int, ...]) -> None:
    with pytest.raises(AssertionError):
        rel_l2(torch.ones(shape), torch.ones(2, 1, 3, 4, 4))


def test_an_all_zero_target_gives_a_finite_error() -> None:
    error = rel_l2(torch.ones(1, 1, 1, 4), torch.zeros(1, 1, 1, 4))
    assert error.item() == pytest.approx(2 / 1e-8)


def test_only_marked_fields_count() -> None:
    values = torch.tensor([[1.0, 3.0], [5.0, 7.0]])
    marked = torch.tensor([[True, True], [False, True]])
    assert mean_over_fields(values, marked).tolist() == [2.0, 7.0]


@given(st.integers(0, 2**32 - 1))
def test_without_zeros_the_loss_is_the_published_one_bit_for_bit(seed: int) -> None:
    forecast, target = torch.randn(2, 3, 2, 4, 5, 5, generator=torch.Generator().manual_seed(seed))
    marked = torch.tensor([[True] * 4, [True, True, False, False], [True] * 4])
    published = rel_l2(forecast, target) * marked
    expected = published.sum(1) / marked.float().sum(1)
    assert torch.equal(mean_rel_l2(forecast, target, marked), expected)
