"""The config of one FNO. No torch here."""

from typing import Literal, Self

from dpot_scale.config.base import PositiveInt
from dpot_scale.config.model import ModelConfig, Points

# Hidden channels of the last two layers / width.
PROJECTION = 2


class FNOConfig(ModelConfig):
    """A Fourier neural operator. Its defaults make it about as large as DPOT-Ti."""

    family: Literal["fno"] = "fno"
    """Family of the model."""
    width: PositiveInt = 56
    """Channels at each point."""
    depth: PositiveInt = 4
    """Blocks."""
    modes: PositiveInt = 12
    """Each block mixes the Fourier modes of less than this frequency along each axis, each with a
    matrix of its own. A grid has those below half its points."""

    def kept_modes(self, points: Points) -> tuple[int, ...]:
        """Return how many frequencies, from zero on, are kept along each axis of a grid.

        Not that of half its points, where a grid is even: it cannot tell its sign.
        """
        return tuple(min(self.modes, (n + 1) // 2) for n in points)

    def on(self, space: Points) -> Self:
        """Return the same model with another `grid`, on which it has no more modes than it had."""
        modes = max(self.kept_modes(self.space))
        return super().on(space).model_copy(update={"modes": modes})

    @property
    def spectrum(self) -> tuple[int, ...]:
        """Modes along each axis of `grid`: of both signs, and half of them along the last axis."""
        *full, half = self.kept_modes(self.space)
        return (*(2 * n - 1 for n in full), half)

    @property
    def inputs(self) -> int:
        """Values at each point: the fields of all frames, and its place on each axis."""
        return self.history * self.channels + self.space_dims
