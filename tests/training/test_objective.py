"""The loss, against numbers worked out by hand."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from dpot_scale.config.schema import ObjectiveConfig
from dpot_scale.data.batches import Batch
from dpot_scale.model.dpot import DPOTOutput
from dpot_scale.training.objective import (
    inject_noise,
    mean_over_fields,
    rel_l2,
    training_loss,
)

HISTORY = 2


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def batch_of(frames: Tensor, scored: Sequence[bool]) -> Batch:
    windows = len(frames)
    return Batch(
        frames_BTCxy=frames,
        scored_BC=torch.tensor([scored] * windows),
        labels_B=torch.zeros(windows, dtype=torch.int64),
    )


class RepeatLast:
    """Predicts the last frame, `horizon` times, and keeps what it was shown."""

    def __init__(self, horizon: int = 1, factor: float = 1.0) -> None:
        self.horizon = horizon
        self.factor = factor
        self.seen: list[Tensor] = []

    def __call__(self, frames: Tensor) -> DPOTOutput:
        self.seen.append(frames)
        last = self.factor * frames[:, -1:]
        return DPOTOutput(frames=last.repeat_interleave(self.horizon, 1), logits=torch.empty(0))


def test_rel_l2_is_per_window_and_field_over_frames_and_space() -> None:
    target = torch.zeros(1, 2, 2, 2, 2)
    target[0, 0, 0] = 3.0  # norm 6
    target[0, :, 1] = 1.0  # norm sqrt(8)
    forecast = target.clone()
    forecast[0, 1, 0, 0, 0] += 3.0
    assert rel_l2(forecast, target).tolist() == [[pytest.approx(0.5), 0.0]]


def test_an_all_zero_target_gives_a_finite_error() -> None:
    error = rel_l2(torch.ones(1, 1, 1, 4), torch.zeros(1, 1, 1, 4))
    assert error.item() == pytest.approx(2 / 1e-8)


def test_only_marked_fields_count() -> None:
    values = torch.tensor([[1.0, 3.0], [5.0, 7.0]])
    marked = torch.tensor([[True, True], [False, True]])
    assert mean_over_fields(values, marked).tolist() == [2.0, 7.0]


@pytest.mark.parametrize("space", [(32, 32), (8, 8, 8)])
def test_noise_has_the_size_of_the_norm_of_its_field(space: tuple[int, ...]) -> None:
    frames = torch.rand(2, 4, 2, *space)
    frames[:, :, 1] *= 100
    noise = inject_noise(frames, 0.01, generators(0, 1)) - frames
    for window in range(2):
        for field in range(2):
            expected = 0.01 * frames[window, :, field].norm().item()
            assert noise[window, :, field].std().item() == pytest.approx(expected, rel=0.1)


def test_no_noise_changes_nothing_and_draws_nothing() -> None:
    frames = torch.rand(1, 2, 1, 4, 4)
    (generator,) = generators(0)
    before = generator.get_state()
    assert torch.equal(inject_noise(frames, 0.0, [generator]), frames)
    assert torch.equal(generator.get_state(), before)


def test_the_noise_of_a_window_does_not_depend_on_its_batch() -> None:
    frames = torch.rand(3, 2, 2, 4, 4)
    together = inject_noise(frames, 0.1, generators(5, 6, 7))
    alone = inject_noise(frames[1:2], 0.1, generators(6))
    assert torch.equal(together[1:2], alone)


def test_a_forecast_that_is_right_costs_nothing() -> None:
    frames = torch.rand(2, 1, 1, 4, 4).expand(-1, HISTORY + 1, -1, -1, -1)
    loss = training_loss(
        RepeatLast(), batch_of(frames, [True]), ObjectiveConfig(noise=0), HISTORY, generators(0, 1)
    )
    assert loss.item() == 0


def test_the_loss_is_the_mean_over_unrolled_forwards() -> None:
    """Constant truth, doubled by each forward: relative errors 1, then 3."""
    frames = torch.ones(1, HISTORY + 2, 1, 4, 4)
    model = RepeatLast(factor=2.0)
    config = ObjectiveConfig(noise=0, unroll=2)
    loss = training_loss(model, batch_of(frames, [True]), config, HISTORY, generators(0))
    assert loss.item() == pytest.approx((1 + 3) / 2)
    assert model.seen[1][0, :, 0, 0, 0].tolist() == [1.0, 2.0], "the forecast is fed back"


def test_each_forward_is_compared_with_its_own_frames() -> None:
    frames = torch.arange(1.0, HISTORY + 5).view(1, -1, 1, 1, 1).expand(-1, -1, -1, 2, 2)
    config = ObjectiveConfig(noise=0, unroll=2)
    batch = batch_of(frames, [True])
    loss = training_loss(RepeatLast(horizon=2), batch, config, HISTORY, generators(0))
    # Forecast 2 of 3, 4, then 2 of 5, 6.
    first, second = (1 + 4) ** 0.5 / 5, (9 + 16) ** 0.5 / 61**0.5
    assert loss.item() == pytest.approx((first + second) / 2)


def test_noise_is_drawn_anew_at_every_forward() -> None:
    frames = torch.ones(1, HISTORY + 2, 1, 4, 4)
    model = RepeatLast()
    config = ObjectiveConfig(noise=0.1, unroll=2)
    training_loss(model, batch_of(frames, [True]), config, HISTORY, generators(0))
    first, second = model.seen
    assert not torch.equal(first[:, 1] - 1, second[:, 0] - 1)
    assert torch.equal(frames, torch.ones_like(frames)), "targets stay clean"


@pytest.mark.parametrize(("supervised", "expected"), [(False, 1.0), (True, 0.5)])
def test_padding_is_supervised_only_where_asked(supervised: bool, expected: float) -> None:
    """The real field is forecast with an error of 1, the padding exactly."""
    frames = torch.ones(1, HISTORY + 1, 2, 4, 4)
    frames[:, HISTORY, 0] = -1.0
    frames[:, :HISTORY, 0] = 0.0
    config = ObjectiveConfig(noise=0, supervise_padding=supervised)
    batch = batch_of(frames, [True, False])
    loss = training_loss(RepeatLast(), batch, config, HISTORY, generators(0))
    assert loss.item() == pytest.approx(expected)
