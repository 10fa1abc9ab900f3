"""What the index of a stored dataset says about it."""

import re
from dataclasses import dataclass
from typing import Literal

from dpot_scale.config.base import FOLDER_NAME, STRICT, Float, PositiveFloat, PositiveInt

NO_DIMENSION = "1"  # the unit of a number, as netCDF files write it
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
    # Per channel, or none at all, where nobody knows any; "" is one that nobody knows.
    units: tuple[str, ...] = ()
    length_unit: str = ""  # of `domain_length` and `coordinates`
    time_unit: str = ""  # of `frame_interval`
    has_lengths: bool = True  # else `domain_length` says nothing, and points are as far apart

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

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the channels for people, each with its unit if it has one, as `u [m/s]`."""
        units = self.units or ("",) * len(self.channels)
        return tuple(map(with_unit, self.channels, units))

    @property
    def ends(self) -> tuple[tuple[float, float], ...]:
        """Return where each axis begins and ends; in points where nobody knows its length."""
        if self.coordinates:
            return tuple((min(points), max(points)) for points in self.coordinates)
        lengths = self.domain_length if self.has_lengths else self.grid
        return tuple((0.0, float(length)) for length in lengths)

    @property
    def axis_labels(self) -> tuple[str, ...]:
        """Return the axes of space for people, as `x [m]`."""
        in_points = not (self.has_lengths or self.coordinates)
        unit = "points" if in_points else self.length_unit
        return tuple(with_unit(axis, unit) for axis in self.spatial_axes)


def has_unit(unit: str) -> bool:
    """Return whether a unit is known and more than that of a number."""
    return unit not in ("", NO_DIMENSION)


def with_unit(name: str, unit: str) -> str:
    """Return a name for people, as `u [m/s]`; without a unit that is unknown or says nothing."""
    return f"{name} [{unit}]" if has_unit(unit) else name


def is_dataset_name(text: str) -> bool:
    """Return whether a text can name a dataset, which is also the name of its folder."""
    return re.fullmatch(FOLDER_NAME, text) is not None
