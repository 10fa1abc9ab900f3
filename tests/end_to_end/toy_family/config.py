"""The config of one toy. No torch here."""

from typing import Literal

from dpot_scale.config.base import PositiveInt
from dpot_scale.config.model import ModelConfig


class ToyConfig(ModelConfig):
    """A stack of residual convolutions."""

    family: Literal["toy"] = "toy"
    """Family of the model."""
    width: PositiveInt = 8
    """Channels between the convolutions."""
    depth: PositiveInt = 2
    """Convolutions."""
