"""The Euler equations of a gas in a periodic box: one step of the MUSCL-Hancock scheme.

    rho_t + div(rho v) = 0,   (rho v)_t + div(rho v v) + grad p = 0,   E_t + div((E + p) v) = 0
    E = p / (gamma - 1) + rho |v|^2 / 2,   gamma = 5/3

Monotonized central slopes of the primitive variables, half a step of each cell by itself, then the
HLLC flux through all its faces at once (Toro, Riemann Solvers and Numerical Methods, 10.4, 14.4).

Legend: N trajectories, Q the conserved rho, rho v, E or the primitive rho, v, p; the space axes are
written as _.
"""

import torch
from torch import Tensor

from dpot_scale.data.generation.solvers.finite_volume import half_slope
from dpot_scale.data.generation.solvers.random_fields import GAMMA

SMALLEST_DENSITY = 1e-4
SMALLEST_PRESSURE = 1e-4


def conserved(primitive_NQ: Tensor) -> Tensor:
    """Return rho, rho v, E of rho, v, p."""
    density, velocity, pressure = split(primitive_NQ)
    kinetic = density * velocity.square().sum(1, keepdim=True) / 2
    return torch.cat([density, density * velocity, pressure / (GAMMA - 1) + kinetic], dim=1)


def primitive(state_NQ: Tensor) -> Tensor:
    """Return rho, v, p of rho, rho v, E; density and pressure have a floor."""
    density, momentum, energy = split(state_NQ)
    density = density.clamp(min=SMALLEST_DENSITY)
    velocity = momentum / density
    kinetic = (momentum * velocity).sum(1, keepdim=True) / 2
    pressure = ((GAMMA - 1) * (energy - kinetic)).clamp_(min=SMALLEST_PRESSURE)
    return torch.cat([density, velocity, pressure], dim=1)


def split(state_NQ: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return what belongs to mass, to momentum and to energy, each with a channel axis."""
    return state_NQ[:, :1], state_NQ[:, 1:-1], state_NQ[:, -1:]


def per_trajectory(values_N: Tensor, like: Tensor) -> Tensor:
    """Return a value per trajectory in the type of a state, to multiply it with."""
    return values_N.to(like.dtype).reshape(-1, *[1] * (like.ndim - 1))


def signal_rate(primitive_NQ: Tensor, spacing: float) -> Tensor:
    """Return (N) the fastest rate, in cells per time, at which signals cross a cell."""
    density, velocity, pressure = split(primitive_NQ)
    sound = (GAMMA * pressure / density).sqrt_()
    rate = velocity.abs().sum(1, keepdim=True).add_(sound, alpha=velocity.shape[1])
    return rate.flatten(1).amax(1).double() / spacing


def advected(state_NQ: Tensor, primitive_NQ: Tensor, dt_per_spacing_N: Tensor) -> Tensor:
    """Return the state after a step of the Euler equations."""
    ratio = per_trajectory(dt_per_spacing_N, state_NQ)
    dims = range(2, state_NQ.ndim)
    slopes = [_slope(primitive_NQ, dim) for dim in dims]
    middle = primitive_NQ.clone()  # in the middle of the step
    for axis, slope in enumerate(slopes):
        middle -= ratio * _transport(primitive_NQ, slope, axis)
    after = state_NQ.clone()
    for axis, (dim, slope) in enumerate(zip(dims, slopes, strict=True)):
        left = _floored(middle + slope)
        right = _floored(middle - slope).roll(-1, dim)
        flux = _hllc_flux(left, right, axis)
        after -= ratio * (flux - flux.roll(1, dim))
    return after


def _slope(primitive_NQ: Tensor, dim: int) -> Tensor:
    """Return half the limited difference across each cell."""
    ahead = primitive_NQ.roll(-1, dim).sub_(primitive_NQ)
    return half_slope(ahead.roll(1, dim), ahead)


def _transport(primitive_NQ: Tensor, slope_NQ: Tensor, axis: int) -> Tensor:
    """Return what an axis adds to the quasilinear equations, A(W) W_a with W_a a slope."""
    density, velocity, pressure = split(primitive_NQ)
    compression = slope_NQ[:, 1 + axis]
    change = velocity[:, axis, None] * slope_NQ
    change[:, 0].addcmul_(density[:, 0], compression)
    change[:, 1 + axis].addcdiv_(slope_NQ[:, -1], density[:, 0])
    change[:, -1].addcmul_(pressure[:, 0], compression, value=GAMMA)
    return change


def _floored(primitive_NQ: Tensor) -> Tensor:
    primitive_NQ[:, 0].clamp_(min=SMALLEST_DENSITY)
    primitive_NQ[:, -1].clamp_(min=SMALLEST_PRESSURE)
    return primitive_NQ


def _hllc_flux(left_NQ: Tensor, right_NQ: Tensor, axis: int) -> Tensor:
    """Return the flux of rho, rho v, E through faces between primitive states (Toro 10.4).

    The contact wave moves at S*; the flux is F(K) + S (U* - U(K)) with K the state on the side that
    the contact leaves behind, and S the outer wave of that side, if it goes to the other side.
    """
    density_l, normal_l, pressure_l = left_NQ[:, 0], left_NQ[:, 1 + axis], left_NQ[:, -1]
    density_r, normal_r, pressure_r = right_NQ[:, 0], right_NQ[:, 1 + axis], right_NQ[:, -1]
    sound_l = (GAMMA * pressure_l / density_l).sqrt_()
    sound_r = (GAMMA * pressure_r / density_r).sqrt_()
    slowest = torch.minimum(normal_l - sound_l, normal_r - sound_r)
    fastest = torch.maximum(normal_l + sound_l, normal_r + sound_r)
    mass_l = density_l * (slowest - normal_l)  # negative
    mass_r = density_r * (fastest - normal_r)
    contact = pressure_r - pressure_l + mass_l * normal_l - mass_r * normal_r
    contact /= mass_l - mass_r
    from_left = contact >= 0
    state_NQ = torch.where(from_left[:, None], left_NQ, right_NQ)
    wave = torch.where(from_left, slowest, fastest)
    outward = torch.where(from_left, slowest.clamp(max=0), fastest.clamp(min=0))
    return _one_sided_flux(state_NQ, axis, contact, wave, outward)


def _one_sided_flux(
    state_NQ: Tensor, axis: int, contact: Tensor, wave: Tensor, outward: Tensor
) -> Tensor:
    """Return F(K) + outward (U* - U(K)) for a primitive state K and its outer wave."""
    density, normal, pressure = state_NQ[:, 0], state_NQ[:, 1 + axis], state_NQ[:, -1]
    conserved_NQ = conserved(state_NQ)
    mass = density * (wave - normal)
    star = state_NQ.clone()
    star[:, 0] = 1
    star[:, 1 + axis] = contact
    star[:, -1] = conserved_NQ[:, -1] / density + (contact - normal) * (contact + pressure / mass)
    star *= (mass / (wave - contact))[:, None]
    flux = star.sub_(conserved_NQ).mul_(outward[:, None])
    flux += normal[:, None] * conserved_NQ
    flux[:, 1 + axis] += pressure
    flux[:, -1] += pressure * normal
    return flux
