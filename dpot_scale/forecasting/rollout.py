"""Forecasts of a held-out trajectory: free-running, teacher-forced, and the persistence baseline.

Legend: B trajectories, T frames, C fields, s any number of space axes.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from dpot_scale.forecasting.physical import Model


class Block(NamedTuple):
    """The next true frames and what is forecast for them, each (B, frames, C, *s).

    `one_step` and its persistence have seen the true frames up to this block, the others only the
    first history.
    """

    truth: Tensor
    rollout: Tensor
    one_step: Tensor
    persistence: Tensor
    one_step_persistence: Tensor


def rollout(model: Model, history_BTCs: Tensor, frames: int) -> Tensor:
    """Return `frames` frames (B, frames, C, *s) predicted from the history alone."""
    predicted, blocks = rollout_blocks(model, history_BTCs), [history_BTCs[:, :0]]
    while sum(block_BTCs.shape[1] for block_BTCs in blocks) < frames:
        blocks.append(next(predicted))
    return torch.cat(blocks, dim=1)[:, :frames]


def rollout_blocks(model: Model, history_BTCs: Tensor) -> Iterator[Tensor]:
    """Yield the frames of one forward after the other, (B, horizon, C, *s), without end.

    Only a history is kept, so a long rollout needs no more memory than a short one.
    """
    history = history_BTCs.shape[1]
    while True:
        forecast_BTCs = model(history_BTCs).frames
        history_BTCs = torch.cat([history_BTCs, forecast_BTCs], dim=1)[:, -history:]
        yield forecast_BTCs


def forecast_blocks(
    model: Model,
    history_BTCs: Tensor,
    horizon: int,
    frames: int,
    read: Callable[[int, int], Tensor],
) -> Iterator[Block]:
    """Yield truth and forecasts, `horizon` frames at a time; the last block may be shorter.

    Args:
        model: Forecasts `horizon` frames from a history.
        history_BTCs: The first true frames.
        horizon: The frames of a forward.
        frames: How many frames are forecast.
        read: Returns true frames: the lead time of the first one, counted from 0, and how many.
    """
    history, last_BTCs = history_BTCs.shape[1], history_BTCs[:, -1:]
    known_BTCs = history_BTCs
    predicted = rollout_blocks(model, history_BTCs)
    for lead in range(0, frames, horizon):
        length = min(horizon, frames - lead)
        truth_BTCs = read(lead, length)
        of_block = (-1, length, *[-1] * (truth_BTCs.ndim - 2))
        yield Block(
            truth=truth_BTCs,
            rollout=next(predicted)[:, :length],
            one_step=model(known_BTCs).frames[:, :length],
            persistence=last_BTCs.expand(of_block),
            one_step_persistence=known_BTCs[:, -1:].expand(of_block),
        )
        known_BTCs = torch.cat([known_BTCs, truth_BTCs], dim=1)[:, -history:]


def persistence(history_BTCs: Tensor, frames: int) -> Tensor:
    """Return the last known frame, repeated: the forecast that costs nothing."""
    return history_BTCs[:, -1:].expand(-1, frames, *history_BTCs.shape[2:])
