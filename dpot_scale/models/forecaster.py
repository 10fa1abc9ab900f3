"""The base of the networks of all families, and their output.

Legend: B windows, T history frames, C fields, s the space axes.
"""

from collections.abc import Callable
from functools import wraps
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dpot_scale.config.data import SPACE_AXES
from dpot_scale.config.model import ModelConfig
from dpot_scale.errors import DataError
from dpot_scale.models.adapter import Adaptable
from dpot_scale.models.derived import Derived

# Keeps the standardisation of a constant field finite (the published value).
STD_FLOOR = 1e-6


class Forecast(NamedTuple):
    """A forecast, and a guess of the dataset where a family makes one.

    A tuple, because ZeRO-3 looks for tensors in those.
    """

    frames: Tensor  # (B, horizon, C, *space), fp32
    logits: Tensor | None = None  # (B, datasets), fp32


class Moments(NamedTuple):
    """Mean and standard deviation of each field of each window, over its frames and points."""

    mean_B1C1: Tensor  # (B, 1, C, *ones), fp32
    std_B1C1: Tensor  # alike; more than zero


class Forecaster(nn.Module):
    """Maps `history` frames of a field, on any grid, to the next `horizon` frames.

    A family writes `predict`; here its output becomes the forecast that `model.target` says.
    Parameters may have any float dtype; frames are cast to it on entry. No parameter is complex and
    none is used outside the module that owns it, because ZeRO partitions them.

    Args:
        config: Describes it completely.
        normalize: Whether the network takes and gives standardised fields.

    Attributes:
        config: Describes it completely.
        blocks: What activation checkpointing and torch.compile work on.
    """

    blocks: nn.ModuleList

    def __init__(self, config: ModelConfig, *, normalize: bool = False) -> None:
        super().__init__()
        self.config = config
        self._normalize = normalize

    def forward(self, frames_BTCs: Tensor, conditions_BK: Tensor | None = None) -> Forecast:
        """Forecast from frames of shape (B, history, C, *space).

        The statistics of a window, and the sum with its last frame, are of fp32 frames: a network
        in half precision that predicts no change gives the last frame exactly.

        Args:
            frames_BTCs: The history.
            conditions_BK: The numbers that `config.conditions` names, in fp32; NaN where one is
                unknown. None where it names none.

        Raises:
            DataError: the frames or the conditions have another shape.
        """
        self.require_shape(frames_BTCs)
        self._require_conditions(conditions_BK, len(frames_BTCs))
        residual = self.config.target == "residual"
        if not (residual or self._normalize):
            return self._predict(frames_BTCs, None, conditions_BK)
        frames_BTCs = frames_BTCs.float()
        moments, centred_BTCs = _centred(frames_BTCs)
        if self._normalize:
            output = self._predict(centred_BTCs / moments.std_B1C1, moments, conditions_BK)
        else:
            output = self._predict(frames_BTCs, None, conditions_BK)
        origin_BTCs = frames_BTCs[:, -1:] if residual else moments.mean_B1C1
        return output._replace(frames=output.frames * moments.std_B1C1 + origin_BTCs)

    def predict(self, frames_BTCs: Tensor, moments: Moments | None) -> Forecast:
        """Return what the network makes of frames of shape (B, history, C, *space).

        Args:
            frames_BTCs: The history, which is standardised where the network asked for that.
            moments: By which it was standardised; None if it was not.
        """
        raise NotImplementedError

    def predict_told(
        self, frames_BTCs: Tensor, moments: Moments | None, conditions_BK: Tensor
    ) -> Forecast:
        """Return the same where `config.conditions` names some. Only such families write it.

        Args:
            frames_BTCs: As for `predict`.
            moments: As for `predict`.
            conditions_BK: The conditions of each window; NaN where one is unknown.
        """
        raise NotImplementedError

    def _predict(
        self, frames_BTCs: Tensor, moments: Moments | None, conditions_BK: Tensor | None
    ) -> Forecast:
        if conditions_BK is None:
            return self.predict(frames_BTCs, moments)
        return self.predict_told(frames_BTCs, moments, conditions_BK)

    def ends_in(self, layer: nn.Module) -> None:
        """Take note of the last layer, as soon as it is made.

        It starts at zero if the target is `residual`: a fresh model forecasts the last known frame.
        """
        if self.config.target == "residual":
            for parameter in layer.parameters():
                # ZeRO-3 has cut it up already; each rank holds a part.
                nn.init.zeros_(getattr(parameter, "ds_tensor", parameter))

    def adapt(self, rank: int) -> None:
        """Add a pair of narrow matrices to each matrix of the blocks; it changes nothing at first.

        Args:
            rank: The rank of what is added to each.
        """
        for module in list(self.blocks.modules()):
            if isinstance(module, Adaptable):
                module.adapt(rank)

    def compile_blocks(self) -> None:
        """Compile the blocks with torch.compile when they first run.

        They share their code, so all of them cost one compilation for each latent grid.
        """
        for block in self.blocks:
            # Not `block.compile()`: the hooks that ZeRO-3 puts around a forward must stay outside.
            block.__dict__["forward"] = _compiled(block.forward)

    def keep_derived(self) -> None:
        """Compute what follows from weights alone only once: they must stay as they are.

        For forecasts, not for training.
        """
        for module in self.modules():
            if isinstance(derived := getattr(module, "derived", None), Derived):
                derived.keep()

    def _require_conditions(self, conditions_BK: Tensor | None, windows: int) -> None:
        """Make sure that the conditions are those that the config names.

        Raises:
            DataError: they have another shape, or are missing.
        """
        names = self.config.conditions
        given = None if conditions_BK is None else tuple(conditions_BK.shape)
        if given != ((windows, len(names)) if names else None):
            raise DataError(
                f"the model is told of each window {', '.join(names) or 'nothing but its frames'}: "
                f"conditions of shape {(windows, len(names)) if names else None}, got {given}"
            )

    def require_shape(self, frames_BTCs: Tensor) -> None:
        """Make sure that frames have the history, the fields and the axes that the config says.

        Raises:
            DataError: they have not.
        """
        config, axes = self.config, SPACE_AXES[: self.config.space_dims]
        given = tuple(frames_BTCs.shape)
        expected = (config.history, config.channels)
        if given[1:3] != expected or len(given) != 3 + len(axes) or 0 in given[3:]:
            raise DataError(
                f"the model takes frames of shape (B, T, C, *space) = (B, {config.history}, "
                f"{config.channels}, {', '.join(axes)}), got {given}"
            )


def _compiled(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return the forward of a block, compiled for each latent grid and for any batch.

    With a latent grid that may vary, its matrices would be looked up outside the compiled code,
    which would fall into parts.
    """
    compiled = torch.compile(forward)

    @wraps(forward)
    def run(z_BhE: Tensor) -> Tensor:
        torch._dynamo.mark_static(z_BhE, list(range(1, z_BhE.ndim)))
        return compiled(z_BhE)

    return run


def _centred(frames_BTCs: Tensor) -> tuple[Moments, Tensor]:
    """Return the moments of fp32 frames, and the frames without their mean."""
    over = (1, *range(3, frames_BTCs.ndim))
    points = frames_BTCs[0, :, 0].numel()
    mean_B1C1 = frames_BTCs.mean(over, keepdim=True)
    centred_BTCs = frames_BTCs - mean_B1C1
    # Not `std`, which takes seven times as long on CPU.
    norm_B1C1 = torch.linalg.vector_norm(centred_BTCs, dim=over, keepdim=True)
    return Moments(mean_B1C1, norm_B1C1 / (points - 1) ** 0.5 + STD_FLOOR), centred_BTCs
