"""Smoke that rises in a closed box, as in PDEArena.

    s_t + v . grad(s) = 0,   v_t + v . grad(v) = -grad(p) + viscosity lap(v) + b s e_y,   div(v) = 0

on a square of edge 32 with walls, where v is zero. Semi-Lagrangian advection, one explicit step of
viscosity, and a projection, each first order in time, as the published data are made: at their
long time step another scheme would be another dataset.

Smoke is at cell centres, the velocities at the faces of the cells. Stored is the velocity at the
lower face of each cell; that of the last wall is zero and left out.

Legend: N trajectories, T frames, x y cells, X Y faces (one more than cells).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dpot_scale.data.generation.solvers.poisson import Poisson

LARGEST_TIME_STEP = 1.5
# Of viscosity dt / spacing^2, where explicit viscosity ends to be stable; met beyond 128 cells.
VISCOUS_LIMIT = 0.25
# Waves of the initial smoke; their amplitudes fall as |m|^-12, so that in effect those with
# |m| = 1 are seen.
LARGEST_WAVE_NUMBER = 3


class State(NamedTuple):
    """Smoke at the centres, velocities at the faces, those at the walls among them."""

    smoke_Nxy: Tensor
    vx_NXy: Tensor
    vy_NxY: Tensor

    def channels(self) -> Tensor:
        """Return what is stored (N, 3, x, y)."""
        return torch.stack([self.smoke_Nxy, self.vx_NXy[:, :-1], self.vy_NxY[..., :-1]], dim=1)


@dataclass(frozen=True, kw_only=True)
class Smoke:
    """Buoyant smoke; each trajectory has a buoyancy between two bounds."""

    smallest_buoyancy: float = 0.5
    largest_buoyancy: float = 0.5
    viscosity: float = 0.01
    start: float = 13.5  # time of the first frame

    equation: ClassVar[str] = "smoke"
    channels: ClassVar[tuple[str, ...]] = ("smoke", "vx", "vy")
    boundary: ClassVar[str] = "walls"
    domain_length: ClassVar[tuple[float, ...]] = (32.0, 32.0)
    staggering: ClassVar[str] = "smoke at cell centres, vx and vy at the lower faces of the cells"

    def solve(
        self,
        seeds: Sequence[int],
        *,
        grid: int,
        frames: int,
        frame_interval: float,
        device: torch.device,
    ) -> Tensor:
        """Return smoke, vx, vy (N, T, 3, x, y); the first frame is at time `start`."""
        smoke_Nxy = torch.stack([initial_smoke(seed, grid) for seed in seeds])
        smoke_Nxy = smoke_Nxy.to(device, torch.float32)
        buoyancy_N = torch.tensor([self.buoyancy(seed) for seed in seeds], device=device)
        state = at_rest(smoke_Nxy)
        duration, stored = self.start, []
        for _ in range(frames):
            state = self.advance(state, buoyancy_N, duration)
            duration = frame_interval
            stored.append(state.channels())
        return torch.stack(stored, dim=1)

    def drawn(self, seed: int) -> dict[str, float | bytes]:
        """Return what a trajectory draws beside its initial state."""
        return {"buoyancy": self.buoyancy(seed)}

    def buoyancy(self, seed: int) -> float:
        """Draw the buoyancy of a trajectory."""
        random = np.random.default_rng([seed, 1])  # not the numbers of its smoke
        return float(random.uniform(self.smallest_buoyancy, self.largest_buoyancy))

    def advance(self, state: State, buoyancy_N: Tensor, duration: float) -> State:
        """Return the state a duration later."""
        grid = state.smoke_Nxy.shape[-1]
        spacing = self.domain_length[0] / grid
        viscous_step = VISCOUS_LIMIT * spacing**2 / max(self.viscosity, 1e-12)
        steps = math.ceil(duration / min(LARGEST_TIME_STEP, viscous_step) - 1e-9)
        dt = duration / max(steps, 1)
        poisson = Poisson(
            (grid, grid),
            (spacing, spacing),
            along_x="closed",
            along_y="closed",
            like=state.smoke_Nxy,
        )
        for _ in range(steps):
            state = self._step(state, buoyancy_N[:, None, None], dt, spacing, poisson)
        return state

    def _step(
        self, state: State, buoyancy_N11: Tensor, dt: float, spacing: float, poisson: Poisson
    ) -> State:
        shift = dt / spacing  # from velocities to cells
        smoke_Nxy, vx_NXy, vy_NxY = state
        vx_at_centres = (vx_NXy[:, 1:] + vx_NXy[:, :-1]) / 2
        vy_at_centres = (vy_NxY[..., 1:] + vy_NxY[..., :-1]) / 2
        smoke = carried(smoke_Nxy, shift * vx_at_centres, shift * vy_at_centres, "border")
        # Only the faces inside the box: the walls have no velocity.
        vx_at_vy = (vx_at_centres[..., 1:] + vx_at_centres[..., :-1]) / 2
        vy_at_vx = (vy_at_centres[:, 1:] + vy_at_centres[:, :-1]) / 2
        vx, vy = torch.zeros_like(vx_NXy), torch.zeros_like(vy_NxY)
        vx_inside, vy_inside = vx_NXy[:, 1:-1], vy_NxY[..., 1:-1]
        vx[:, 1:-1] = carried(vx_inside, shift * vx_inside, shift * vy_at_vx, "zeros")
        vy[..., 1:-1] = carried(vy_inside, shift * vx_at_vy, shift * vy_inside, "zeros")
        vy[..., 1:-1] += dt * buoyancy_N11 * (smoke[..., 1:] + smoke[..., :-1]) / 2
        diffusion = self.viscosity * dt / spacing**2
        vx[:, 1:-1] += diffusion * _laplacian(vx[:, 1:-1])
        vy[..., 1:-1] += diffusion * _laplacian(vy[..., 1:-1])
        return State(smoke, *without_divergence(vx, vy, spacing, poisson))


def at_rest(smoke_Nxy: Tensor) -> State:
    """Return smoke that does not move yet."""
    count, grid = smoke_Nxy.shape[:2]
    return State(
        smoke_Nxy,
        smoke_Nxy.new_zeros(count, grid + 1, grid),
        smoke_Nxy.new_zeros(count, grid, grid + 1),
    )


def initial_smoke(seed: int, grid: int) -> Tensor:
    """Draw smoke (x, y): the absolute value of a random wave of zero mean and unit deviation."""
    m = np.arange(-LARGEST_WAVE_NUMBER, LARGEST_WAVE_NUMBER + 1)
    square_mn = (m[:, None] ** 2 + m[None, :] ** 2).astype(float)
    amplitude_mn = np.where(square_mn > 0, np.maximum(square_mn, 1) ** -6.0, 0)
    real, imaginary = np.random.default_rng(seed).standard_normal((2, *square_mn.shape))
    wave_mx = np.exp(2j * np.pi * np.outer(m, (np.arange(grid) + 0.5) / grid))
    field_xy = (wave_mx.T @ (amplitude_mn * (real + 1j * imaginary)) @ wave_mx).real
    return torch.from_numpy(np.abs((field_xy - field_xy.mean()) / field_xy.std()))


def carried(field_Nxy: Tensor, shift_x: Tensor, shift_y: Tensor, outside: str) -> Tensor:
    """Return the values of a field where the flow was a step before, linear between the points.

    Args:
        field_Nxy: The field.
        shift_x: How far the flow goes along x in a step, in points.
        shift_y: The same along y.
        outside: "border" continues the outermost values, "zeros" puts zeros around the field.
    """
    points_x, points_y = field_Nxy.shape[1:]
    x = torch.arange(points_x, device=field_Nxy.device, dtype=field_Nxy.dtype)[:, None] - shift_x
    y = torch.arange(points_y, device=field_Nxy.device, dtype=field_Nxy.dtype) - shift_y
    # From -1 to 1 between the outermost points, the last axis first.
    where = torch.stack([2 * y / (points_y - 1) - 1, 2 * x / (points_x - 1) - 1], dim=-1)
    found = functional.grid_sample(
        field_Nxy[:, None], where, mode="bilinear", padding_mode=outside, align_corners=True
    )
    return found[:, 0]


def without_divergence(
    vx_NXy: Tensor, vy_NxY: Tensor, spacing: float, poisson: Poisson
) -> tuple[Tensor, Tensor]:
    """Return the velocities minus a gradient that does not change them at the walls."""
    divergence_Nxy = (vx_NXy.diff(dim=1) + vy_NxY.diff(dim=2)) / spacing
    pressure_Nxy = poisson.solve(divergence_Nxy)
    vx_NXy[:, 1:-1] -= pressure_Nxy.diff(dim=1) / spacing
    vy_NxY[..., 1:-1] -= pressure_Nxy.diff(dim=2) / spacing
    return vx_NXy, vy_NxY


def _laplacian(field_Nxy: Tensor) -> Tensor:
    """Return the sum of the four neighbours, zero outside, minus four times the value."""
    padded = functional.pad(field_Nxy, (1, 1, 1, 1))
    across_x = padded[:, 2:, 1:-1] + padded[:, :-2, 1:-1]
    across_y = padded[:, 1:-1, 2:] + padded[:, 1:-1, :-2]
    return across_x + across_y - 4 * field_Nxy
