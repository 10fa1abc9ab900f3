"""Poisson's equation: the exact inverse of the five-point Laplacian, and second order."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from dpot_scale.data.generation.solvers.poisson import Poisson, Walls


def five_point(
    p_Nxy: Tensor, spacing: tuple[float, float], along_x: Walls, along_y: Walls
) -> Tensor:
    """The Laplacian with a mirrored ghost cell at walls, an opposite one where p is zero."""
    padded = functional.pad(p_Nxy[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    if along_x == "zero":
        padded[:, 0] *= -1
    if along_x != "closed":
        padded[:, -1] *= -1
    if along_y == "zero":
        padded[:, :, 0] *= -1
    if along_y != "closed":
        padded[:, :, -1] *= -1
    inner = padded[:, 1:-1, 1:-1]
    across_x = padded[:, 2:, 1:-1] + padded[:, :-2, 1:-1] - 2 * inner
    across_y = padded[:, 1:-1, 2:] + padded[:, 1:-1, :-2] - 2 * inner
    return across_x / spacing[0] ** 2 + across_y / spacing[1] ** 2


@pytest.mark.parametrize("along_x", ["closed", "open", "zero"])
@pytest.mark.parametrize("along_y", ["closed", "open", "zero"])
def test_the_solution_has_the_given_laplacian(along_x: Walls, along_y: Walls) -> None:
    f = torch.randn(3, 12, 9, generator=torch.manual_seed(0), dtype=torch.float64)
    is_closed = along_x == along_y == "closed"
    if is_closed:
        f -= f.mean((1, 2), keepdim=True)  # nothing flows through the walls
    spacing = (0.1, 0.3)
    p = Poisson((12, 9), spacing, along_x=along_x, along_y=along_y, like=f).solve(f)
    torch.testing.assert_close(five_point(p, spacing, along_x, along_y), f)
    if is_closed:
        assert float(p.mean((1, 2)).abs().max()) < 1e-12


@pytest.mark.parametrize("along_x", ["closed", "open", "zero"])
def test_second_order_in_space(along_x: Walls) -> None:
    errors = []
    for cells in (8, 16, 32):
        centres = (torch.arange(cells, dtype=torch.float64) + 0.5) / cells
        wave = math.pi * (0.5 if along_x == "open" else 1.0)
        exact_x = torch.sin(wave * centres) if along_x == "zero" else torch.cos(wave * centres)
        exact = exact_x[:, None] * torch.cos(2 * math.pi * centres)
        f = -(wave**2 + (2 * math.pi) ** 2) * exact[None]
        spacing = (1 / cells, 1 / cells)
        found = Poisson((cells, cells), spacing, along_x=along_x, along_y="closed", like=f).solve(f)
        errors.append(float((found[0] - exact).abs().max()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.2)
    assert math.log2(errors[1] / errors[2]) == pytest.approx(2, abs=0.1)
