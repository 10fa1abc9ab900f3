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

from dpot_scale.data.generation.solvers.finite_volume import half_slope

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
    domain_length: ClassVar[tuple[float, ...]] = (5.0, 5.0)
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
        """Return the water depth (N, T, 1, x, y); the first frame is the initial state."""
        radii_N = torch.tensor([self.radius(seed) for seed in seeds], dtype=torch.float64)
        state_NQxy = self.initial_state(radii_N, grid).to(device, torch.float32)
        stored = [state_NQxy[:, :1]]
        for _ in range(frames - 1):
            state_NQxy = self.advance(state_NQxy, frame_interval)
            stored.append(state_NQxy[:, :1])
        return torch.stack(stored, dim=1)

    def drawn(self, seed: int) -> dict[str, float | bytes]:
        """Return what a trajectory draws."""
        return {"radius": self.radius(seed)}

    def radius(self, seed: int) -> float:
        """Draw the dam's radius: the number of the published trajectory of this seed."""
        return float(np.random.RandomState(seed).uniform(self.smallest_radius, self.largest_radius))

    def initial_state(self, radii_N: Tensor, grid: int) -> Tensor:
        """Return (N, 3, x, y) in float64: water at rest, higher within each radius.

        The depth falls linearly over the width of one cell. Where it jumps from cell to cell, as
        in the published data, few states are distinct (24 at 64 x 64, 81 at 128 x 128): test
        trajectories then repeat training trajectories.
        """
        spacing = self.domain_length[0] / grid
        centres = (torch.arange(grid, dtype=torch.float64) + 0.5) * spacing - self.domain_length[
            0
        ] / 2
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
        spacing = self.domain_length[0] / state_NQxy.shape[-1]
        # Behind a dam break the water runs at most at 2 (sqrt(inner) - sqrt(outer)).
        fastest = 3 * math.sqrt(self.inner) - 2 * math.sqrt(self.outer)
        steps = math.ceil(duration * fastest / (COURANT * spacing) - 1e-9)
        dt = duration / max(steps, 1)
        for _ in range(steps):
            predicted = torch.add(state_NQxy, _tendency(state_NQxy, spacing), alpha=dt)
            corrected = predicted.add_(_tendency(predicted, spacing), alpha=dt)
            state_NQxy = corrected.add_(state_NQxy).mul_(0.5)
        return state_NQxy


def _tendency(state_NQxy: Tensor, spacing: float) -> Tensor:
    outflow = _flux_difference(state_NQxy, 2, normal=1, tangential=2)
    outflow += _flux_difference(state_NQxy, 3, normal=2, tangential=1)
    return outflow.mul_(-1 / spacing)


def _flux_difference(state_NQxy: Tensor, dim: int, *, normal: int, tangential: int) -> Tensor:
    """Return the flux out of each cell along the space axis `dim`.

    Args:
        state_NQxy: h, hu, hv.
        dim: 2 for x, 3 for y.
        normal: The number of the momentum along `dim`.
        tangential: That of the other one.
    """
    cells = state_NQxy.shape[dim]
    # Open boundary: the water outside is that of the outermost cell.
    ghosts = (0, 0, GHOSTS, GHOSTS) if dim == 2 else (GHOSTS, GHOSTS, 0, 0)
    padded = functional.pad(state_NQxy, ghosts, mode="replicate")
    difference = padded.diff(dim=dim)
    slope = half_slope(difference.narrow(dim, 0, cells + 2), difference.narrow(dim, 1, cells + 2))
    inner = padded.narrow(dim, 1, cells + 2)
    left = (inner + slope).narrow(dim, 0, cells + 1)
    right = (inner - slope).narrow(dim, 1, cells + 1)
    return _hll_flux(left, right, normal, tangential).diff(dim=dim)


def _hll_flux(left: Tensor, right: Tensor, normal: int, tangential: int) -> Tensor:
    """Return the flux through faces between two states (N, 3, x, y) (Harten, Lax, van Leer).

    With S- and S+ the slowest and the fastest wave, L and R the states and F their fluxes:
    (S+ F(L) - S- F(R) + S- S+ (R - L)) / (S+ - S-).
    """
    h_left, h_right = left[:, 0], right[:, 0]
    u_left, u_right = left[:, normal] / h_left, right[:, normal] / h_right
    c_left, c_right = h_left.sqrt(), h_right.sqrt()
    slowest = torch.minimum(u_left - c_left, u_right - c_right).clamp_(max=0)
    fastest = torch.maximum(u_left + c_left, u_right + c_right).clamp_(min=0)
    width = fastest - slowest
    fastest /= width
    slowest /= width
    diffusion = width.mul_(slowest).mul_(fastest)[:, None]
    flux = (right - left).mul_(diffusion)
    for side, h, u, share, sign in (
        (left, h_left, u_left, fastest, 1),
        (right, h_right, u_right, slowest, -1),
    ):
        carried = share * u
        flux[:, 0].addcmul_(carried, h, value=sign)
        flux[:, normal].addcmul_(carried, side[:, normal], value=sign)
        flux[:, normal].addcmul_(share * h, h, value=sign / 2)
        flux[:, tangential].addcmul_(carried, side[:, tangential], value=sign)
    return flux
