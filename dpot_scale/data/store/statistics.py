"""Mean and standard deviation of each channel, in one pass over data of any size."""

from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dpot_scale.config.base import STRICT, Float, NonNegativeFloat

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Statistics:
    """Mean and standard deviation of each channel, over all points of the training split.

    Of a dataset without one: of its first split.
    """

    __pydantic_config__ = STRICT

    mean: tuple[Float, ...]  # per channel
    std: tuple[NonNegativeFloat, ...]  # of the population


@dataclass
class Moments:
    """Count, mean and sum of squared deviations, merged piece by piece in double precision.

    Pieces are merged as Chan, Golub and LeVeque (1979) do: sums of squares over billions of values
    would lose the small spread of a field with a large mean.
    """

    count: int = 0
    mean_C: Array = field(default_factory=lambda: np.zeros(1))
    squares_C: Array = field(default_factory=lambda: np.zeros(1))

    def add(self, frames_TCxy: Array) -> None:
        """Add frames (T, C, *space)."""
        values_CTs = np.moveaxis(frames_TCxy, 1, 0).reshape(frames_TCxy.shape[1], -1)
        count = values_CTs.shape[1]
        mean_C = values_CTs.mean(axis=1, dtype=np.float64)
        squares_C = values_CTs.var(axis=1, dtype=np.float64) * count
        total = self.count + count
        difference_C = mean_C - self.mean_C
        self.squares_C = self.squares_C + squares_C + difference_C**2 * (self.count * count / total)
        self.mean_C = self.mean_C + difference_C * (count / total)
        self.count = total

    def statistics(self, channels: int) -> Statistics:
        """Return the mean and standard deviation so far; zeros and ones before any piece."""
        if self.count == 0:
            return Statistics((0.0,) * channels, (1.0,) * channels)
        std_C = np.sqrt(self.squares_C / self.count)
        return Statistics(tuple(self.mean_C.tolist()), tuple(std_C.tolist()))

    def to_json(self) -> dict[str, Any]:
        """Return the state, exactly."""
        return {
            "count": self.count,
            "mean": self.mean_C.tolist(),
            "squares": self.squares_C.tolist(),
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Return the state that `to_json` wrote."""
        return cls(values["count"], np.array(values["mean"]), np.array(values["squares"]))
