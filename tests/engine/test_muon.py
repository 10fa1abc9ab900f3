"""Muon against its formula, and where its matrices come from. On two ranks: test_zero.py."""

import pytest
import torch
from torch import nn

from dpot_scale.config.optim import OptimConfig
from dpot_scale.engine.matrices import Layout, Piece
from dpot_scale.engine.muon import MATRICES, Muon, as_stack, orthogonal, split_matrices
from dpot_scale.engine.network import FACTOR
from dpot_scale.engine.runtime import World
from dpot_scale.models.dpot.config import DPOTConfig
from dpot_scale.models.dpot.family import FAMILY
from dpot_scale.models.dpot.network import DPOT

ALONE = World(rank=0, local_rank=0, world_size=1, device=torch.device("cpu"))


def written_out(matrix: torch.Tensor) -> torch.Tensor:
    """The published iteration for one matrix, in fp64."""
    x = matrix.double() / matrix.double().norm()
    for _ in range(5):
        product = x @ x.T
        x = 3.4445 * x - 4.7750 * product @ x + 2.0315 * product @ product @ x
    return x.float()


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 12, 5), (2, 5, 12), (1, 1, 7), (4, 1, 1)])
def test_each_matrix_of_a_stack_is_made_orthogonal_by_itself(shape: tuple[int, int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    stack = torch.randn(shape, generator=generator) * torch.tensor(10.0) ** torch.arange(
        shape[0]
    ).view(-1, 1, 1)
    found = orthogonal(stack, torch.float32)
    for one, matrix in zip(found, stack, strict=True):
        torch.testing.assert_close(one, written_out(matrix), rtol=1e-5, atol=1e-5)
        values = torch.linalg.svdvals(one)
        assert values.max() < 1.25


def test_orthogonal_matrices_are_near_the_orthogonal_factor() -> None:
    matrix = torch.randn((1, 40, 20), generator=torch.Generator().manual_seed(0))
    found = orthogonal(matrix, torch.float32)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    assert (found - u @ v).abs().max() < 0.2
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.6


def test_the_size_of_a_gradient_does_not_matter_and_none_is_no_update() -> None:
    matrix = torch.randn((2, 6, 4), generator=torch.Generator().manual_seed(0))
    found = orthogonal(matrix, torch.float32)
    torch.testing.assert_close(orthogonal(1e-18 * matrix, torch.float32), found)
    assert (orthogonal(0 * matrix, torch.float32) == 0).all()
    assert orthogonal(matrix * float("inf"), torch.float32).isnan().all()


def test_half_precision_is_near_enough() -> None:
    matrix = torch.randn((2, 48, 16), generator=torch.Generator().manual_seed(0))
    found, exact = (orthogonal(matrix, dtype) for dtype in (torch.bfloat16, torch.float32))
    assert found.dtype == torch.float32
    assert (found - exact).norm() < 0.03 * exact.norm()


def test_parameters_are_matrices_or_stacks_of_them() -> None:
    assert as_stack((6, 4)) == (1, 6, 4)
    assert as_stack((6, 4, 1, 1)) == as_stack((6, 4, 1, 1, 1)) == (1, 6, 4)
    assert as_stack((6, 1, 1, 1)) == (1, 6, 1)
    assert as_stack((2, 3, 5, 5)) == (6, 5, 5)
    assert as_stack((7, 5, 5)) == (7, 5, 5)


@pytest.mark.parametrize("space_dims", [2, 3])
def test_muon_updates_the_matrices_of_blocks_alone(space_dims: int) -> None:
    config = DPOTConfig(size="debug", space_dims=space_dims, grid=16, mlp_ratio=2)
    parameters = dict(DPOT(config).named_parameters())
    matrices, others = split_matrices(parameters, FAMILY)
    assert len(matrices) + len(others) == len(parameters)
    found = {n.split(".", 2)[2] for n, p in parameters.items() if any(p is m for m in matrices)}
    assert found == {"filter.w1", "filter.w2", "mlp.0.weight", "mlp.2.weight"}
    assert len(matrices) == 4 * config.depth


def test_one_update_of_matrix_and_stack() -> None:
    """Two steps by hand: mean of gradients, Nesterov, scale of a tall matrix, decoupled decay."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(6, 2, 1, 1), (2, 3, 4, 4)]
    matrices = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    other = nn.Parameter(torch.zeros(3))
    optim = OptimConfig(kind="muon", muon_lr=0.1, muon_momentum=0.9, weight_decay=0.5)
    groups = [
        {"params": params, FACTOR: 1.0, MATRICES: params is matrices}
        for params in (matrices, [other])
    ]
    muon = Muon(groups, optim)
    muon.place(
        {
            matrix: Layout(
                shapes={0: tuple(matrix.shape)},
                pieces=[[Piece(0, 0, 0, matrix.numel())]],
                world=ALONE,
            )
            for matrix in matrices
        }
    )
    expected = [matrix.detach().clone() for matrix in matrices]
    means = [torch.zeros(shape) for shape in shapes]
    for _ in range(2):
        gradients = [torch.randn(shape, generator=generator) for shape in shapes]
        other.grad = torch.ones(3)
        for matrix, gradient in zip(matrices, gradients, strict=True):
            matrix.grad = gradient.clone()
        muon.step()
        for weight, mean, gradient in zip(expected, means, gradients, strict=True):
            mean.mul_(0.9).add_(0.1 * gradient)
            update = 0.1 * gradient + 0.9 * mean
            weight.mul_(1 - 0.1 * 0.5)
            if weight.shape[-1] == 1:
                weight[:, :, 0, 0] -= 0.1 * 3**0.5 * written_out(update[:, :, 0, 0])
            else:
                for one, of_one in zip(weight.flatten(0, 1), update.flatten(0, 1), strict=True):
                    one -= 0.1 * written_out(of_one)
    for matrix, weight in zip(matrices, expected, strict=True):
        torch.testing.assert_close(matrix.detach(), weight, rtol=1e-5, atol=1e-5)
    assert (other < 0).all()
    groups = {group[MATRICES]: group for group in muon.param_groups}
    assert (groups[True]["lr"], groups[False]["lr"]) == (0.1, optim.lr)
