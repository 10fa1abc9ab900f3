"""The dam break: conservation, symmetry, an exact solution, and the published data."""

import math
from pathlib import Path

import h5py
import pytest
import torch
from torch import Tensor

from dpot_scale.data.generation.solvers.shallow_water import ShallowWater

UPSTREAM = Path(__file__).parents[3] / "upstream"
CPU = torch.device("cpu")


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def dam_break(radius: float, grid: int, duration: float) -> Tensor:
    """Return h, hu, hv (3, x, y) some time after the dam has broken."""
    equation = ShallowWater()
    state = equation.initial_state(torch.tensor([radius]), grid)
    return equation.advance(state, duration)[0]


def test_mass_and_momentum_are_conserved_until_the_wave_leaves() -> None:
    before, after = dam_break(0.5, 64, 0.0), dam_break(0.5, 64, 1.0)
    assert float(after[0].sum()) == pytest.approx(float(before[0].sum()), rel=1e-12)
    assert float(after[1:].sum((1, 2)).abs().max()) < 1e-9
    assert relative(after[0], before[0]) > 0.05


def test_energy_is_lost_but_not_gained() -> None:
    def energy(state: Tensor) -> float:
        h, hu, hv = state
        return float((h.square() / 2 + (hu.square() + hv.square()) / (2 * h)).sum())

    energies = [energy(dam_break(0.5, 64, time)) for time in (0.0, 0.25, 0.5, 1.0)]
    assert sorted(energies, reverse=True) == energies
    assert energies[-1] > 0.9 * energies[0]


def test_the_symmetries_of_the_square_are_kept() -> None:
    h, hu, hv = dam_break(0.4, 48, 0.6)
    for mirrored in (h.flip(0), h.flip(1), h.T):
        torch.testing.assert_close(mirrored, h, rtol=0, atol=1e-12)
    torch.testing.assert_close(hu.flip(0), -hu, rtol=0, atol=1e-12)
    torch.testing.assert_close(hv, hu.T, rtol=0, atol=1e-12)


def test_the_wave_is_round() -> None:
    """On the diagonal and along the axis the depth is the same function of the radius."""
    grid = 96
    h = dam_break(0.5, grid, 0.6)[0]
    centres = (torch.arange(grid, dtype=torch.float64) + 0.5) / grid * 5 - 2.5
    half = slice(grid // 2, grid - grid // 6)  # the diagonal reaches further than the axis
    axis_radius, axis = centres[half], h[half, grid // 2]
    diagonal_radius, diagonal = centres[half] * math.sqrt(2), h.diagonal()[half]
    inside = diagonal_radius < axis_radius[-1]
    right = torch.searchsorted(axis_radius, diagonal_radius[inside]).clamp(min=1)
    share = (diagonal_radius[inside] - axis_radius[right - 1]) / (
        axis_radius[right] - axis_radius[right - 1]
    )
    on_axis = axis[right - 1] * (1 - share) + axis[right] * share
    assert float((on_axis - diagonal[inside]).abs().mean()) < 0.01
    assert float(on_axis.max() - on_axis.min()) > 0.3, "there is a wave to compare"


def middle_depth() -> float:
    """Solve the exact Riemann problem 2 | 1 of shallow water at rest, g = 1, by bisection."""

    def mismatch(h: float) -> float:
        behind_rarefaction = 2 * (math.sqrt(2.0) - math.sqrt(h))
        behind_shock = (h - 1) * math.sqrt((h + 1) / (2 * h))
        return behind_rarefaction - behind_shock

    low, high = 1.0, 2.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if mismatch(middle) > 0 else (low, middle)
    return low


def straight_dam(cells: int, duration: float) -> tuple[Tensor, Tensor]:
    """Return x and the depth of a dam along x = 0 on a square, in its middle row."""
    equation = ShallowWater()
    x = (torch.arange(cells, dtype=torch.float64) + 0.5) / cells * 5 - 2.5
    h_xy = torch.where(x < 0, 2.0, 1.0).double()[:, None].expand(cells, cells)
    state = torch.stack([h_xy, 0 * h_xy, 0 * h_xy])[None]
    return x, equation.advance(state, duration)[0, 0, :, cells // 2]


def exact_depth(x: Tensor, time: float) -> Tensor:
    """Return the exact depth: a rarefaction to the left, a plateau, a shock to the right."""
    h = middle_depth()
    velocity = 2 * (math.sqrt(2.0) - math.sqrt(h))
    shock = h * velocity / (h - 1)
    fan = (2 * math.sqrt(2.0) - x / time).square() / 9
    depth = torch.where(x / time < velocity - math.sqrt(h), fan, h)
    depth = torch.where(x / time < -math.sqrt(2.0), 2.0, depth)
    return torch.where(x / time > shock, 1.0, depth)


def test_a_straight_dam_converges_to_the_exact_solution() -> None:
    errors = []
    for cells in (32, 64, 128):
        x, h = straight_dam(cells, 0.8)
        errors.append(float((h - exact_depth(x, 0.8)).abs().mean()))
    # A shock limits the order in the mean error to one.
    assert errors[0] / errors[1] > 1.6
    assert errors[1] / errors[2] > 1.6
    assert errors[2] < 0.006


def test_the_published_trajectory_from_its_own_initial_state() -> None:
    with h5py.File(UPSTREAM / "pdebench_shallow_water.h5") as file:
        h_Txy = torch.from_numpy(file["0000/data"][..., 0]).double()
        assert ShallowWater().radius(0) == pytest.approx(radius_in(file["0000"]), rel=1e-12)
    state = torch.stack([h_Txy[0], 0 * h_Txy[0], 0 * h_Txy[0]])[None]
    ours = ShallowWater()
    for frame in (10, 50, 100):
        state = ours.advance(state, frame / 100 - (0.0, 0.1, 0.5)[(10, 50, 100).index(frame)])
        distance = relative(state[0, 0] - 1, h_Txy[frame] - 1)
        assert distance < 0.12, "measured 0.08, 0.10, 0.05 on this coarse grid"


def radius_in(group: h5py.Group) -> float:
    text = str(group.attrs["config"])
    return float(text.partition("dam_radius:")[2].split()[0])


def test_the_initial_state_follows_the_radius_continuously() -> None:
    """Where cells are all or nothing, test trajectories repeat training trajectories."""
    equation = ShallowWater()
    radii = torch.linspace(0.3, 0.7, 200, dtype=torch.float64)
    states = equation.initial_state(radii, 32)[:, 0]
    volumes = (states - 1).sum((1, 2)) * (5 / 32) ** 2
    assert (volumes.diff() > 0).all()
    torch.testing.assert_close(volumes, math.pi * radii**2, rtol=0.05, atol=0)
    assert float(states.max()) == 2.0
    assert float(states.min()) == 1.0


def test_a_trajectory_depends_on_its_seed_alone() -> None:
    options = {"grid": 16, "frames": 3, "frame_interval": 0.1, "device": CPU}
    alone = ShallowWater().solve([7], **options)
    among = ShallowWater().solve([5, 7, 9], **options)
    assert torch.equal(among[1], alone[0])
    assert not torch.equal(among[0], alone[0])
