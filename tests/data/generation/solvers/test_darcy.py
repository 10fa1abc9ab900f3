"""Steady Darcy flow: a manufactured solution, a dense matrix, and the law of the medium."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from dpot_scale.data.generation.solvers.darcy import Darcy, random_field, solution

CPU = torch.device("cpu")


def centres(grid: int) -> Tensor:
    return (torch.arange(grid, dtype=torch.float64) + 0.5) / grid


def manufactured(grid: int) -> tuple[Tensor, Tensor, Tensor]:
    """a, u and -div(a grad(u)) for a = 2 + sin(2 pi x) cos(pi y), u = sin(pi x) sin(2 pi y)."""
    pi = math.pi
    x, y = centres(grid)[:, None], centres(grid)[None, :]
    a = 2 + torch.sin(2 * pi * x) * torch.cos(pi * y)
    a_x = 2 * pi * torch.cos(2 * pi * x) * torch.cos(pi * y)
    a_y = -pi * torch.sin(2 * pi * x) * torch.sin(pi * y)
    u = torch.sin(pi * x) * torch.sin(2 * pi * y)
    u_x = pi * torch.cos(pi * x) * torch.sin(2 * pi * y)
    u_y = 2 * pi * torch.sin(pi * x) * torch.cos(2 * pi * y)
    return a, u, 5 * pi**2 * a * u - a_x * u_x - a_y * u_y


def test_a_manufactured_solution_converges_with_second_order() -> None:
    errors = []
    for grid in (16, 32, 64):
        a, u, source = manufactured(grid)
        errors.append(float((solution(a[None], source[None], 3.0)[0] - u).abs().max()))
    orders = [math.log2(coarse / fine) for coarse, fine in itertools.pairwise(errors)]
    assert min(orders) == pytest.approx(2.0, abs=0.1)
    assert errors[-1] < 2e-3


def test_a_medium_with_jumps_is_solved_as_by_a_dense_matrix() -> None:
    fields = Darcy(low=0.1, high=1.0, source=2.0).solve(
        range(4), grid=24, frames=2, frame_interval=1.0, device=CPU
    )
    a, u = fields[:, 0, 0].double(), fields[:, 1, 0].double()
    # Independent of the solver: a dense matrix of the same finite volumes.
    expected = torch.stack([dense_solution(medium, 2.0) for medium in a])
    torch.testing.assert_close(u, expected, rtol=1e-5, atol=1e-7)


def dense_solution(a: Tensor, source: float) -> Tensor:
    grid = len(a)
    matrix = torch.zeros(grid**2, grid**2, dtype=torch.float64)
    for i, j in itertools.product(range(grid), repeat=2):
        for di, dj in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            k, m = i + di, j + dj
            here, row = a[i, j], i * grid + j
            if 0 <= k < grid and 0 <= m < grid:
                face = 2 / (1 / here + 1 / a[k, m])
                matrix[row, k * grid + m] = -face
            else:
                face = 2 * here
            matrix[row, row] += face
    right = torch.full((grid**2,), source / grid**2, dtype=torch.float64)
    return torch.linalg.solve(matrix, right).reshape(grid, grid)


def test_the_solution_is_positive_and_scales() -> None:
    options = {"grid": 32, "frames": 2, "frame_interval": 1.0, "device": CPU}
    a, u = Darcy().solve([3], **options)[0, :, 0]
    assert sorted(a.unique().tolist()) == [3.0, 12.0]
    assert float(u.min()) > 0
    assert 0.005 < float(u.max()) < 0.05, "between those of a uniform medium, 0.074 / a"
    denser = Darcy(low=6.0, high=24.0, source=4.0).solve([3], **options)[0, 1, 0]
    torch.testing.assert_close(denser, 2 * u)


def test_the_medium_has_the_stated_spectrum() -> None:
    psi = torch.stack([random_field(seed, 64) for seed in range(200)])
    k = torch.arange(64, dtype=torch.float64)
    basis = torch.cos(math.pi * k[:, None] * centres(64)) / 64
    power = (basis @ psi @ basis.T).square().mean(0)
    # A mode's norm is 1 for k = 0, else sqrt(2); its amplitude 1 / (pi^2 k^2 + 9).
    assert float(power[0, 0].sqrt()) == pytest.approx(1 / 9, rel=0.15)
    expected = 1 / (math.pi**2 * 5 + 9) / 2
    assert float(power[1, 2].sqrt()) == pytest.approx(expected, rel=0.15)
    torch.testing.assert_close(random_field(1, 16), random_field(1, 48)[1::3, 1::3])


def test_a_trajectory_depends_on_its_seed_alone() -> None:
    options = {"grid": 16, "frames": 2, "frame_interval": 1.0, "device": CPU}
    alone, among = Darcy().solve([7], **options), Darcy().solve([5, 7, 9], **options)
    torch.testing.assert_close(among[1], alone[0])
    assert not torch.equal(among[0], alone[0])
