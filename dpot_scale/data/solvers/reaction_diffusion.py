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
from torch.nn import functional

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
    domain_length: ClassVar[float] = 2.0

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
        initial_NCxy = torch.stack([initial_noise(seed, grid) for seed in seeds]).to(device)
        fields_NCxy = self.advance(initial_NCxy, self.start)
        stored = [fields_NCxy]
        for _ in range(frames - 1):
            fields_NCxy = self.advance(fields_NCxy, frame_interval)
            stored.append(fields_NCxy)
        return torch.stack(stored, dim=1).float()

    def advance(self, fields_NCxy: Tensor, duration: float) -> Tensor:
        """Return the fields a duration later."""
        spacing = self.domain_length / fields_NCxy.shape[-1]
        diffusive_step = DIFFUSIVE_LIMIT * spacing**2 / max(self.diffusion_u, self.diffusion_v)
        steps = math.ceil(duration / min(diffusive_step, MAX_TIME_STEP) - 1e-9)
        dt = duration / max(steps, 1)
        for _ in range(steps):
            a = self._tendency(fields_NCxy, spacing)
            b = self._tendency(fields_NCxy + dt / 2 * a, spacing)
            c = self._tendency(fields_NCxy + dt / 2 * b, spacing)
            d = self._tendency(fields_NCxy + dt * c, spacing)
            fields_NCxy = fields_NCxy + dt / 6 * (a + 2 * b + 2 * c + d)
        return fields_NCxy

    def _tendency(self, fields_NCxy: Tensor, spacing: float) -> Tensor:
        # A mirrored ghost cell at each wall lets nothing through.
        padded = functional.pad(fields_NCxy, (1, 1, 1, 1), mode="replicate")
        neighbours = (
            padded[..., 2:, 1:-1]
            + padded[..., :-2, 1:-1]
            + padded[..., 1:-1, 2:]
            + padded[..., 1:-1, :-2]
        )
        laplacian = (neighbours - 4 * fields_NCxy) / spacing**2
        u, v = fields_NCxy[:, 0], fields_NCxy[:, 1]
        u_t = self.diffusion_u * laplacian[:, 0] + self.reaction * (u - u**3 - self.offset - v)
        v_t = self.diffusion_v * laplacian[:, 1] + self.reaction * (u - v)
        return torch.stack([u_t, v_t], dim=1)


def initial_noise(seed: int, grid: int) -> Tensor:
    """Draw u and v (2, x, y), independent standard normal in every cell.

    The same numbers as the published trajectory of this seed, whose axes are stored as (y, x).
    """
    random = np.random.RandomState(seed)
    noise = np.stack([random.randn(grid * grid).reshape(grid, grid).T for _ in range(2)])
    return torch.from_numpy(np.ascontiguousarray(noise))
