"""The operator of an FNO against torch.fft, with its gradients, on grids of every size."""

from itertools import product

import pytest
import torch
from torch import Tensor

from dpot_scale.models.fno.spectral import SpectralOperator

CASES = [
    ((16, 12), (5, 4)),
    ((6, 8), (5, 4)),  # fewer modes than matrices
    ((7, 9), (3, 5)),
    ((1, 5), (2, 2)),
    ((8, 6, 10), (3, 3, 4)),
]


def operator(modes: tuple[int, ...]) -> SpectralOperator:
    torch.manual_seed(0)
    return SpectralOperator(3, modes, torch.float32).double()


def by_fft(of: SpectralOperator, v_BsE: Tensor) -> Tensor:
    space, axes = v_BsE.shape[1:-1], tuple(range(1, v_BsE.ndim - 1))
    spectrum = torch.fft.rfftn(v_BsE, dim=axes)
    mixed = torch.zeros_like(spectrum)
    matrices = torch.complex(*of.weight)
    kept = [min(own, (n + 1) // 2) for own, n in zip(of.modes, space, strict=True)]
    for mode in product(*(range(1 - n, n) for n in kept[:-1]), range(kept[-1])):
        signed = zip(mode[:-1], of.modes[:-1], strict=True)
        matrix = matrices[*(k + own - 1 for k, own in signed), mode[-1]]
        mixed[:, *mode] = spectrum[:, *mode] @ matrix
    return torch.fft.irfftn(mixed, s=space, dim=axes)


@pytest.mark.parametrize(("space", "modes"), CASES)
def test_it_is_the_product_in_fourier_space(space: tuple[int, ...], modes: tuple[int, ...]) -> None:
    of = operator(modes)
    v_BsE = torch.randn(2, *space, 3).double().requires_grad_()
    found, expected = of(v_BsE), by_fft(of, v_BsE)
    torch.testing.assert_close(found, expected)
    weight = torch.randn_like(expected)
    inputs = [v_BsE, of.weight]
    gradients = [torch.autograd.grad((y * weight).sum(), inputs) for y in (found, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(("space", "finer"), [((12, 8), (24, 16)), ((9, 8), (27, 40))])
def test_a_finer_grid_gives_the_same_function(
    space: tuple[int, int], finer: tuple[int, int]
) -> None:
    def field(points: tuple[int, int]) -> Tensor:
        x, y = torch.meshgrid(
            *[torch.arange(n).double() / n * 2 * torch.pi for n in points], indexing="ij"
        )
        return torch.stack([(x + 2 * y).sin(), (2 * x - y).cos(), 1 + x.sin()], -1)[None].double()

    of = operator((3, 3))
    (a, b), (c, d) = space, finer
    torch.testing.assert_close(of(field(finer))[:, :: c // a, :: d // b], of(field(space)))


def test_half_precision_is_computed_in_single() -> None:
    of = operator((3, 3)).bfloat16()
    v_BsE = torch.randn(2, 8, 8, 3).bfloat16()
    found = of(v_BsE)
    assert found.dtype == torch.bfloat16
    expected = by_fft(of.double(), v_BsE.double())
    torch.testing.assert_close(found.double(), expected, rtol=1e-2, atol=1e-2)
