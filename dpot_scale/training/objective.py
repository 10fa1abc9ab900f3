"""The training loss: noise injection, unroll and masked relative L2 (Hao et al. 2024).

Legend: B windows, T frames, C fields, s any number of space axes.
"""

import math

import torch
from torch import Tensor

from dpot_scale.config.run import ObjectiveConfig
from dpot_scale.data.stream.assembly import Batch
from dpot_scale.forecasting.errors import counted_fields, mean_rel_l2, norm, per_field
from dpot_scale.forecasting.physical import (
    Model,
    broadcast,
    in_physical_units,
    with_given_channels,
    without_obstacles,
)
from dpot_scale.training.noise import Noise


def inject_noise(
    batch: Batch,
    history_BTCs: Tensor,
    config: ObjectiveConfig,
    noise: Noise,
    forward: int = 0,
) -> Tensor:
    """Return u + noise * unit(u) * N(0, 1), with the unit of each field over frames and space.

    The unit `norm` grows with the number of points, so equal noise means a stronger perturbation
    on a finer grid: a published quirk, as is that padding and masks are perturbed. The unit `std`
    does not, and is zero where a channel is no field. Coefficients are known exactly: they are
    never perturbed.
    """
    if config.noise == 0:
        return history_BTCs
    if config.noise_unit == "norm":
        unit_BC = norm(history_BTCs)
    else:
        unit_BC = _std(history_BTCs) * batch.scored_BC
    if batch.coefficient_BC is not None:
        unit_BC = unit_BC.masked_fill(batch.coefficient_BC, 0)
    normal_BTCs = noise.draw(batch.positions, forward, history_BTCs.shape[1:])
    return history_BTCs + config.noise * broadcast(unit_BC, history_BTCs) * normal_BTCs


def training_loss(
    model: Model,
    batch: Batch,
    config: ObjectiveConfig,
    history: int,
    noise: Noise,
) -> Tensor:
    """Return the mean loss of a micro-batch, a scalar.

    A window holds `history` frames and the targets of `unroll` forwards. Each forward sees its
    history with fresh noise; its forecast is appended to the history of the next.

    A window without a field that counts adds nothing to the loss, and is one of those that the loss
    is the mean of: so it does not matter which windows share a micro-batch.
    """
    frames_BTCs = batch.frames_BTCxy
    model = in_physical_units(model, batch)
    marked_BC = _marked(batch, config)
    history_BTCs = frames_BTCs[:, :history]
    target_BTCs = without_obstacles(frames_BTCs[:, history:], batch)
    loss = frames_BTCs.new_zeros(())
    for forward in range(config.unroll):
        noisy_BTCs = inject_noise(batch, history_BTCs, config, noise, forward)
        forecast_BTCs = model(noisy_BTCs).frames
        horizon = forecast_BTCs.shape[1]
        step_target_BTCs = target_BTCs[:, forward * horizon : (forward + 1) * horizon]
        seen_BTCs = without_obstacles(forecast_BTCs, batch)
        loss = loss + mean_rel_l2(seen_BTCs, step_target_BTCs, marked_BC).mean()
        known_BTCs = with_given_channels(forecast_BTCs, history_BTCs, batch)
        history_BTCs = torch.cat([history_BTCs, known_BTCs], dim=1)[:, -history:]
    return loss / config.unroll


def zero_targets(batch: Batch, config: ObjectiveConfig, history: int) -> Tensor:
    """Return how many fields of all targets the loss leaves out, as they are zero everywhere."""
    target_BTCs = without_obstacles(batch.frames_BTCxy[:, history:], batch)
    marked_BC = _marked(batch, config)
    left_out = marked_BC.new_zeros((), dtype=torch.float32)
    for step_target_BTCs in target_BTCs.chunk(config.unroll, dim=1):
        left_out = left_out + (marked_BC & ~counted_fields(step_target_BTCs, marked_BC)).sum()
    return left_out


def _marked(batch: Batch, config: ObjectiveConfig) -> Tensor:
    """Return (B, C): the fields that the loss scores."""
    return _supervised(batch) if config.supervise_padding else batch.scored_BC


def _supervised(batch: Batch) -> Tensor:
    """Return (B, C): all channels but coefficients. Padding and masks count, as in the paper."""
    if batch.coefficient_BC is None:
        return torch.ones_like(batch.scored_BC)
    return ~batch.coefficient_BC


def _std(frames_BTCs: Tensor) -> Tensor:
    # `torch.std` takes seven times as long (benchmarks/model_step_2026-11.md).
    values_BCn = per_field(frames_BTCs)
    centred_BCn = values_BCn - values_BCn.mean(2, keepdim=True)
    std_BC: Tensor = centred_BCn.norm(dim=2) / math.sqrt(values_BCn.shape[2])
    return std_BC
