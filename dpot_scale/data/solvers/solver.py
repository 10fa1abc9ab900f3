"""What every solver offers to the generator of datasets."""

from collections.abc import Sequence
from typing import ClassVar, Protocol

import torch
from torch import Tensor


class Solver(Protocol):
    """An equation with its parameters fixed; solves any number of trajectories at once."""

    equation: ClassVar[str]
    channels: ClassVar[tuple[str, ...]]
    boundary: ClassVar[str]
    domain_length: ClassVar[float]  # of each axis

    def solve(
        self,
        seeds: Sequence[int],
        *,
        grid: int,
        frames: int,
        frame_interval: float,
        device: torch.device,
    ) -> Tensor:
        """Return trajectories (N, T, C, x, y) in float32, one per seed.

        A trajectory depends on its seed and these arguments, not on the other seeds.
        """
        ...
