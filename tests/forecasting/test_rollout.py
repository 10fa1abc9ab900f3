"""Forecasts by models whose answer is known."""

import pytest
import torch
from torch import Tensor

from dpot_scale.forecasting.rollout import Block, forecast_blocks, persistence, rollout
from dpot_scale.models.forecaster import Forecast

HISTORY = 3


class CountOn:
    """Predicts the last frame + 1, + 2, ..., and checks that it sees whole histories."""

    def __init__(self, horizon: int) -> None:
        self.horizon = horizon
        self.calls = 0

    def __call__(self, history: Tensor) -> Forecast:
        assert history.shape[1] == HISTORY
        self.calls += 1
        steps = torch.arange(1.0, self.horizon + 1).view(1, -1, 1, 1, 1)
        return Forecast(frames=history[:, -1:] + steps, logits=torch.empty(0))


def trajectory(frames: int, step: float = 1.0) -> Tensor:
    """(2, frames, 1, 2, 2): frame t is everywhere step * t; the second starts 100 higher."""
    counts = step * torch.arange(float(frames)).view(1, -1, 1, 1, 1)
    return (counts + torch.tensor([0.0, 100.0]).view(2, 1, 1, 1, 1)).expand(-1, -1, 1, 2, 2)


def values(frames: Tensor) -> list[float]:
    return frames[0, :, 0, 0, 0].tolist()


@pytest.mark.parametrize(("horizon", "calls"), [(1, 5), (2, 3), (5, 1), (7, 1)])
def test_a_rollout_lives_on_its_own_forecasts(horizon: int, calls: int) -> None:
    model = CountOn(horizon)
    # The truth stands still, so whoever looks at it does not count on.
    history = torch.zeros(2, HISTORY, 1, 2, 2)
    assert values(rollout(model, history, 5)) == [1, 2, 3, 4, 5]
    assert model.calls == calls


def joined(model: CountOn, frames: Tensor) -> Block:
    """The blocks of a trajectory, put together."""

    def read(lead: int, length: int) -> Tensor:
        return frames[:, HISTORY + lead : HISTORY + lead + length]

    leads = frames.shape[1] - HISTORY
    blocks = forecast_blocks(model, frames[:, :HISTORY], model.horizon, leads, read)
    return Block(*[torch.cat(parts, dim=1) for parts in zip(*blocks, strict=True)])


@pytest.mark.parametrize(("horizon", "expected"), [(1, [4, 8, 12, 16]), (3, [5, 6, 7, 17])])
def test_a_teacher_shows_true_frames(horizon: int, expected: list[float]) -> None:
    """The truth grows by 4 per frame, the model expects 1: errors do not add up over forwards."""
    frames = trajectory(HISTORY + 4, step=4.0)
    forecast = joined(CountOn(horizon), frames).one_step
    assert forecast.shape == (2, 4, 1, 2, 2)
    starts = [8 + 4 * (lead // horizon * horizon) for lead in range(4)]
    expected = [start + lead % horizon + 1 for lead, start in enumerate(starts)]
    assert values(forecast) == expected


def test_persistence_repeats_the_last_known_frame() -> None:
    history = trajectory(HISTORY)
    forecast = persistence(history, 4)
    assert forecast.shape == (2, 4, 1, 2, 2)
    assert values(forecast) == [2, 2, 2, 2]


@pytest.mark.parametrize(("horizon", "expected"), [(1, [2, 3, 4, 5]), (3, [2, 2, 2, 5])])
def test_persistence_sees_the_same_true_frames(horizon: int, expected: list[float]) -> None:
    found = joined(CountOn(horizon), trajectory(HISTORY + 4))
    assert values(found.one_step_persistence) == expected
    assert values(found.persistence) == [2, 2, 2, 2]


@pytest.mark.parametrize("horizon", [1, 2, 3, 5])
def test_blocks_are_the_whole_trajectory_and_its_rollout(horizon: int) -> None:
    frames = trajectory(HISTORY + 5, step=4.0)
    model = CountOn(horizon)
    found = joined(model, frames)
    assert torch.equal(found.truth, frames[:, HISTORY:])
    assert torch.equal(found.rollout, rollout(CountOn(horizon), frames[:, :HISTORY], 5))
    assert model.calls == 2 * -(-5 // horizon), "a rollout and a teacher-forced forward per block"
