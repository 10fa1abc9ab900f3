"""What training minimises: noise injection, unroll and masked relative L2 (PAPER section 2).

Legend: B windows, T frames, C fields, s any number of space axes.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dpot_scale.config.schema import ObjectiveConfig
from dpot_scale.data.batches import Batch
from dpot_scale.model.dpot import DPOTOutput

Model = Callable[[Tensor], DPOTOutput]

# Keeps the relative error of an all-zero target finite (the published value).
NORM_FLOOR = 1e-8


def rel_l2(forecast_BTCs: Tensor, target_BTCs: Tensor) -> Tensor:
    """Return the relative L2 error (B, C) of each field over frames and space.

    ||forecast - target|| / (||target|| + 1e-8), as in training and evaluation of the paper.
    """
    error_BC = _norm(forecast_BTCs - target_BTCs)
    return error_BC / (_norm(target_BTCs) + NORM_FLOOR)


def counted_fields(target_BTCs: Tensor, marked_BC: Tensor) -> Tensor:
    """Return (B, C): the marked fields that an error can be relative to.

    A field that is zero everywhere in its target, as fluids at rest are, has none: divided by the
    floor of the norm, its error would rule every mean.
    """
    return marked_BC & (_norm(target_BTCs) != 0)


def mean_over_fields(value_BC: Tensor, marked_BC: Tensor) -> Tensor:
    """Return (B,): the mean of a per-field value over the fields that are marked, or 0 if none."""
    fields_B = marked_BC.sum(1).clamp(min=1)
    return value_BC.where(marked_BC, 0).sum(1) / fields_B


def mean_rel_l2(forecast_BTCs: Tensor, target_BTCs: Tensor, marked_BC: Tensor) -> Tensor:
    """Return (B,): the mean relative L2 error over the marked fields that are not all zero."""
    counted_BC = counted_fields(target_BTCs, marked_BC)
    return mean_over_fields(rel_l2(forecast_BTCs, target_BTCs), counted_BC)


def inject_noise(
    batch: Batch,
    history_BTCs: Tensor,
    config: ObjectiveConfig,
    generators_B: Sequence[torch.Generator],
) -> Tensor:
    """Return u + noise * unit(u) * N(0, 1), with the unit of each field over frames and space.

    Each window draws from its own generator, so its noise does not depend on what it is batched
    with.

    The unit `norm` grows with the number of points, so equal noise means a stronger perturbation
    on a finer grid: a published quirk, as is that padding and masks are perturbed (PAPER section
    2). The unit `std` does not, and is zero where a channel is no field.
    """
    if config.noise == 0:
        return history_BTCs
    if config.noise_unit == "norm":
        unit_BC = _norm(history_BTCs)
    else:
        unit_BC = _std(history_BTCs) * batch.scored_BC
    normal_BTCs = torch.empty_like(history_BTCs)
    for normal_TCs, generator in zip(normal_BTCs, generators_B, strict=True):
        normal_TCs.normal_(generator=generator)
    return history_BTCs + config.noise * _broadcast(unit_BC, history_BTCs) * normal_BTCs


def in_physical_units(model: Model, batch: Batch) -> Model:
    """Return a model of physical frames: it normalises what it sees and puts its forecast back.

    So losses, noise and scores mean the same with and without `data.normalize`.
    """
    scale = batch.scale
    if scale is None:
        return model

    def physical(frames_BTCs: Tensor) -> DPOTOutput:
        mean, std = _broadcast(scale.mean_BC, frames_BTCs), _broadcast(scale.std_BC, frames_BTCs)
        forecast_BTCs, logits = model((frames_BTCs - mean) / std)
        return DPOTOutput(forecast_BTCs * std + mean, logits)

    return physical


def with_given_channels(forecast_BTCs: Tensor, history_BTCs: Tensor, batch: Batch) -> Tensor:
    """Return a forecast whose masks and padding, which nobody needs to forecast, are as before."""
    is_field = _broadcast(batch.scored_BC, forecast_BTCs)
    return torch.where(is_field, forecast_BTCs, history_BTCs[:, -1:])


def without_obstacles(frames_BTCs: Tensor, batch: Batch) -> Tensor:
    """Return frames that are 0 at points which do not count, in neither an error nor a norm."""
    if batch.counted_Bxy is None:
        return frames_BTCs
    return frames_BTCs * batch.counted_Bxy[:, None, None]


def training_loss(
    model: Model,
    batch: Batch,
    config: ObjectiveConfig,
    history: int,
    generators_B: Sequence[torch.Generator],
) -> Tensor:
    """Return the mean loss of a micro-batch, a scalar.

    A window holds `history` frames and the targets of `unroll` forwards. Each forward sees its
    history with fresh noise; its forecast is appended to the history of the next.

    A window without a field that counts adds nothing to the loss, and is one of those that the loss
    is the mean of: so it does not matter which windows share a micro-batch.
    """
    frames_BTCs = batch.frames_BTCxy
    model = in_physical_units(model, batch)
    marked_BC = torch.ones_like(batch.scored_BC) if config.supervise_padding else batch.scored_BC
    history_BTCs = frames_BTCs[:, :history]
    target_BTCs = without_obstacles(frames_BTCs[:, history:], batch)
    loss = frames_BTCs.new_zeros(())
    for step in range(config.unroll):
        forecast_BTCs = model(inject_noise(batch, history_BTCs, config, generators_B)).frames
        horizon = forecast_BTCs.shape[1]
        step_target_BTCs = target_BTCs[:, step * horizon : (step + 1) * horizon]
        seen_BTCs = without_obstacles(forecast_BTCs, batch)
        loss = loss + mean_rel_l2(seen_BTCs, step_target_BTCs, marked_BC).mean()
        known_BTCs = with_given_channels(forecast_BTCs, history_BTCs, batch)
        history_BTCs = torch.cat([history_BTCs, known_BTCs], dim=1)[:, -history:]
    return loss / config.unroll


def _per_field(frames_BTCs: Tensor) -> Tensor:
    """Return (B, C, -1): all values of each field."""
    return frames_BTCs.transpose(1, 2).flatten(2)


def _norm(frames_BTCs: Tensor) -> Tensor:
    norm_BC: Tensor = _per_field(frames_BTCs).norm(dim=2)
    return norm_BC


def _std(frames_BTCs: Tensor) -> Tensor:
    # `torch.std` takes seven times as long (benchmarks/model_step_2026-11.md).
    values_BCn = _per_field(frames_BTCs)
    centred_BCn = values_BCn - values_BCn.mean(2, keepdim=True)
    std_BC: Tensor = centred_BCn.norm(dim=2) / math.sqrt(values_BCn.shape[2])
    return std_BC


def _broadcast(values_BC: Tensor, frames_BTCs: Tensor) -> Tensor:
    """Return one value per field as (B, 1, C, *ones), to go with frames."""
    windows, channels = values_BC.shape
    return values_BC.view(windows, 1, channels, *[1] * (frames_BTCs.ndim - 3))
