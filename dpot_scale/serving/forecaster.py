"""A model with all that a forecast needs beside weights: channels, their scale, precision, device.

Legend: B windows, T frames, C channels, s any number of space axes.
"""

import math
from collections.abc import Iterator
from copy import copy
from pathlib import Path
from typing import Self, SupportsIndex

import torch
from torch import Tensor

from dpot_scale.checkpoints.weights import network_of
from dpot_scale.checkpoints.weights_file import Weights
from dpot_scale.config.model import DT, ModelConfig
from dpot_scale.config.sentences import nearest
from dpot_scale.data.channels import Channels, TrainingData
from dpot_scale.data.stream.assembly import PADDING_VALUE, Batch, Scale
from dpot_scale.errors import ConfigError, DataError
from dpot_scale.forecasting.physical import in_physical_units, with_given_channels
from dpot_scale.models.forecaster import Forecaster
from dpot_scale.serving.frames import Frames, History, read_history

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class ServedModel:
    """Forecasts the frames that follow given ones, in physical units.

    Args:
        weights: The model, its weights, and what they say of the data.
        dtype: The precision of weights and activations; bfloat16 is that of the Fourier part, too.
            None: fp32.
        device: Where it computes; None: the first GPU if there is one, else the CPU.

    Raises:
        ConfigError: the precision or the device does not exist.

    Attributes:
        config: The dimensions of the model, such as `history`, and the `grid` of its training.
        datasets: What it was trained on; empty where the weights do not say.
        dataset: The one whose channels it takes; None if there is none or it was not chosen.
    """

    def __init__(
        self,
        weights: Weights,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        self.config: ModelConfig = weights.model
        self.data = weights.data
        self.datasets: tuple[str, ...] = tuple(weights.data.datasets) if weights.data else ()
        self.dataset = self.datasets[0] if len(self.datasets) == 1 else None
        self._known = None if weights.data is None else _shared(weights.data)
        self._conditions: dict[str, float] = {}
        self._device = _device(device)
        self._network = _network(weights, dtype or torch.float32).to(self._device)

    def for_dataset(self, name: str) -> Self:
        """Return the model for the channels of one of the datasets that it was trained on.

        Raises:
            DataError: the weights know no such dataset.
        """
        if self.data is None:
            raise DataError(
                f"dataset={name!r} cannot be chosen: the weights do not say what they were "
                "trained on"
            )
        if name not in self.datasets:
            raise DataError(
                f"the weights were not trained on dataset {name!r}{nearest(name, self.datasets)}, "
                f"but on {', '.join(self.datasets)}"
            )
        chosen = copy(self)
        chosen.dataset, chosen._known = name, self.data.datasets[name]
        return chosen

    def told(self, **conditions: float) -> Self:
        """Return the model with the conditions of the histories that it will be given.

        What is not said is unknown, but for `dt`: that of its dataset.

        Args:
            conditions: The time from one frame to the next as `dt`, and the parameters that
                `config.parameters` names.

        Raises:
            DataError: the model is told of no such thing, or it is no number.
        """
        known = self.config.conditions
        for name, value in conditions.items():
            if name not in known:
                raise DataError(
                    f"the model is not told of {name!r}{nearest(name, known)}, but of "
                    f"{', '.join(known) or 'nothing beside its frames'}"
                )
            if not isinstance(value, int | float) or not math.isfinite(value):
                raise DataError(f"{name}={value!r} must be a finite number")
        chosen = copy(self)
        chosen._conditions = dict(conditions)
        return chosen

    @property
    def channels(self) -> tuple[str, ...] | None:
        """Return the names of the channels it takes and gives; None where nobody knows them."""
        return None if self._known is None else self._known.names

    @property
    def weights(self) -> Weights:
        """Return the model, its weights in their precision, and what they say of the data."""
        return Weights(self.config, self._network.state_dict(), self.data)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model in the folder layout of Hugging Face, which `load` reads, too.

        Raises:
            ConfigError: huggingface_hub is not installed.
            DiskError: the folder cannot be written.
        """
        from dpot_scale.serving.hub import HubModel

        HubModel.of(self).save_pretrained(folder)

    def rollout(self, history: Frames, steps: int) -> Frames:
        """Return the frames that follow a history.

        Args:
            history: The known frames, (T, C, *space) or (B, T, C, *space) in physical units, of T =
                `config.history`: a NumPy array, a torch tensor, or a mapping of channel names to
                such, without the axis C.
            steps: How many frames to forecast.

        Returns:
            Frames (steps, C, *space) or (B, steps, C, *space) of the same kind: an array for an
            array, a tensor on its device for a tensor, a mapping for a mapping; of the same type if
            that is a floating one, else fp32. A channel that the model takes and does not forecast,
            such as a mask, is repeated.

        Raises:
            DataError: the history has another shape or other channels, or holds values that are not
                finite; or the model needs to know of which dataset it is.
        """
        known = self._read(history, steps)
        windows, _, *frame = known.frames_BTCs.shape
        shape = (windows, steps, *frame)
        frames_BTCs = torch.empty(shape, dtype=known.dtype, device=known.frames_BTCs.device)
        for step, frame_BCs in enumerate(self._forecasts(known, steps)):
            frames_BTCs[:, step] = frame_BCs
        return known.as_given(frames_BTCs, channel_axis=2)

    def stream(self, history: Frames, steps: int) -> Iterator[Frames]:
        """Yield the frames that follow a history, one by one, in memory that does not grow.

        Args:
            history: As for `rollout`.
            steps: How many frames to forecast.

        Yields:
            Each frame, (C, *space) or (B, C, *space), of the same kind as the history.

        Raises:
            DataError: as `rollout`.
        """
        known = self._read(history, steps)
        return (
            known.as_given(frame_BCs.to(known.frames_BTCs.device, known.dtype, copy=True))
            for frame_BCs in self._forecasts(known, steps)
        )

    def _read(self, history: Frames, steps: int) -> History:
        if isinstance(steps, bool) or not isinstance(steps, SupportsIndex) or steps < 1:
            raise DataError(f"steps={steps!r} must be a whole number of frames, at least 1")
        if self._known is None and self.data is not None and not _is_plain(self.data):
            raise DataError(
                f"the model was trained on {', '.join(self.datasets)}, which it sees in different "
                f"ways: say which of them the history is of, as dataset="
                f"{self.datasets[0]!r}"
            )
        return read_history(history, self.config, self.channels)

    def _forecasts(self, known: History, steps: int) -> Iterator[Tensor]:
        """Yield (B, C, *space) for each frame, on the device of the model."""
        given = known.frames_BTCs.shape[2]
        batch = self._batch(known.frames_BTCs.to(self._device))
        model = in_physical_units(self._network, batch)
        history_BTCs = batch.frames_BTCxy
        while True:
            with torch.inference_mode():
                forecast_BTCs = model(history_BTCs).frames
                forecast_BTCs = with_given_channels(forecast_BTCs, history_BTCs, batch)
                joined_BTCs = torch.cat([history_BTCs, forecast_BTCs], dim=1)
                history_BTCs = joined_BTCs[:, -self.config.history :]
            for frame in range(min(steps, self.config.horizon)):
                yield forecast_BTCs[:, frame, :given]
            steps -= self.config.horizon
            if steps <= 0:
                return

    def _batch(self, frames_BTCs: Tensor) -> Batch:
        """Return frames with all that training gives beside them; missing channels are padded."""
        windows, _, given = frames_BTCs.shape[:3]
        missing = self.config.channels - given
        padding = frames_BTCs.new_full(
            (windows, self.config.history, missing, *frames_BTCs.shape[3:]), PADDING_VALUE
        )
        known = self._known or _unscaled(given)
        mean_C = [*known.mean, *[0.0] * missing]
        std_C = [*known.std, *[1.0] * missing]
        scored_C = [*known.scored, *[False] * missing]
        scored_BC = torch.tensor([scored_C] * windows, device=self._device)
        scale = Scale(frames_BTCs.new_tensor([mean_C]), frames_BTCs.new_tensor([std_C]))
        return Batch(
            frames_BTCxy=torch.cat([frames_BTCs, padding], dim=2),
            scored_BC=scored_BC,
            scale=scale if known.is_scaled else None,
            conditions_BK=self._told(windows),
        )

    def _told(self, windows: int) -> Tensor | None:
        """Return the conditions (B, K) of all windows; None if the model is told of none."""
        said = dict(self._conditions)
        if self._known is not None:
            said.setdefault(DT, self._known.frame_interval)
        told_K = [said.get(name, math.nan) for name in self.config.conditions]
        return torch.tensor([told_K] * windows, device=self._device) if told_K else None


def _shared(data: TrainingData) -> Channels | None:
    """Return the channels of the datasets if all have the same and the model sees them alike."""
    first, *others = data.datasets.values()
    return first if all(_same(first, other) for other in others) else None


def _same(one: Channels, other: Channels) -> bool:
    return one.model_copy(update={"frame_interval": other.frame_interval}) == other


def _is_plain(data: TrainingData) -> bool:
    """Return whether the model sees all channels of all datasets as they are, and as fields."""
    return all(all(one.scored) and not one.is_scaled for one in data.datasets.values())


def _unscaled(channels: int) -> Channels:
    """Return channels of which nobody knows more than their number."""
    return Channels(
        names=tuple(map(str, range(channels))),
        scored=(True,) * channels,
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
        frame_interval=1.0,
    )


def _network(weights: Weights, dtype: torch.dtype) -> Forecaster:
    if dtype not in DTYPES:
        known = ", ".join(map(str, DTYPES))
        raise ConfigError(f"dtype={dtype!r} is none of the precisions a model has: {known}")
    network = network_of(weights, dtype)
    network.keep_derived()
    return network


def _device(device: torch.device | str | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device={str(device)!r} cannot be used: {reason}") from error
    return found
