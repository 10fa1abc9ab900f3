"""Laminar flow between walls, with or without an obstacle, on a staggered grid.

    v_t + v . grad(v) = -grad(p) + viscosity lap(v),   div(v) = 0

in a rectangle. Above and below are walls without slip; the upper one may move along itself. On the
left and right are walls too, or an inlet of uniform velocity 1 and an outlet of zero pressure.

Finite volumes around the faces of the cells; upwind fluxes of second order with monotonized central
slopes; central differences for viscosity; Heun's method with a projection after each stage. At the
faces within an obstacle the velocity is set to zero before each projection. Each trajectory has its
own time step.

Legend: N trajectories, x y cells, X Y faces (one more than cells).
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from dpot_scale.data.generation.solvers.finite_volume import half_slope
from dpot_scale.data.generation.solvers.poisson import Poisson

# Of the cells that the fastest flow crosses along both axes together in a step.
COURANT = 0.5
# Of the longest stable step of explicit viscosity.
VISCOUS_LIMIT = 0.8
GHOSTS = 2


class Velocity(NamedTuple):
    """Velocities at the faces of the cells, those at the outer walls among them."""

    u_NXy: Tensor
    v_NxY: Tensor

    def at_centres(self) -> Tensor:
        """Return u and v (N, 2, x, y)."""
        u_Nxy = (self.u_NXy[:, 1:] + self.u_NXy[:, :-1]) / 2
        v_Nxy = (self.v_NxY[..., 1:] + self.v_NxY[..., :-1]) / 2
        return torch.stack([u_Nxy, v_Nxy], dim=1)


@dataclass(frozen=True, kw_only=True)
class Vessel:
    """What the fluid flows in.

    Args:
        size: Length along x and height along y.
        viscosity_N: Kinematic, of each trajectory.
        solid_Nxy: True in the cells of an obstacle.
        is_open: Whether there are an inlet and an outlet.
        lid_speed: The speed of the upper wall.
    """

    size: tuple[float, float]
    viscosity_N: Tensor
    solid_Nxy: Tensor
    is_open: bool
    lid_speed: float = 0.0

    @property
    def spacing(self) -> tuple[float, float]:
        """Length and height of a cell."""
        cells_x, cells_y = self.solid_Nxy.shape[1:]
        return self.size[0] / cells_x, self.size[1] / cells_y

    def at_rest(self) -> Velocity:
        """Return the flow before the lid moves, or anything flows in."""
        count, cells_x, cells_y = self.solid_Nxy.shape
        zeros = self.viscosity_N.new_zeros
        return Velocity(zeros(count, cells_x + 1, cells_y), zeros(count, cells_x, cells_y + 1))

    def of(self, rows_N: Tensor) -> "Vessel":
        """Return the vessel of some of the trajectories."""
        return Vessel(
            size=self.size,
            viscosity_N=self.viscosity_N[rows_N],
            solid_Nxy=self.solid_Nxy[rows_N],
            is_open=self.is_open,
            lid_speed=self.lid_speed,
        )


def advance(velocity: Velocity, vessel: Vessel, duration_N: Tensor) -> Velocity:
    """Return the flow after each trajectory's duration."""
    u_NXy, v_NxY = (field.clone() for field in velocity)
    poisson = Poisson(
        (v_NxY.shape[1], u_NXy.shape[2]),
        vessel.spacing,
        along_x="open" if vessel.is_open else "closed",
        along_y="closed",
        like=u_NXy,
    )
    remaining_N = duration_N.double()
    while (running_N := (remaining_N > 1e-12 * duration_N).nonzero()[:, 0]).numel():
        some, part = Velocity(u_NXy[running_N], v_NxY[running_N]), vessel.of(running_N)
        left_N = remaining_N[running_N]
        dt_N = left_N / (left_N / _longest_step(some, part)).ceil()
        u_NXy[running_N], v_NxY[running_N] = _step(some, part, dt_N, poisson)
        remaining_N[running_N] -= dt_N
    return Velocity(u_NXy, v_NxY)


def _longest_step(velocity: Velocity, vessel: Vessel) -> Tensor:
    dx, dy = vessel.spacing
    # What comes in, or is dragged along, is there from the first step on.
    u_N = velocity.u_NXy.abs().amax((1, 2)).clamp(min=1.0)
    rate_N = u_N / dx + velocity.v_NxY.abs().amax((1, 2)) / dy
    viscous_rate_N = vessel.viscosity_N * 2 * (dx**-2 + dy**-2)
    return torch.minimum(COURANT / rate_N, VISCOUS_LIMIT / viscous_rate_N).double()


def _step(velocity: Velocity, vessel: Vessel, dt_N: Tensor, poisson: Poisson) -> Velocity:
    dt_N11 = dt_N.to(velocity.u_NXy.dtype)[:, None, None]

    def euler(start: Velocity) -> Velocity:
        du, dv = _tendency(start, vessel)
        return Velocity(start.u_NXy + dt_N11 * du, start.v_NxY + dt_N11 * dv)

    first = _projected(euler(velocity), vessel, poisson)
    second = euler(first)
    mean = Velocity(*((a + b) / 2 for a, b in zip(velocity, second, strict=True)))
    return _projected(mean, vessel, poisson)


def _projected(velocity: Velocity, vessel: Vessel, poisson: Poisson) -> Velocity:
    """Return the velocity with its values at walls and in obstacles, and without divergence."""
    dx, dy = vessel.spacing
    u_NXy, v_NxY = velocity
    fluid_Nxy = (~vessel.solid_Nxy).to(u_NXy.dtype)
    # A face belongs to the obstacle if one of its two cells does.
    u_NXy[:, 1:-1] *= fluid_Nxy[:, 1:] * fluid_Nxy[:, :-1]
    v_NxY[..., 1:-1] *= fluid_Nxy[..., 1:] * fluid_Nxy[..., :-1]
    u_NXy[:, 0] = 1.0 if vessel.is_open else 0.0
    v_NxY[..., 0] = v_NxY[..., -1] = 0.0
    if not vessel.is_open:
        u_NXy[:, -1] = 0.0
    pressure_Nxy = poisson.solve(u_NXy.diff(dim=1) / dx + v_NxY.diff(dim=2) / dy)
    u_NXy[:, 1:-1] -= pressure_Nxy.diff(dim=1) / dx
    v_NxY[..., 1:-1] -= pressure_Nxy.diff(dim=2) / dy
    if vessel.is_open:
        u_NXy[:, -1] += 2 * pressure_Nxy[:, -1] / dx  # the pressure is zero half a cell further
    return Velocity(u_NXy, v_NxY)


def _tendency(velocity: Velocity, vessel: Vessel) -> Velocity:
    """Return advection and viscosity at all faces; what walls prescribe is set later."""
    u, v = _with_ghosts(velocity, vessel)
    inside, nearly = slice(GHOSTS, -GHOSTS), slice(GHOSTS - 1, 1 - GHOSTS)
    # Velocities at the faces of the volumes around the faces: cell centres and cell corners.
    u_at_centres, u_at_corners = _mean(u[:, nearly, inside], 1), _mean(u[:, inside, nearly], 2)
    v_at_corners, v_at_centres = _mean(v[:, nearly, inside], 1), _mean(v[:, inside, nearly], 2)
    return Velocity(
        _transport(u, u_at_centres, v_at_corners, vessel),
        _transport(v, u_at_corners, v_at_centres, vessel),
    )


def _mean(field: Tensor, dim: int) -> Tensor:
    points = field.shape[dim] - 1
    return (field.narrow(dim, 0, points) + field.narrow(dim, 1, points)).mul_(0.5)


def _with_ghosts(velocity: Velocity, vessel: Vessel) -> Velocity:
    """Return the velocities with two points more on each side.

    Beyond a wall the velocity along it is opposite, relative to the wall; what flows out goes on
    as it is.
    """
    u, v = velocity
    below, above = -u[..., :1], 2 * vessel.lid_speed - u[..., -1:]
    u = torch.cat([below, below, u, above, above], dim=2)
    u = functional.pad(u[:, None], (0, 0, GHOSTS, GHOSTS), mode="replicate")[:, 0]
    before, after = -v[:, :1], v[:, -1:] if vessel.is_open else -v[:, -1:]
    v = torch.cat([before, before, v, after, after], dim=1)
    v = functional.pad(v[:, None], (GHOSTS, GHOSTS, 0, 0), mode="replicate")[:, 0]
    return Velocity(u, v)


def _transport(padded: Tensor, across_x: Tensor, across_y: Tensor, vessel: Vessel) -> Tensor:
    """Return viscosity lap(q) - div(v q) of a padded field, given v at the faces of its volumes."""
    inside = slice(GHOSTS, -GHOSTS)
    dx, dy = vessel.spacing
    inflow_x = _inflow(padded[:, :, inside], across_x, vessel.viscosity_N, dx, 1)
    inflow_y = _inflow(padded[:, inside], across_y, vessel.viscosity_N, dy, 2)
    return inflow_x.add_(inflow_y)


def _inflow(field: Tensor, across: Tensor, viscosity_N: Tensor, spacing: float, dim: int) -> Tensor:
    """Return what an axis brings into each volume, of a field with ghosts along that axis."""
    volumes = field.shape[dim] - 2
    step = field.diff(dim=dim)
    slope = half_slope(step.narrow(dim, 0, volumes), step.narrow(dim, 1, volumes))
    inner = field.narrow(dim, 1, volumes)
    upwind = torch.where(
        across > 0,
        (inner + slope).narrow(dim, 0, volumes - 1),
        (inner - slope).narrow(dim, 1, volumes - 1),
    )
    gradient = step.narrow(dim, 1, volumes - 1) / spacing
    flux = viscosity_N[:, None, None] * gradient - across * upwind
    return flux.diff(dim=dim).div_(spacing)
