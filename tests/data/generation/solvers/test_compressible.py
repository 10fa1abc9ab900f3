"""Compressible flow: exact solutions, orders of convergence, conservation, the initial laws."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from dpot_scale.data.generation.solvers.compressible import (
    Compressible,
    Compressible3D,
    CompressibleTurbulence,
    CompressibleTurbulence3D,
)
from dpot_scale.data.generation.solvers.euler import conserved, primitive, signal_rate
from dpot_scale.data.generation.solvers.random_fields import GAMMA

CPU = torch.device("cpu")
INVISCID = Compressible(eta=0.0, zeta=0.0)


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def centres(grid: int) -> Tensor:
    return (torch.arange(grid, dtype=torch.float64) + 0.5) / grid


def state_of(density: Tensor, vx: Tensor, vy: Tensor, pressure: Tensor) -> Tensor:
    """The conserved state (1, Q, x, y) of fields that broadcast to (x, y)."""
    return conserved(torch.stack(torch.broadcast_tensors(density, vx, vy, pressure))[None])


def tensor(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


# Sod's shock tube with gamma = 5/3: 1, 1 on the left, 0.125, 0.1 on the right, all at rest.


def star() -> tuple[float, float]:
    """Solve the Riemann problem by bisection: pressure and velocity between the waves."""
    sound = math.sqrt(GAMMA)

    def behind_rarefaction(p: float) -> float:
        return 2 * sound / (GAMMA - 1) * (1 - p ** ((GAMMA - 1) / (2 * GAMMA)))

    def behind_shock(p: float) -> float:
        a, b = 2 / ((GAMMA + 1) * 0.125), (GAMMA - 1) / (GAMMA + 1) * 0.1
        return (p - 0.1) * math.sqrt(a / (p + b))

    low, high = 0.1, 1.0
    for _ in range(60):
        p = (low + high) / 2
        low, high = (p, high) if behind_rarefaction(p) > behind_shock(p) else (low, p)
    return low, behind_shock(low)


def exact_density(x: Tensor, time: float) -> Tensor:
    """Return the density at x from the diaphragm: fan, contact, shock."""
    p, u = star()
    sound = math.sqrt(GAMMA)
    sound_behind = sound - (GAMMA - 1) / 2 * u
    inside_fan = 2 / (GAMMA + 1) - (GAMMA - 1) / ((GAMMA + 1) * sound) * x / time
    jump = (GAMMA - 1) / (GAMMA + 1)
    after_shock = 0.125 * (p / 0.1 + jump) / (jump * p / 0.1 + 1)
    shock = after_shock * u / (after_shock - 0.125)
    speed = x / time
    density = torch.where(speed < u - sound_behind, inside_fan.clamp(min=0) ** 3, p ** (1 / GAMMA))
    density = torch.where(speed < -sound, 1.0, density)
    density = torch.where(speed > u, after_shock, density)
    return torch.where(speed > shock, 0.125, density)


def test_sods_shock_tube_converges_to_the_exact_solution() -> None:
    """Two tubes back to back along y, with diaphragms at 1/4 and 3/4; their waves do not meet."""
    time, errors = 0.1, []
    for cells in (64, 128, 256):
        y = centres(cells)
        inside = ((y - 0.5).abs() < 0.25).expand(4, cells)
        density, pressure = (torch.where(inside, 1.0, low).double() for low in (0.125, 0.1))
        after = INVISCID.advance(state_of(density, tensor(0), tensor(0), pressure), time)
        exact = exact_density((y - 0.5).abs() - 0.25, time)
        errors.append(float((after[0, 0] - exact).abs().mean()))
    orders = [math.log2(coarse / fine) for coarse, fine in itertools.pairwise(errors)]
    assert min(orders) > 0.8, "the jumps limit the order to one; measured 0.89 and 0.85"
    assert errors[-1] < 0.005, "measured 0.0043"


def test_a_carried_density_wave_converges_with_second_order() -> None:
    def wave(grid: int, time: float) -> Tensor:
        x = centres(grid)
        phase = (x - time)[:, None] + (x - time / 2)[None, :]
        return 1 + 0.3 * torch.sin(2 * math.pi * phase)

    errors = []
    for grid in (16, 32, 64):
        state = state_of(wave(grid, 0), tensor(1), tensor(0.5), tensor(1))
        after = INVISCID.advance(state, 0.25)
        errors.append(float((after[0, 0] - wave(grid, 0.25)).abs().mean()))
        assert float((primitive(after)[0, 3] - 1).abs().max()) < 1e-10, "the pressure stays uniform"
    orders = [math.log2(coarse / fine) for coarse, fine in itertools.pairwise(errors)]
    assert min(orders) > 1.7, "limiting at the crests costs a little; measured 1.75 and 1.9"


def test_a_sound_wave_converges_with_second_order() -> None:
    """A faint wave that runs along y at the speed of sound, for 0.2 of its period."""
    sound, faint = math.sqrt(GAMMA), 1e-4

    def wave(grid: int, time: float) -> Tensor:
        return faint * torch.sin(2 * math.pi * (centres(grid) - sound * time)).expand(4, grid)

    errors = []
    for grid in (32, 64, 128):
        s = wave(grid, 0)
        state = state_of(1 + s, tensor(0), sound * s, 1 + GAMMA * s)
        after = INVISCID.advance(state, 0.2 / sound)[0, 0] - 1
        errors.append(float((after - wave(grid, 0.2 / sound)).abs().mean()) / faint)
    orders = [math.log2(coarse / fine) for coarse, fine in itertools.pairwise(errors)]
    assert min(orders) > 1.8, (errors, orders)
    assert errors[-1] < 1e-3


def test_signals_cross_a_cell_along_all_axes_together() -> None:
    """|vx| + |vy| + 2 c per cell length, of the fastest cell of each trajectory."""
    slow = torch.stack(torch.broadcast_tensors(*map(tensor, (2, 0, 0, 3)), torch.zeros(5, 5))[:4])
    fast = slow.clone()
    fast[1, 2, 3], fast[2, 2, 3] = -1.0, 0.5
    sound = math.sqrt(GAMMA * 3 / 2)
    rate = signal_rate(torch.stack([slow, fast]), 0.1).tolist()
    assert rate == pytest.approx([20 * sound, 10 * (1.5 + 2 * sound)])


def test_a_shear_wave_decays_by_eta_alone() -> None:
    """v_y = a sin(2 pi x) falls as exp(-eta (2 pi)^2 t): kappa = eta across the motion."""
    grid, eta, time = 32, 0.02, 0.5
    wave = torch.sin(2 * math.pi * centres(grid))[:, None].expand(grid, grid)
    state = state_of(tensor(2), tensor(0), 1e-3 * wave, tensor(1))
    equation = Compressible(eta=eta, zeta=0.3)
    assert equation._stages(1 / grid) > 1, "several stages are put to the test"
    after = primitive(equation.advance(state, time))
    amplitude = float((after[0, 2] * wave).mean() / wave.square().mean()) / 1e-3
    assert amplitude == pytest.approx(math.exp(-eta * (2 * math.pi) ** 2 * time), rel=3e-3)


@pytest.mark.parametrize("component", [0, 1])
@pytest.mark.parametrize("axis", [0, 1])
def test_each_component_diffuses_along_each_axis_by_its_own_kappa(
    component: int, axis: int
) -> None:
    grid, eta, zeta, dt = 16, 0.03, 0.05, 1e-3
    wave = torch.sin(2 * math.pi * centres(grid)).expand(grid, grid)
    wave = wave if axis == 1 else wave.T
    velocity = [tensor(0), tensor(0)]
    velocity[component] = wave
    state = state_of(tensor(2), *velocity, tensor(1))
    equation = Compressible(eta=eta, zeta=zeta)
    after = primitive(equation._diffused(state, torch.tensor([dt]).double(), 1 / grid, 4))[0]
    kappa = 4 / 3 * eta + zeta if axis == component else eta
    eigenvalue = (2 - 2 * math.cos(2 * math.pi / grid)) * grid**2
    found = float((after[1 + component] * wave).mean() / wave.square().mean())
    assert found == pytest.approx(math.exp(-kappa * eigenvalue * dt), rel=1e-5)
    assert torch.equal(after[2 - component], torch.zeros(grid, grid).double())


def test_viscosity_turns_motion_into_heat_and_conserves_the_rest() -> None:
    state = conserved(Compressible().initial_state(0, 16)[None])
    after = Compressible()._diffused(state, torch.tensor([1e-4]).double(), 1 / 16, 2)
    sums, expected = after.sum((2, 3)), state.sum((2, 3))
    torch.testing.assert_close(sums, expected, rtol=1e-12, atol=1e-10)
    torch.testing.assert_close(after[:, 0], state[:, 0], rtol=1e-13, atol=0)
    assert (primitive(after)[0, 3].mean() / primitive(state)[0, 3].mean()) > 1.0001


def test_heat_appears_where_the_flow_is_sheared() -> None:
    """The pressure of v_y = sin(2 pi x) rises at the rate (gamma - 1) eta rho (d_x v_y)^2."""
    grid, eta, dt = 64, 0.02, 1e-4
    phase = 2 * math.pi * centres(grid)[:, None].expand(grid, grid)
    state = state_of(tensor(2), tensor(0), torch.sin(phase), tensor(1))
    after = Compressible(eta=eta)._diffused(state, torch.tensor([dt]).double(), 1 / grid, 1)
    rate = (primitive(after)[0, 3] - 1) / dt
    expected = (GAMMA - 1) * eta * 2 * (2 * math.pi * torch.cos(phase)) ** 2
    assert float((rate - expected).abs().max() / expected.max()) < 5e-3


@pytest.mark.parametrize("axis", [0, 1])
def test_mirror_images_of_each_other(axis: int) -> None:
    state = conserved(Compressible().initial_state(6, 12)[None])
    sign = torch.ones(4, 1, 1, dtype=torch.float64)
    sign[1 + axis] = -1

    def mirrored(fields: Tensor) -> Tensor:
        return sign * fields.flip(2 + axis)

    after = Compressible().advance(state, 0.05)
    found = mirrored(Compressible().advance(mirrored(state), 0.05))
    torch.testing.assert_close(found, after, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("equation", [INVISCID, Compressible(), CompressibleTurbulence()])
def test_mass_momentum_and_energy_are_conserved(equation: Compressible) -> None:
    state = conserved(equation.initial_state(1, 32)[None])
    after = equation.advance(state, 0.1)
    assert relative(after, state) > 0.05, "the flow must have moved for this to mean anything"
    size = state.abs().sum((2, 3))
    assert float(((after.sum((2, 3)) - state.sum((2, 3))) / size).abs().max()) < 1e-11


@pytest.mark.parametrize(
    ("equation", "grid"), [(CompressibleTurbulence(), 48), (CompressibleTurbulence3D(), 16)]
)
def test_shocks_at_mach_one_leave_density_and_pressure_positive(
    equation: CompressibleTurbulence, grid: int
) -> None:
    """Of the conserved state, before any floor."""
    state = conserved(torch.stack([equation.initial_state(seed, grid) for seed in range(4)]))
    after = equation.advance(state, 0.3)
    kinetic = after[:, 1:-1].square().sum(1) / (2 * after[:, 0])
    assert float(after[:, 0].min()) > 0.01
    assert float((after[:, -1] - kinetic).min()) > 0.01
    assert float(after[:, 0].max()) > 1.3, "the flow is compressed"


@pytest.mark.parametrize("equation", [Compressible(), Compressible3D(eta=0.05, zeta=0.1)])
def test_axes_are_exchangeable(equation: Compressible) -> None:
    """Exchanging x with y, in 3D also turning x, y, z round, changes nothing else."""
    state = conserved(equation.initial_state(2, 12)[None])
    after = equation.advance(state, 0.05)
    dims = equation.space_dims
    for order in itertools.permutations(range(dims)):
        axes = [0, 1, *(2 + a for a in order)]
        channels = [0, *(1 + a for a in order), dims + 1]
        turned = equation.advance(state[:, channels].permute(axes).contiguous(), 0.05)
        torch.testing.assert_close(turned, after[:, channels].permute(axes), rtol=1e-9, atol=1e-9)


def test_a_flow_that_is_uniform_in_z_is_the_flow_in_two_dimensions() -> None:
    flat = Compressible().initial_state(4, 12)
    density, vx, vy, pressure = flat[..., None].expand(-1, -1, -1, 12)
    deep = conserved(torch.stack([density, vx, vy, 0 * vx, pressure])[None])
    viscous = {"eta": 0.01, "zeta": 0.02}
    expected = Compressible(**viscous).advance(conserved(flat[None]), 0.05)
    found = Compressible3D(**viscous).advance(deep, 0.05)[..., 5]
    assert float(found[:, 3].abs().max()) < 1e-12
    # Not to the last digit: the time step counts signals along z too.
    assert relative(found[:, [0, 1, 2, 4]], expected) < 0.01


def test_the_channels_are_in_the_published_orders() -> None:
    for equation, grid in ((Compressible(mach=0.5), 12), (Compressible3D(mach=0.5), 10)):
        fields = equation.solve([3], grid=grid, frames=2, frame_interval=0.01, device=CPU)[0, 0]
        density, *velocity, pressure = equation.initial_state(3, grid).float()
        by_name = dict(zip(("vx", "vy", "vz"), velocity, strict=False))
        by_name |= {"density": density, "pressure": pressure}
        for channel, found in zip(equation.channels, fields, strict=True):
            torch.testing.assert_close(found, by_name[channel], rtol=1e-4, atol=1e-5)
    assert Compressible.channels == ("vx", "vy", "density", "pressure")
    assert Compressible3D.channels == ("vx", "vy", "vz", "pressure", "density")


def test_a_trajectory_depends_on_its_seed_alone() -> None:
    """Also where its neighbours are faster: each has its own time step."""
    for equation in (Compressible(), CompressibleTurbulence3D()):
        options = {"grid": 10, "frames": 3, "frame_interval": 0.05, "device": CPU}
        alone = equation.solve([7], **options)
        among = equation.solve([5, 7, 9], **options)
        torch.testing.assert_close(among[1], alone[0], rtol=1e-5, atol=1e-6)
        assert relative(among[0], alone[0]) > 0.05
