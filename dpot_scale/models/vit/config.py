"""The config of one ViT. No torch here."""

from typing import Literal

from pydantic import ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from dpot_scale.config.base import PositiveInt
from dpot_scale.config.model import ModelConfig, Points


class ViTConfig(ModelConfig):
    """A transformer over patches in space and time. Its defaults make it as large as DPOT-Ti."""

    family: Literal["vit"] = "vit"
    """Family of the model."""
    heads: PositiveInt = 4
    """Heads of each attention."""
    width: PositiveInt = 256
    """Channels of a token."""
    depth: PositiveInt = 8
    """Blocks."""
    mlp_ratio: PositiveInt = 4
    """Hidden channels of a block's MLP / width."""
    patch: PositiveInt = 8
    """Points per token, along each axis."""
    time_tokens: PositiveInt = 1
    """Tokens of a patch in time: the history is cut into so many parts of equal length. 1: a token
    holds all frames of a patch. More: each block also attends over the tokens of a patch."""

    @field_validator("width")
    @classmethod
    def _is_shared_by_heads(cls, width: int, info: ValidationInfo) -> int:
        heads = info.data.get("heads", width)  # absent: it is wrong itself
        if width % heads:
            raise PydanticCustomError(
                "multiple_of", "Input should be a multiple of heads={heads}", {"heads": heads}
            )
        return width

    @field_validator("time_tokens")
    @classmethod
    def _divides_the_history(cls, tokens: int, info: ValidationInfo) -> int:
        history = info.data.get("history", tokens)  # absent: it is wrong itself
        if history % tokens:
            raise PydanticCustomError(
                "divisor_of", "Input should be a divisor of history={history}", {"history": history}
            )
        return tokens

    def padded(self, points: Points) -> Points:
        """Return the next multiples of the patch."""
        return tuple(self.patch * n for n in self.latent(points))

    def latent(self, points: Points) -> Points:
        """Return the patches along each axis of a field with so many points."""
        return tuple(-(-n // self.patch) for n in points)

    @property
    def latent_grid(self) -> Points:
        """Patches along each axis of `grid`."""
        return self.latent(self.space)

    @property
    def attentions(self) -> int:
        """Attentions of a block: over space, and over time where a patch has several tokens."""
        return 1 if self.time_tokens == 1 else 2

    @property
    def token_values(self) -> int:
        """Values of the frames that become one token."""
        frames = self.history // self.time_tokens
        return int(frames * self.channels * self.patch**self.space_dims)

    @property
    def forecast_values(self) -> int:
        """Values of a forecast that one patch gives."""
        return int(self.horizon * self.channels * self.patch**self.space_dims)
