"""Incompressible flow on the unit torus, in vorticity form, as in the FNO datasets.

    w_t + u . grad(w) = viscosity * lap(w) + f,   u = (psi_y, -psi_x),   -lap(psi) = w
    f = 0.1 (sin 2 pi (x + y) + cos 2 pi (x + y))

Pseudo-spectral with the 2/3 rule; viscosity is exact through an integrating factor, advection is
stepped by the classical Runge-Kutta method of order 4.

Legend: N trajectories, T frames, x y points, k l wavenumbers of the half spectrum.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

# Initial law: Gaussian, covariance VARIANCE * 7^3 (-lap + 49)^-2.5. The published files are
# expected to have VARIANCE 2 (standard deviation 0.262): the script of their time doubled it
# unknowingly.
VARIANCE = 2.0
MAX_TIME_STEP = 0.05
# Runge-Kutta 4 is stable up to 2.83 for what oscillates: dt (|u| + |v|) times the largest wave
# number.
ADVECTIVE_LIMIT = 2.7
FASTEST_AT_FIRST = 0.15  # |u| + |v| of the initial law
FORCING = 0.1
FORCED_WAVE_NUMBER = 2 * math.pi * math.sqrt(2)


@dataclass(frozen=True, kw_only=True)
class NavierStokes:
    """Two-dimensional turbulence driven by a large-scale force; frames start at one interval."""

    viscosity: float = 1e-3
    forcing: float = FORCING
    refinement: float = 1  # points of the grid solved on per stored point, along each axis; whole

    equation: ClassVar[str] = "navier_stokes"
    channels: ClassVar[tuple[str, ...]] = ("vorticity",)
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
        """Return the vorticity (N, T, 1, x, y) at times 1, 2, ... frame intervals."""
        solved_on = grid * round(self.refinement)
        initial_Nxy = torch.stack([initial_vorticity(seed, solved_on) for seed in seeds])
        return self.evolve(initial_Nxy.to(device), frames=frames, frame_interval=frame_interval)

    def drawn(self, seed: int) -> dict[str, float | bytes]:
        """Return nothing: a trajectory draws its initial state alone."""
        del seed
        return {}

    def evolve(self, vorticity_Nxy: Tensor, *, frames: int, frame_interval: float) -> Tensor:
        """Return the frames (N, T, 1, x, y) that follow an initial vorticity on a finer grid."""
        grid, every = vorticity_Nxy.shape[-1], round(self.refinement)
        longest_step = min(MAX_TIME_STEP, self.stable_step(grid, frames * frame_interval))
        steps = math.ceil(frame_interval / longest_step - 1e-9)
        stepper = _Stepper(self, grid, frame_interval / steps, vorticity_Nxy)
        w_Nkl = torch.fft.rfft2(vorticity_Nxy)
        stored = []
        for _ in range(frames):
            for _ in range(steps):
                w_Nkl = stepper.step(w_Nkl)
            w_Nxy = torch.fft.irfft2(w_Nkl, s=(grid, grid)).float()
            stored.append(w_Nxy[:, ::every, ::every])
        return torch.stack(stored, dim=1)[:, :, None]

    def stable_step(self, grid: int, duration: float) -> float:
        """Return a time step that is stable for every trajectory until a time.

        The flow is taken to be as fast as the force alone makes it, without turbulence: it grows
        evenly until viscosity balances it. A trajectory must not depend on its neighbours, so the
        step does not follow their velocities.
        """
        growth = 2 * abs(self.forcing) / FORCED_WAVE_NUMBER
        balanced = 1 / max(self.viscosity * FORCED_WAVE_NUMBER**2, 1e-12)
        fastest = FASTEST_AT_FIRST + growth * min(duration, balanced)
        return ADVECTIVE_LIMIT / (fastest * 2 * math.pi * grid / 3)


def initial_vorticity(seed: int, grid: int) -> Tensor:
    """Draw w0 (x, y) from the published law, with zero mean.

    The real part of sum_k a_k xi_k exp(2 pi i k.x), with real and imaginary part of each xi_k
    standard normal: its variance is the sum of a_k^2.
    """
    k = np.fft.fftfreq(grid, 1 / grid)
    square = 4 * np.pi**2 * (k[:, None] ** 2 + k[None, :] ** 2)
    amplitude = math.sqrt(VARIANCE * 7**3) * (square + 49.0) ** -1.25
    amplitude[0, 0] = 0.0
    real, imaginary = np.random.default_rng(seed).standard_normal((2, grid, grid))
    series = np.fft.ifft2(amplitude * (real + 1j * imaginary)) * grid**2
    return torch.from_numpy(series.real.astype(np.float32))


class _Stepper:
    """One time step of fixed length on a fixed grid."""

    def __init__(self, equation: NavierStokes, grid: int, dt: float, like: Tensor) -> None:
        self.grid = grid
        self.dt = dt
        options: dict[str, Any] = {"device": like.device, "dtype": like.dtype}
        kx = 2 * torch.pi * torch.fft.fftfreq(grid, 1 / grid, **options)[:, None]
        ky = 2 * torch.pi * torch.fft.rfftfreq(grid, 1 / grid, **options)[None, :]
        laplacian = kx**2 + ky**2
        self.decay_half = torch.exp(-equation.viscosity * laplacian * dt / 2)
        inverse = torch.where(laplacian > 0, 1 / laplacian.clamp(min=1), 0.0)
        cutoff = 2 * torch.pi * grid / 3
        dealias = ((kx.abs() < cutoff) & (ky.abs() < cutoff)).to(like.dtype)
        self.velocity_2kl = dealias * torch.stack([1j * ky * inverse, -1j * kx * inverse])
        # From the products u v and v^2 - u^2 to minus the advection u . grad(w).
        self.advection_2kl = dealias * torch.stack([kx**2 - ky**2, kx * ky])
        x = torch.arange(grid, **options) / grid
        phase = 2 * torch.pi * (x[:, None] + x[None, :])
        self.force = torch.fft.rfft2(equation.forcing * (torch.sin(phase) + torch.cos(phase)))

    def step(self, w_Nkl: Tensor) -> Tensor:
        """Advance by dt: Runge-Kutta 4 on exp(viscosity |k|^2 t) w."""
        dt, half = self.dt, self.decay_half
        a = self._tendency(w_Nkl)
        b = self._tendency(half * (w_Nkl + dt / 2 * a))
        c = self._tendency(half * w_Nkl + dt / 2 * b)
        d = self._tendency(half * (half * w_Nkl + dt * c))
        return half * (half * (w_Nkl + dt / 6 * a) + dt / 3 * (b + c)) + dt / 6 * d

    def _tendency(self, w_Nkl: Tensor) -> Tensor:
        """Return forcing minus advection, dealiased.

        u . grad(w) = (d_xx - d_yy)(u v) + d_xy (v^2 - u^2) for a flow without divergence: four
        transforms where u, v and the gradient of w take five (Basdevant 1983).
        """
        size = (self.grid, self.grid)
        u, v = torch.fft.irfft2(self.velocity_2kl[:, None] * w_Nkl, s=size)
        products = torch.fft.rfft2(torch.stack([u * v, v * v - u * u]))
        tendency: Tensor = torch.addcmul(
            self.force + products[0] * self.advection_2kl[0], products[1], self.advection_2kl[1]
        )
        return tendency
