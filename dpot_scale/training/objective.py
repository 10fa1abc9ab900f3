"""What training minimises: noise injection, unroll and masked relative L2 (PAPER section 2).

Legend: B windows, T frames, C fields, s any number of space axes.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dpot_scale.config.schema import ObjectiveConfig
from dpot_scale.data.batches import Batch
from dpot_scale.model.dpot import DPOTOutput

# Keeps the relative error of an all-zero target finite (the published value).
NORM_FLOOR = 1e-8


def rel_l2(forecast_BTCs: Tensor, target_BTCs: Tensor) -> Tensor:
    """Return the relative L2 error (B, C) of each field over frames and space.

    ||forecast - target|| / (||target|| + 1e-8), as in training and evaluation of the paper.
    """
    error_BC = _norm(forecast_BTCs - target_BTCs)
    return error_BC / (_norm(target_BTCs) + NORM_FLOOR)


def mean_over_fields(value_BC: Tensor, marked_BC: Tensor) -> Tensor:
    """Return (B,): the mean of a per-field value over the fields that are marked."""
    weight_BC = marked_BC.to(value_BC.dtype)
    return (value_BC * weight_BC).sum(1) / weight_BC.sum(1)


def inject_noise(
    frames_BTCs: Tensor, noise: float, generators_B: Sequence[torch.Generator]
) -> Tensor:
    """Return u + noise * ||u|| * N(0, 1), with the norm of each field over frames and space.

    Each window draws from its own generator, so its noise does not depend on what it is batched
    with.

    The norm grows with the number of points, so equal `noise` means a stronger perturbation on a
    finer grid: a published quirk (PAPER section 2).
    """
    if noise == 0:
        return frames_BTCs
    norm_BC = _norm(frames_BTCs)
    broadcast = (norm_BC.shape[0], 1, norm_BC.shape[1], *[1] * (frames_BTCs.ndim - 3))
    normal_BTCs = torch.empty_like(frames_BTCs)
    for normal_TCs, generator in zip(normal_BTCs, generators_B, strict=True):
        normal_TCs.normal_(generator=generator)
    return frames_BTCs + noise * norm_BC.view(broadcast) * normal_BTCs


def training_loss(
    model: Callable[[Tensor], DPOTOutput],
    batch: Batch,
    config: ObjectiveConfig,
    history: int,
    generators_B: Sequence[torch.Generator],
) -> Tensor:
    """Return the mean loss of a micro-batch, a scalar.

    A window holds `history` frames and the targets of `unroll` forwards. Each forward sees its
    history with fresh noise; its forecast is appended to the history of the next.
    """
    frames_BTCs = batch.frames_BTCxy
    marked_BC = torch.ones_like(batch.scored_BC) if config.supervise_padding else batch.scored_BC
    history_BTCs, target_BTCs = frames_BTCs[:, :history], frames_BTCs[:, history:]
    loss = frames_BTCs.new_zeros(())
    for step in range(config.unroll):
        forecast_BTCs = model(inject_noise(history_BTCs, config.noise, generators_B)).frames
        horizon = forecast_BTCs.shape[1]
        step_target_BTCs = target_BTCs[:, step * horizon : (step + 1) * horizon]
        loss = loss + mean_over_fields(rel_l2(forecast_BTCs, step_target_BTCs), marked_BC).mean()
        history_BTCs = torch.cat([history_BTCs, forecast_BTCs], dim=1)[:, -history:]
    return loss / config.unroll


def _norm(field_BTCs: Tensor) -> Tensor:
    norm_BC: Tensor = field_BTCs.transpose(1, 2).flatten(2).norm(dim=2)
    return norm_BC
