"""Products with final weights are those of `linear` and `baddbmm`, packed or not."""

import pytest
import torch
from torch.nn.functional import linear

from dpot_scale.models import product
from dpot_scale.models.product import final_product, final_products


@pytest.fixture(params=["packed", "as it is"])
def _packing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "as it is":
        monkeypatch.setattr(product, "_can_pack", lambda _: False)


@pytest.mark.usefixtures("_packing")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_linear(dtype: torch.dtype) -> None:
    weight, bias = torch.randn(24, 40, dtype=dtype), torch.randn(24, dtype=dtype)
    for shape in ((7, 40), (2, 3, 5, 40), (600, 40)):
        x = torch.randn(shape, dtype=dtype)
        with torch.no_grad():
            torch.testing.assert_close(
                final_product(weight, bias)(x), linear(x, weight, bias), rtol=2e-2, atol=1e-5
            )
            # A weight in another order of memory, without a bias.
            turned = weight.t().contiguous().t()
            torch.testing.assert_close(
                final_product(turned)(x), linear(x, weight), rtol=2e-2, atol=1e-5
            )


@pytest.mark.usefixtures("_packing")
def test_several_are_baddbmm() -> None:
    x, weight, bias = torch.randn(3, 9, 8), torch.randn(3, 8, 5), torch.randn(3, 1, 5)
    with torch.no_grad():
        found = final_products(weight, bias)(x)
        torch.testing.assert_close(found, torch.baddbmm(bias, x, weight))


def test_packed_it_is_as_exact_as_linear() -> None:
    x, weight = torch.randn(256, 512), torch.randn(512, 512)
    exact = x.double() @ weight.double().t()
    errors = [
        float((found.double() - exact).norm() / exact.norm())
        for found in (final_product(weight)(x), linear(x, weight))
    ]
    assert errors[0] < 4 * errors[1]
