"""What the index of a stored dataset says about it."""

import re
from dataclasses import dataclass
from typing import Literal

from dpot_scale.config.base import FOLDER_NAME, STRICT, Float, PositiveFloat, PositiveInt

MASK = "mask"  # what CFDBench and our solvers call their fluid mask


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetInfo:
    """One stored dataset, as its index describes it."""

    __pydantic_config__ = STRICT

    name: str
    equation: str
    channels: tuple[str, ...]
    scored: tuple[bool, ...]  # per channel; what is the same in all frames is an input alone
    spatial_axes: tuple[str, ...]
    grid: tuple[PositiveInt, ...]
    domain_length: tuple[PositiveFloat, ...]  # in the equation's unit
    frame_interval: (
        PositiveFloat  # in the equation's time; where trajectories differ, the usual one
    )
    boundary: str
    origin: Literal["generated", "imported"]
    source: str  # the recipe, or the file it was imported from
    staggering: str = ""  # which points the channels are at, where they differ
    fluid_mask: str = ""  # the channel that is 0 in obstacles and 1 in the fluid, if there is one
    # Of the points of each axis, where the source gives them. Empty: points of equal distance.
    coordinates: tuple[tuple[Float, ...], ...] = ()

    @property
    def constant(self) -> tuple[bool, ...]:
        """Return, per channel, whether it is the same in all frames: a coefficient or a mask."""
        return tuple(not scored for scored in self.scored)

    @property
    def coefficient(self) -> tuple[bool, ...]:
        """Return, per channel, whether it is constant and in a unit of its own: no fluid mask."""
        return tuple(
            not scored and channel != self.fluid_mask
            for channel, scored in zip(self.channels, self.scored, strict=True)
        )


def is_dataset_name(text: str) -> bool:
    """Return whether a text can name a dataset, which is also the name of its folder."""
    return re.fullmatch(FOLDER_NAME, text) is not None
