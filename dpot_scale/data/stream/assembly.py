"""From windows of stored trajectories to a batch on the device, resized and padded.

Legend: B windows, T frames, C fields, xy any number of space axes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dpot_scale.config.data import DataConfig
from dpot_scale.config.model import ModelConfig, Points
from dpot_scale.data.channels import channels_of
from dpot_scale.data.conditions import Conditions
from dpot_scale.data.grids import seen_on
from dpot_scale.data.info import DatasetInfo
from dpot_scale.data.store.dataset import DatasetStore, Split
from dpot_scale.data.stream.mixture import Cut
from dpot_scale.data.stream.quarantine import Quarantined

PADDING_VALUE = 1.0  # of channels that a dataset lacks, as published

INTERPOLATION = {2: "bilinear", 3: "trilinear"}


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Windows of one forward, on the device, in fp32 and in physical units.

    The frames of a batch from a stream are overwritten when the next one is asked for.
    """

    frames_BTCxy: Tensor
    scored_BC: Tensor  # bool: a real field; not padding, a coefficient or a mask
    scale: "Scale | None" = None  # with which the model sees the frames; None: as they are
    counted_Bxy: Tensor | None = None  # bool: points outside obstacles; None: all points count
    coefficient_BC: Tensor | None = None  # bool: given, constant in time; None: no channel is
    conditions_BK: Tensor | None = None  # that the model is told; NaN: unknown; None: nothing
    positions: tuple[int, ...] = ()  # of its windows in the training stream; held-out: none
    quarantined: tuple[Quarantined, ...] = ()  # at positions where another window was read


@dataclass(frozen=True)
class Scale:
    """Of each channel: the model sees (u - mean) / std. Zero and one where it sees u itself."""

    mean_BC: Tensor
    std_BC: Tensor


@dataclass(frozen=True)
class Window:
    """Where the frames of a window are stored."""

    store: DatasetStore
    split: Split
    cut: Cut


class Assembler:
    """Makes batches of windows of any datasets.

    Every field is resized to the grid of the batch, linearly and without antialiasing, and missing
    channels are filled with ones.

    Args:
        model: The shape of a batch.
        data: What a batch holds beside frames.
        device: Where batches go.
    """

    def __init__(self, model: ModelConfig, data: DataConfig, device: torch.device) -> None:
        self.model = model
        self.data = data
        self.device = device
        self._told = Conditions(model.conditions)
        self._host: dict[tuple[int, ...], Tensor] = {}

    def space_of(self, store: DatasetStore) -> Points:
        """Return the grid on which the model sees a dataset."""
        return seen_on(store.info.grid, self.model, self.data)

    def empty(self, windows: int, frames: int, space: Points | None = None) -> Tensor:
        """Return room for the frames of a batch, (B, T, C, *space); by default on `model.grid`."""
        shape = (windows, frames, self.model.channels, *(space or self.model.space))
        return torch.empty(shape, device=self.device)

    def unknown_conditions(self, windows: int) -> Tensor | None:
        """Return conditions of which none is known; None if the model is told nothing."""
        shape = (windows, len(self.model.conditions))
        return torch.full(shape, torch.nan, device=self.device) if shape[1] else None

    def batch(
        self, windows: Sequence[Window], frames_BTCxy: Tensor, positions: Sequence[int] = ()
    ) -> Batch:
        """Return windows as a batch whose frames are put into `frames_BTCxy`.

        Where a trajectory ends before its window does, its last frame stands for those to come.

        Args:
            windows: Where the frames are stored.
            frames_BTCxy: Room for them, (B, T, C, *space).
            positions: The positions of the windows in the training stream.

        Raises:
            DataError: a shard is missing or damaged, or holds values that are not finite.
        """
        space = tuple(frames_BTCxy.shape[3:])
        for window, frames_TCxy in zip(windows, frames_BTCxy, strict=True):
            fields_TCxy = _resized(self._read(window, len(frames_TCxy)), space)
            stored, fields = fields_TCxy.shape[:2]
            frames_TCxy[:stored, :fields] = fields_TCxy
            frames_TCxy[stored:, :fields] = fields_TCxy[-1]
            frames_TCxy[:, fields:] = PADDING_VALUE
        infos = [window.store.info for window in windows]
        scored_BC = self._per_channel([info.scored for info in infos], False)
        coefficient_BC = self._per_channel([info.coefficient for info in infos], False)
        has_coefficients = bool(coefficient_BC.any())
        is_scaled = has_coefficients or self.data.normalize == "dataset"
        return Batch(
            frames_BTCxy=frames_BTCxy,
            scored_BC=self._moved(scored_BC),
            scale=self._scale(windows) if is_scaled else None,
            counted_Bxy=self._counted(infos, frames_BTCxy) if self.data.mask_points else None,
            coefficient_BC=self._moved(coefficient_BC) if has_coefficients else None,
            conditions_BK=self._conditions(windows) if self.model.conditions else None,
            positions=tuple(positions),
        )

    def _conditions(self, windows: Sequence[Window]) -> Tensor:
        of_all = [self._told.of(window.store, window.split, window.cut) for window in windows]
        return self._moved(torch.tensor(of_all, dtype=torch.float32))

    def _read(self, window: Window, frames: int) -> Tensor:
        """Return a window as it is stored, (T, C, *space), on the device, up to its last frame."""
        store, (trajectory, start, stride) = window.store, window.cut
        left = store.num_frames(window.split, trajectory) - start
        spanned = min((frames - 1) * stride + 1, left)
        host_TCxy = self._room((spanned, len(store.info.channels), *store.info.grid))
        frames_TCxy = host_TCxy.numpy()
        store.read(window.split, trajectory, start, spanned, out=frames_TCxy)
        # Whatever is not finite shows in the sum, which costs half of looking at each value.
        if not math.isfinite(host_TCxy.sum()):
            store.check_finite(window.split, trajectory, start, frames_TCxy)
        return host_TCxy.to(self.device, non_blocking=True)[::stride]

    def _room(self, shape: tuple[int, ...]) -> Tensor:
        """Return room on the host, where fresh memory costs more than what is put there.

        torch keeps pinned memory itself, until the device has copied it.
        """
        if self.device.type == "cuda":
            return torch.empty(shape, pin_memory=True)
        if shape not in self._host:
            self._host[shape] = torch.empty(shape)
        return self._host[shape]

    def _scale(self, windows: Sequence[Window]) -> Scale:
        """Return what the model sees of each window's dataset."""
        known = [
            channels_of(window.store.info, window.store.statistics, self.data) for window in windows
        ]
        mean_BC = self._per_channel([channels.mean for channels in known], 0.0)
        std_BC = self._per_channel([channels.std for channels in known], 1.0)
        return Scale(self._moved(mean_BC), self._moved(std_BC))

    def _counted(self, infos: Sequence[DatasetInfo], frames_BTCxy: Tensor) -> Tensor:
        """Return (B, *space): whether a point lies outside obstacles."""
        is_mask = [[name == info.fluid_mask for name in info.channels] for info in infos]
        is_mask_BC = self._moved(self._per_channel(is_mask, False))
        is_mask_BCxy = is_mask_BC.view(*is_mask_BC.shape, *[1] * self.model.space_dims)
        return ~(is_mask_BCxy & (frames_BTCxy[:, 0] == 0)).any(1)

    def _per_channel(self, values: Sequence[Sequence[float]], padding: float) -> Tensor:
        """Return (B, C), on the host."""
        missing = [self.model.channels - len(of_window) for of_window in values]
        return torch.tensor(
            [[*of_one, *[padding] * n] for of_one, n in zip(values, missing, strict=True)]
        )

    def _moved(self, values: Tensor) -> Tensor:
        """Return values on the device; the host does not wait for what that has to do before."""
        pinned = values.pin_memory() if self.device.type == "cuda" else values
        return pinned.to(self.device, non_blocking=True)


def _resized(frames_TCxy: Tensor, space: Points) -> Tensor:
    if frames_TCxy.shape[2:] == space:
        return frames_TCxy
    maps = functional.interpolate(
        frames_TCxy.flatten(0, 1)[None], size=list(space), mode=INTERPOLATION[len(space)]
    )
    return maps.view(*frames_TCxy.shape[:2], *maps.shape[2:])
