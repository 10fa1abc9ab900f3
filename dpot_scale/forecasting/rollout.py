"""Forecasts of a held-out trajectory: free-running, teacher-forced, and the persistence baseline.

Legend: B trajectories, T frames, C fields, s any number of space axes.
"""

import torch
from torch import Tensor

from dpot_scale.forecasting.physical import Model


def rollout(model: Model, history_BTCs: Tensor, frames: int) -> Tensor:
    """Return `frames` frames (B, frames, C, *s) predicted from the history alone."""
    history = history_BTCs.shape[1]
    known_BTCs = history_BTCs
    while known_BTCs.shape[1] < history + frames:
        forecast_BTCs = model(known_BTCs[:, -history:]).frames
        known_BTCs = torch.cat([known_BTCs, forecast_BTCs], dim=1)
    return known_BTCs[:, history : history + frames]


def teacher_forced(model: Model, frames_BTCs: Tensor, history: int, horizon: int) -> Tensor:
    """Return the forecast (B, T - history, C, *s) whose every forward sees true frames.

    Each forward predicts `horizon` frames; the last block is cut to the end of the trajectory.
    """
    starts = range(0, frames_BTCs.shape[1] - history, horizon)
    blocks = [model(frames_BTCs[:, start : start + history]).frames for start in starts]
    return torch.cat(blocks, dim=1)[:, : frames_BTCs.shape[1] - history]


def persistence(history_BTCs: Tensor, frames: int) -> Tensor:
    """Return the last known frame, repeated: the forecast that costs nothing."""
    return history_BTCs[:, -1:].expand(-1, frames, *history_BTCs.shape[2:])


def teacher_forced_persistence(frames_BTCs: Tensor, history: int, horizon: int) -> Tensor:
    """Return the persistence forecast with the same true frames as `teacher_forced` sees."""
    lead = torch.arange(frames_BTCs.shape[1] - history, device=frames_BTCs.device)
    return frames_BTCs[:, history - 1 + lead // horizon * horizon]
