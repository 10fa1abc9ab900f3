"""Forecasts in physical units, and the channels and points that are not forecast.

Legend: B windows, T frames, C fields, s any number of space axes.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from dpot_scale.data.stream.assembly import Batch
from dpot_scale.models.forecaster import Forecast

Model = Callable[[Tensor], Forecast]  # of frames alone
Network = Callable[..., Forecast]  # of frames, and of conditions where it is told some


def in_physical_units(network: Network, batch: Batch) -> Model:
    """Return a model that takes and returns physical frames, and normalises them in between.

    It tells the network the conditions of the batch.

    So losses, noise and scores mean the same with and without `data.normalize`, and a coefficient
    never reaches the model in its own unit.
    """
    scale, told = batch.scale, batch.conditions_BK
    model: Model = network if told is None else lambda frames_BTCs: network(frames_BTCs, told)
    if scale is None:
        return model

    def physical(frames_BTCs: Tensor) -> Forecast:
        mean, std = broadcast(scale.mean_BC, frames_BTCs), broadcast(scale.std_BC, frames_BTCs)
        forecast = model((frames_BTCs - mean) / std)
        return Forecast(forecast.frames * std + mean, forecast.logits)

    return physical


def with_given_channels(forecast_BTCs: Tensor, history_BTCs: Tensor, batch: Batch) -> Tensor:
    """Return a forecast with the coefficients, masks and padding of the last known frame."""
    is_field = broadcast(batch.scored_BC, forecast_BTCs)
    return torch.where(is_field, forecast_BTCs, history_BTCs[:, -1:])


def without_obstacles(frames_BTCs: Tensor, batch: Batch) -> Tensor:
    """Return frames that are 0 inside obstacles, so that these points add to no error or norm."""
    if batch.counted_Bxy is None:
        return frames_BTCs
    return frames_BTCs * batch.counted_Bxy[:, None, None]


def broadcast(values_BC: Tensor, frames_BTCs: Tensor) -> Tensor:
    """Return one value per field as (B, 1, C, *ones), which broadcasts over frames."""
    windows, channels = values_BC.shape
    return values_BC.view(windows, 1, channels, *[1] * (frames_BTCs.ndim - 3))
