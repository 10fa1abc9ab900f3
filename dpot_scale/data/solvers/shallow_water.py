"""The radial dam break of PDEBench: shallow water on a flat bed.

    h_t + div(h v) = 0,   (h v)_t + div(h v v + h^2 / 2) = 0   on (-2.5, 2.5)^2, open boundaries

A finite-volume scheme of second order: monotonized central reconstruction of h, hu, hv, the HLL
flux and Heun's method.

Legend: N trajectories, T frames, Q the conserved h, hu, hv, x y cells.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

COURANT = 0.4
GHOSTS = 2


@dataclass(frozen=True, kw_only=True)
class ShallowWater:
    """A column of water, height `inner` within a random radius, collapses into depth `outer`."""

    inner: float = 2.0
    outer: float = 1.0
    smallest_radius: float = 0.3
    largest_radius: float = 0.7

    equation: ClassVar[str] = "shallow_water"
    channels: ClassVar[tuple[str, ...]] = ("h",)
    boundary: ClassVar[str] = "open"
    domain_length: ClassVar[float] = 5.0

    def solve(
        self,
        seeds: Sequence[int],
        *,
        grid: int,
        frames: int,
        frame_interval: float,
        device: torch.device,
    ) -> Tensor:
        """Return the water depth (N, T, 1, x, y); the first frame is the initial state."""
        radii_N = torch.tensor([self.radius(seed) for seed in seeds], dtype=torch.float64)
        state_NQxy = self.initial_state(radii_N, grid).to(device)
        stored = [state_NQxy[:, :1]]
        for _ in range(frames - 1):
            state_NQxy = self.advance(state_NQxy, frame_interval)
            stored.append(state_NQxy[:, :1])
        return torch.stack(stored, dim=1).float()

    def radius(self, seed: int) -> float:
        """Draw the dam's radius: the number of the published trajectory of this seed."""
        return float(np.random.RandomState(seed).uniform(self.smallest_radius, self.largest_radius))

    def initial_state(self, radii_N: Tensor, grid: int) -> Tensor:
        """Return (N, 3, x, y) in float64: water at rest, higher within each radius.

        The depth falls linearly over the width of one cell. Where it jumps from cell to cell, as
        in the published data, few states are distinct (24 at 64 x 64, 81 at 128 x 128): test
        trajectories then repeat training trajectories.
        """
        spacing = self.domain_length / grid
        centres = (torch.arange(grid, dtype=torch.float64) + 0.5) * spacing - self.domain_length / 2
        distance_xy = torch.hypot(centres[:, None], centres[None, :])
        radii_N11 = radii_N.double()[:, None, None]
        share_Nxy = (0.5 + (radii_N11 - distance_xy) / spacing).clamp(0, 1)
        h_Nxy = self.outer + (self.inner - self.outer) * share_Nxy
        return torch.stack([h_Nxy, torch.zeros_like(h_Nxy), torch.zeros_like(h_Nxy)], dim=1)

    def advance(self, state_NQxy: Tensor, duration: float) -> Tensor:
        """Return the state a duration later.

        The step is bounded by the fastest wave that any trajectory could have, not by that of
        the present batch: a trajectory must not depend on its neighbours.
        """
        spacing = self.domain_length / state_NQxy.shape[-1]
        # Behind a dam break the water runs at most at 2 (sqrt(inner) - sqrt(outer)).
        fastest = 3 * math.sqrt(self.inner) - 2 * math.sqrt(self.outer)
        steps = math.ceil(duration * fastest / (COURANT * spacing) - 1e-9)
        dt = duration / max(steps, 1)
        for _ in range(steps):
            predicted = state_NQxy + dt * _tendency(state_NQxy, spacing)
            corrected = predicted + dt * _tendency(predicted, spacing)
            state_NQxy = (state_NQxy + corrected) / 2
        return state_NQxy


def _tendency(state_NQxy: Tensor, spacing: float) -> Tensor:
    along_x = _flux_difference(state_NQxy)
    # Along y the same, with the axes and the two momenta exchanged.
    along_y = _exchange_axes(_flux_difference(_exchange_axes(state_NQxy)))
    return -(along_x + along_y) / spacing


def _exchange_axes(state_NQxy: Tensor) -> Tensor:
    return state_NQxy[:, [0, 2, 1]].transpose(2, 3)


def _flux_difference(state_NQxy: Tensor) -> Tensor:
    """Return the flux out of each cell along x, the first space axis."""
    # Open boundary: the water outside is that of the outermost cell.
    padded = functional.pad(state_NQxy, (0, 0, GHOSTS, GHOSTS), mode="replicate")
    difference = padded[:, :, 1:] - padded[:, :, :-1]
    slope = _limited(difference[:, :, :-1], difference[:, :, 1:])
    inner = padded[:, :, 1:-1]
    left, right = (inner + slope / 2)[:, :, :-1], (inner - slope / 2)[:, :, 1:]
    flux = _hll_flux(left, right)
    return flux[:, :, 1:] - flux[:, :, :-1]


def _limited(a: Tensor, b: Tensor) -> Tensor:
    """Return the monotonized central slope between two one-sided differences (van Leer)."""
    size = torch.minimum((a + b).abs() / 2, 2 * torch.minimum(a.abs(), b.abs()))
    return torch.where(a * b > 0, torch.sign(a) * size, 0.0)


def _hll_flux(left: Tensor, right: Tensor) -> Tensor:
    """Return the flux through faces between two states (N, 3, x, y) (Harten, Lax, van Leer)."""
    u_left, u_right = left[:, 1] / left[:, 0], right[:, 1] / right[:, 0]
    c_left, c_right = left[:, 0].sqrt(), right[:, 0].sqrt()
    slowest = torch.minimum(u_left - c_left, u_right - c_right).clamp(max=0)[:, None]
    fastest = torch.maximum(u_left + c_left, u_right + c_right).clamp(min=0)[:, None]
    jump = slowest * fastest * (right - left)
    weighted = fastest * _flux(left, u_left) - slowest * _flux(right, u_right)
    return (weighted + jump) / (fastest - slowest)


def _flux(state_NQxy: Tensor, u_Nxy: Tensor) -> Tensor:
    h, hu, hv = state_NQxy.unbind(1)
    return torch.stack([hu, hu * u_Nxy + h**2 / 2, hv * u_Nxy], dim=1)
