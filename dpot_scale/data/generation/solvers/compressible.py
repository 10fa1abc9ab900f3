"""Compressible flow in a periodic box, in two and three dimensions, as in PDEBench.

    rho_t + div(rho v) = 0
    (rho v)_t + div(rho v v) + grad p = viscous force
    E_t + div((E + p) v) = viscous work,    E = p / (gamma - 1) + rho |v|^2 / 2,   gamma = 5/3

The viscosity is not that of the textbook: eta and zeta are kinematic, each component of the
velocity diffuses by itself, and heat is not conducted. Component c gains, from each axis a,

    d_a(kappa rho d_a v_c),   kappa = eta + eta/3 + zeta where a = c, else eta,

and E gains the sum of d_a(kappa rho d_a v_c^2 / 2).

Each step of the scheme in `euler.py` is followed by one of viscosity, by the
Runge-Kutta-Legendre method of first order (Meyer, Balsara and Aslam 2014), whose s stages reach
(s^2 + s) / 2 times as far as one explicit step. Each trajectory has its own time step.

Legend: N trajectories, T frames, Q the conserved rho, rho v, E or the primitive rho, v, p, C the
stored channels; the space axes are written as _.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dpot_scale.data.generation.solvers.euler import (
    advected,
    conserved,
    per_trajectory,
    primitive,
    signal_rate,
    split,
)
from dpot_scale.data.generation.solvers.random_fields import random_flow, turbulent_flow

# Of the sum over the axes of (speed + sound) dt / dx, which must stay below 1.
COURANT = 0.5
# Of an explicit viscous step at equal densities: it must hold where they differ by a shock.
VISCOUS_LIMIT = 0.6
MAX_STAGES = 20


@dataclass(frozen=True, kw_only=True)
class Compressible:
    """Random velocity, density and pressure, in half of the trajectories only inside a box."""

    mach: float = 1.0
    eta: float = 0.1  # shear viscosity
    zeta: float = 0.1  # bulk viscosity

    equation: ClassVar[str] = "compressible"
    channels: ClassVar[tuple[str, ...]] = ("vx", "vy", "density", "pressure")
    boundary: ClassVar[str] = "periodic"
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
        """Return the channels (N, T, C, _); the first frame is the initial state."""
        primitive_NQ = torch.stack([self.initial_state(seed, grid) for seed in seeds])
        state_NQ = conserved(primitive_NQ.to(device, torch.float32))
        stored = [self._channels(state_NQ)]
        for _ in range(frames - 1):
            state_NQ = self.advance(state_NQ, frame_interval)
            stored.append(self._channels(state_NQ))
        return torch.stack(stored, dim=1)

    def drawn(self, seed: int) -> dict[str, float | bytes]:
        """Return nothing: a trajectory draws its initial state alone."""
        del seed
        return {}

    def initial_state(self, seed: int, grid: int) -> Tensor:
        """Draw density, velocity and pressure (Q, _) in float64."""
        return torch.from_numpy(random_flow(seed, grid, self.space_dims, mach=self.mach))

    def advance(self, state_NQ: Tensor, duration: float) -> Tensor:
        """Return the conserved state a duration later."""
        spacing = self.domain_length[0] / state_NQ.shape[-1]
        stages = self._stages(spacing)
        viscous_limit = max(1, stages * (stages + 1) / 2) * self._explicit_limit(spacing)
        state_NQ = state_NQ.clone()
        remaining_N = torch.full((len(state_NQ),), duration, device=state_NQ.device).double()
        while (running_N := (remaining_N > 1e-12 * duration).nonzero()[:, 0]).numel():
            some_NQ, left_N = state_NQ[running_N], remaining_N[running_N]
            primitive_NQ = primitive(some_NQ)
            longest_N = (COURANT / signal_rate(primitive_NQ, spacing)).clamp(max=viscous_limit)
            dt_N = left_N / (left_N / longest_N).ceil()
            some_NQ = advected(some_NQ, primitive_NQ, dt_N / spacing)
            if stages:
                some_NQ = self._diffused(some_NQ, dt_N, spacing, stages)
            state_NQ[running_N] = some_NQ
            remaining_N[running_N] -= dt_N
        return state_NQ

    @property
    def space_dims(self) -> int:
        """2 or 3."""
        return len(self.domain_length)

    def _explicit_limit(self, spacing: float) -> float:
        """Return the longest stable step of explicit viscosity, infinite without viscosity."""
        diffusion = self.space_dims * self.eta + self.eta / 3 + self.zeta
        return VISCOUS_LIMIT * spacing**2 / (2 * diffusion) if diffusion else math.inf

    def _stages(self, spacing: float) -> int:
        """Return the stages of a viscous step that is about as long as a step of advection.

        They follow from the parameters alone: a trajectory must not depend on its neighbours.
        """
        if not (self.eta or self.zeta):
            return 0
        typical_speed = 3 * (1 + self.mach)
        advective_step = COURANT * spacing / (self.space_dims * typical_speed)
        ratio = advective_step / self._explicit_limit(spacing)
        return min(MAX_STAGES, math.ceil((math.sqrt(1 + 8 * ratio) - 1) / 2))

    def _diffused(self, state_NQ: Tensor, dt_N: Tensor, spacing: float, stages: int) -> Tensor:
        """Return the state after a viscous step; density stays."""
        share = 2 / (stages**2 + stages)
        step = per_trajectory(dt_N, state_NQ) * share
        before, now = state_NQ, state_NQ + step * self._viscous(state_NQ, spacing)
        for j in range(2, stages + 1):
            weight = (2 * j - 1) / j
            after = weight * (now + step * self._viscous(now, spacing)) + (1 - weight) * before
            before, now = now, after
        return now

    def _viscous(self, state_NQ: Tensor, spacing: float) -> Tensor:
        density_N1, momentum, _ = split(state_NQ)
        velocity = momentum / density_N1
        change = torch.zeros_like(state_NQ)
        for axis in range(self.space_dims):
            dim = axis + 2
            kappa = state_NQ.new_full((self.space_dims,), self.eta)
            kappa[axis] += self.eta / 3 + self.zeta
            ahead = velocity.roll(-1, dim)
            density_at_face = (density_N1 + density_N1.roll(-1, dim)) / 2
            stress = _per_channel(kappa, velocity) * density_at_face * (ahead - velocity)
            work = (stress * (ahead + velocity)).sum(1, keepdim=True) / 2
            inflow = torch.cat([stress, work], dim=1)
            change[:, 1:] += inflow - inflow.roll(1, dim)
        return change / spacing**2

    def _channels(self, state_NQ: Tensor) -> Tensor:
        density, velocity, pressure = split(primitive(state_NQ))
        order = [density, pressure] if self.space_dims == 2 else [pressure, density]
        return torch.cat([velocity, *order], dim=1)


@dataclass(frozen=True, kw_only=True)
class CompressibleTurbulence(Compressible):
    """A random flow without divergence, at uniform density and pressure; hardly viscous."""

    eta: float = 1e-8
    zeta: float = 1e-8

    equation: ClassVar[str] = "compressible_turbulence"

    def initial_state(self, seed: int, grid: int) -> Tensor:
        """Draw density, velocity and pressure (Q, _) in float64."""
        return torch.from_numpy(turbulent_flow(seed, grid, self.space_dims, mach=self.mach))


@dataclass(frozen=True, kw_only=True)
class Compressible3D(Compressible):
    """Random velocity, density and pressure in a cube; hardly viscous."""

    eta: float = 1e-8
    zeta: float = 1e-8

    equation: ClassVar[str] = "compressible_3d"
    channels: ClassVar[tuple[str, ...]] = ("vx", "vy", "vz", "pressure", "density")
    domain_length: ClassVar[tuple[float, ...]] = (1.0, 1.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class CompressibleTurbulence3D(CompressibleTurbulence):
    """A random flow without divergence in a cube, at uniform density and pressure."""

    equation: ClassVar[str] = "compressible_turbulence_3d"
    channels: ClassVar[tuple[str, ...]] = Compressible3D.channels
    domain_length: ClassVar[tuple[float, ...]] = (1.0, 1.0, 1.0)


def _per_channel(values_Q: Tensor, like: Tensor) -> Tensor:
    return values_Q.reshape(-1, *[1] * (like.ndim - 2))
