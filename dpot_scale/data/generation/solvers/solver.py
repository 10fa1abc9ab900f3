"""The interface of all solvers."""

from collections.abc import Sequence
from typing import ClassVar, Protocol

import torch
from torch import Tensor


class Solver(Protocol):
    """An equation with its parameters fixed; solves any number of trajectories at once."""

    equation: ClassVar[str]
    channels: ClassVar[tuple[str, ...]]
    boundary: ClassVar[str]
    domain_length: ClassVar[tuple[float, ...]]  # along each axis
    staggering: ClassVar[str]  # which points the channels are at, where they differ

    def solve(
        self,
        seeds: Sequence[int],
        *,
        grid: int,
        frames: int,
        frame_interval: float,
        device: torch.device,
    ) -> Tensor:
        """Return trajectories (N, T, C, *space) in float32, one per seed.

        A trajectory depends on its seed and these arguments, not on the other seeds.
        """
        ...

    def drawn(self, seed: int) -> dict[str, float | bytes]:
        """Return what a trajectory draws besides its initial state; it is stored with the data."""
        ...
