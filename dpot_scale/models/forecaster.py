"""The base of the networks of all families, and their output.

Legend: B windows, T history frames, C fields, s the space axes.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from dpot_scale.config.model import ModelConfig
from dpot_scale.errors import DataError


class Forecast(NamedTuple):
    """A forecast, and a guess of the dataset where a family makes one.

    A tuple, because ZeRO-3 looks for tensors in those.
    """

    frames: Tensor  # (B, horizon, C, *space), fp32
    logits: Tensor | None = None  # (B, datasets), fp32


class Forecaster(nn.Module):
    """Maps `history` frames of a field to the next `horizon` frames.

    Parameters may have any float dtype; frames are cast to it on entry. No parameter is complex
    and none is used outside the module that owns it, because ZeRO partitions them.

    Attributes:
        config: Describes it completely.
        blocks: What activation checkpointing and torch.compile work on.
    """

    blocks: nn.ModuleList

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, frames_BTCs: Tensor) -> Forecast:
        """Forecast from frames of shape (B, history, C, *space)."""
        raise NotImplementedError

    def compile_blocks(self) -> None:
        """Compile the blocks with torch.compile when they first run.

        They share their code, so all of them cost one compilation.
        """
        for block in self.blocks:
            # Not `block.compile()`: the hooks that ZeRO-3 puts around a forward must stay outside.
            block.__dict__["forward"] = torch.compile(block.forward)

    def require_shape(self, frames_BTCs: Tensor) -> None:
        """Make sure that frames have the shape that the config says.

        Raises:
            DataError: they have not.
        """
        config = self.config
        expected = (config.history, config.channels, *[config.grid] * config.space_dims)
        if frames_BTCs.shape[1:] != expected:
            raise DataError(
                f"the model takes frames of shape (B, T, C, *space) = (B, "
                f"{', '.join(map(str, expected))}), got {tuple(frames_BTCs.shape)}"
            )
