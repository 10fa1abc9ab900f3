"""The FitzHugh-Nagumo equations with zero flux at the walls, as in PDEBench.

    u_t = 1e-3 lap(u) + u - u^3 - 5e-3 - v,   v_t = 5e-3 lap(v) + u - v   on (-1, 1)^2

Cell centres, the five-point Laplacian and the classical Runge-Kutta method of order 4.

Legend: N trajectories, T frames, C the fields u and v, x y cells.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

# Runge-Kutta 4 is stable down to dt * eigenvalue = -2.78; the Laplacian reaches -8 D / dx^2.
DIFFUSIVE_LIMIT = 0.3
MAX_TIME_STEP = 0.05


@dataclass(frozen=True, kw_only=True)
class ReactionDiffusion:
    """An activator u and an inhibitor v that start as white noise and form patterns."""

    diffusion_u: float = 1e-3
    diffusion_v: float = 5e-3
    offset: float = 5e-3
    reaction: float = 1.0  # 0 leaves pure diffusion
    start: float = 0.0  # time of the first frame

    equation: ClassVar[str] = "reaction_diffusion"
    channels: ClassVar[tuple[str, ...]] = ("u", "v")
    boundary: ClassVar[str] = "zero flux"
    domain_length: ClassVar[tuple[float, ...]] = (2.0, 2.0)
    staggering: ClassVar[str] = ""

    def solve(
        self,
        seeds: Sequence[int],
        *,
        grid: int,
        frames: int,
        frame_interval: float,
        device: torch.device,
    ) -> Tensor:
        """Return u and v (N, T, 2, x, y); the first frame is at time `start`."""
        noise_NCxy = torch.stack([initial_noise(seed, grid) for seed in seeds])
        fields_NCxy = self.advance(noise_NCxy.to(device, torch.float32), self.start)
        stored = [fields_NCxy]
        for _ in range(frames - 1):
            fields_NCxy = self.advance(fields_NCxy, frame_interval)
            stored.append(fields_NCxy)
        return torch.stack(stored, dim=1)

    def drawn(self, seed: int) -> dict[str, float | bytes]:
        """Return nothing: a trajectory draws its initial state alone."""
        del seed
        return {}

    def advance(self, fields_NCxy: Tensor, duration: float) -> Tensor:
        """Return the fields a duration later."""
        spacing = self.domain_length[0] / fields_NCxy.shape[-1]
        diffusive_step = DIFFUSIVE_LIMIT * spacing**2 / max(self.diffusion_u, self.diffusion_v)
        steps = math.ceil(duration / min(diffusive_step, MAX_TIME_STEP) - 1e-9)
        dt = duration / max(steps, 1)
        for _ in range(steps):
            a = self._tendency(fields_NCxy, spacing)
            b = self._tendency(torch.add(fields_NCxy, a, alpha=dt / 2), spacing)
            c = self._tendency(torch.add(fields_NCxy, b, alpha=dt / 2), spacing)
            d = self._tendency(torch.add(fields_NCxy, c, alpha=dt), spacing)
            sum_of_slopes = a.add_(b, alpha=2).add_(c, alpha=2).add_(d)
            fields_NCxy = torch.add(fields_NCxy, sum_of_slopes, alpha=dt / 6)
        return fields_NCxy

    def _tendency(self, fields_NCxy: Tensor, spacing: float) -> Tensor:
        # What flows out of a cell flows into its neighbour; nothing flows through the walls.
        along_x, along_y = fields_NCxy.diff(dim=2), fields_NCxy.diff(dim=3)
        laplacian = torch.zeros_like(fields_NCxy)
        laplacian[:, :, :-1] += along_x
        laplacian[:, :, 1:] -= along_x
        laplacian[..., :-1] += along_y
        laplacian[..., 1:] -= along_y
        u, v = fields_NCxy[:, 0], fields_NCxy[:, 1]
        difference = u - v
        tendency = laplacian
        tendency[:, 0] *= self.diffusion_u / spacing**2
        tendency[:, 0].add_(difference - u**3, alpha=self.reaction).sub_(
            self.reaction * self.offset
        )
        tendency[:, 1] *= self.diffusion_v / spacing**2
        tendency[:, 1].add_(difference, alpha=self.reaction)
        return tendency


def initial_noise(seed: int, grid: int) -> Tensor:
    """Draw u and v (2, x, y), independent standard normal in every cell.

    The same numbers as the published trajectory of this seed, whose axes are stored as (y, x).
    """
    random = np.random.RandomState(seed)
    noise = np.stack([random.randn(grid * grid).reshape(grid, grid).T for _ in range(2)])
    return torch.from_numpy(np.ascontiguousarray(noise))
