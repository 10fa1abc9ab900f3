"""Steady flow through a porous medium, as in the FNO dataset.

    -div(a grad(u)) = source   in the unit square,   u = 0 at the walls

a is `high` where psi >= 0 and `low` elsewhere; psi is Gaussian with covariance (-lap + 9)^-2 and no
normal derivative at the walls.

Five-point finite volumes with the harmonic mean of a at faces, solved by conjugate gradients with
the Laplacian as preconditioner. Its spectrum relative to the Laplacian lies between `low` and
`high`, which bounds the error after a number of iterations that depends on these alone.

Legend: N trajectories, x y cells, k l modes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dpot_scale.data.generation.solvers.poisson import Poisson

TOLERANCE = 1e-9  # of the error in the energy norm, relative to the solution
MODES = 64  # of psi, along each axis; a seed draws the same medium on every grid
FRAMES = 2


@dataclass(frozen=True, kw_only=True)
class Darcy:
    """A medium of two permeabilities; its two frames are the medium and the solution."""

    low: float = 3.0
    high: float = 12.0
    source: float = 1.0

    equation: ClassVar[str] = "darcy"
    channels: ClassVar[tuple[str, ...]] = ("coefficient_solution",)
    boundary: ClassVar[str] = "zero"
    domain_length: ClassVar[tuple[float, ...]] = (1.0, 1.0)
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
        """Return a and u as frames (N, 2, 1, x, y): with a history of 1 a model maps a to u."""
        assert frames == FRAMES
        del frame_interval  # nothing changes in time
        psi_Nxy = torch.stack([random_field(seed, grid) for seed in seeds])
        a_Nxy = torch.where(psi_Nxy >= 0, self.high, self.low).to(device, torch.float64)
        contrast = max(self.low, self.high) / min(self.low, self.high)
        u_Nxy = solution(a_Nxy, torch.full_like(a_Nxy, self.source), contrast)
        return torch.stack([a_Nxy, u_Nxy], dim=1)[:, :, None].float()

    def drawn(self, seed: int) -> dict[str, float | bytes]:
        """Return nothing: a trajectory draws its medium alone."""
        del seed
        return {}


def random_field(seed: int, grid: int) -> Tensor:
    """Draw psi (x, y), the sum of xi_kl c_kl(x, y) / (pi^2 (k^2 + l^2) + 9).

    c_kl are the products of cosines with unit norm on the square, xi_kl standard normal.
    """
    k = np.arange(MODES)
    amplitude_kl = 1 / (math.pi**2 * (k[:, None] ** 2 + k[None, :] ** 2) + 9)
    norm_k = np.where(k > 0, math.sqrt(2), 1)
    xi_kl = np.random.default_rng(seed).standard_normal((MODES, MODES))
    basis_kx = norm_k[:, None] * np.cos(math.pi * np.outer(k, (np.arange(grid) + 0.5) / grid))
    return torch.from_numpy(basis_kx.T @ (amplitude_kl * xi_kl) @ basis_kx)


def solution(a_Nxy: Tensor, source_Nxy: Tensor, contrast: float) -> Tensor:
    """Return u (N, x, y) for a medium and its source.

    Args:
        a_Nxy: Positive.
        source_Nxy: The source term, in the shape of the medium.
        contrast: A bound of the largest a of a trajectory over its smallest.
    """
    grid = a_Nxy.shape[-1]
    spacing = (1 / grid, 1 / grid)
    poisson = Poisson((grid, grid), spacing, along_x="zero", along_y="zero", like=a_Nxy)
    through_x, through_y = _through_faces(a_Nxy), _through_faces(a_Nxy.mT).mT
    u, residual = torch.zeros_like(a_Nxy), source_Nxy
    direction = -poisson.solve(residual)
    gain_N = _dot(residual, direction)
    # Conjugate gradients leave at most 2 (1 - 2 / (sqrt(contrast) + 1))^n of the error.
    for _ in range(math.ceil(math.sqrt(contrast) / 2 * math.log(2 / TOLERANCE))):
        outflow = _outflow(direction, through_x, through_y)
        step_N11 = _ratio(gain_N, _dot(direction, outflow))
        u = u + step_N11 * direction
        residual = residual - step_N11 * outflow
        preconditioned = -poisson.solve(residual)
        before_N, gain_N = gain_N, _dot(residual, preconditioned)
        direction = preconditioned + _ratio(gain_N, before_N) * direction
    return u


def _through_faces(a_Nxy: Tensor) -> Tensor:
    """Return the permeability (N, X, y) between neighbours along x, over spacing squared.

    The walls are half a cell from the centres next to them.
    """
    before, after = a_Nxy[:, :-1], a_Nxy[:, 1:]
    inside = 2 * before * after / (before + after)
    return torch.cat([2 * a_Nxy[:, :1], inside, 2 * a_Nxy[:, -1:]], dim=1) * a_Nxy.shape[-1] ** 2


def _outflow(u_Nxy: Tensor, through_x: Tensor, through_y: Tensor) -> Tensor:
    """Return -div(a grad(u))."""
    padded = functional.pad(u_Nxy, (1, 1, 1, 1))
    flux_x = through_x * padded[:, :, 1:-1].diff(dim=1)
    flux_y = through_y * padded[:, 1:-1].diff(dim=2)
    return -(flux_x.diff(dim=1) + flux_y.diff(dim=2))


def _dot(a_Nxy: Tensor, b_Nxy: Tensor) -> Tensor:
    return (a_Nxy * b_Nxy).sum((1, 2))


def _ratio(a_N: Tensor, b_N: Tensor) -> Tensor:
    """Return a / b (N, 1, 1), 0 where the solution is exact and both are 0."""
    return torch.where(b_N > 0, a_N / b_N, 0.0)[:, None, None]
