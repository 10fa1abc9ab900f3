"""What follows from final weights is computed once, and forecasts stay the same."""

from typing import Any

import pytest
import torch

from dpot_scale.models.derived import MOST_KEPT, Derived
from dpot_scale.models.dpot.config import DPOTConfig
from dpot_scale.models.dpot.network import DPOT

SMALL = {
    "size": "debug",
    "width": 32,
    "depth": 2,
    "heads": 4,
    "out_layer_dim": 8,
    "grid": 16,
    "patch": 4,
    "channels": 2,
    "history": 3,
}


def test_until_it_is_kept_it_is_computed_each_time() -> None:
    calls: list[int] = []

    def compute() -> int:
        calls.append(0)
        return len(calls)

    derived = Derived()
    assert (derived.is_kept, derived(None, compute), derived(None, compute)) == (False, 1, 2)
    derived.keep()
    assert (derived.is_kept, derived("a", compute), derived("a", compute)) == (True, 3, 3)
    assert derived("b", compute) == 4
    for key in range(3 * MOST_KEPT):
        derived(key, compute)
    assert derived._kept is not None
    assert len(derived._kept) <= MOST_KEPT


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("changes", "space"),
    [
        ({}, (16, 16)),
        ({}, (24, 13)),
        ({"normalize": True, "skip_frames": 2, "target": "residual"}, (16, 16)),
        ({"modes": 2, "modes_kept": "symmetric", "time_aggregation": "mlp"}, (16, 20)),
        ({"space_dims": 3, "horizon": 2}, (16, 16, 16)),
        ({"conditioning": ["dt"]}, (16, 16)),
        ({}, (160, 160)),  # beyond the Fourier matrices
    ],
)
def test_a_forecast_stays_the_same(
    changes: dict[str, Any], space: tuple[int, ...], dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    spectral = "bfloat16" if dtype == torch.bfloat16 else "float32"
    model = DPOT(DPOTConfig.model_validate(SMALL | changes), spectral_dtype=spectral)
    for parameter in model.parameters():  # a fresh residual would forecast the last frame
        torch.nn.init.normal_(parameter, std=0.2)
    model = model.to(dtype).eval()
    told = torch.tensor([[0.1], [0.2]]) if model.config.conditions else None
    frames = torch.randn(2, 3, 2, *space)
    with torch.no_grad():
        expected = model(frames, told)
        model.keep_derived()
        for _ in range(2):
            found = model(frames, told)
            near = {"rtol": 2e-2, "atol": 2e-2} if dtype == torch.bfloat16 else {}
            scale = expected.frames.abs().mean()
            torch.testing.assert_close(found.frames / scale, expected.frames / scale, **near)
    with torch.inference_mode():
        model(frames, told)


def test_what_is_kept_in_inference_mode_can_be_used_outside() -> None:
    model = DPOT(DPOTConfig.model_validate(SMALL)).eval()
    model.keep_derived()
    frames = torch.randn(1, 3, 2, 16, 16)
    with torch.inference_mode():
        expected = model(frames).frames
    with torch.no_grad():
        torch.testing.assert_close(model(frames).frames, expected)
