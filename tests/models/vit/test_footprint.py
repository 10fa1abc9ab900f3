"""What a forward of a ViT keeps, against what its graph holds."""

from math import prod

import pytest
import torch
from torch import Tensor

from dpot_scale.config.strategy import Dtype
from dpot_scale.models.family import KEEP_ALL, Recompute
from dpot_scale.models.vit.config import ViTConfig
from dpot_scale.models.vit.footprint import footprint
from dpot_scale.models.vit.network import ViT

DTYPES: dict[Dtype, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}


@pytest.mark.parametrize("windows", [1, 4])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("time_tokens", [1, 5])
@pytest.mark.parametrize("blocks", ["none", "selective"])
def test_what_a_forward_keeps(windows: int, dtype: Dtype, time_tokens: int, blocks: str) -> None:
    model = ViTConfig(width=128, depth=2, grid=64, time_tokens=time_tokens)
    recompute = Recompute(blocks=blocks)
    network = ViT(model, recompute=recompute).to(DTYPES[dtype])
    weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    kept: dict[int, Tensor] = {}  # the tensors themselves, so that no memory is used twice

    def keep(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(torch.randn(windows, model.history, model.channels, *model.space))
    found = sum(t.untyped_storage().nbytes() for at, t in kept.items() if at not in weights)
    estimated = footprint(model, recompute, dtype).per_window
    # Not kept by the graph: the frames, the forecast twice; of what runs again, all but its input.
    estimated -= 4 * model.channels * (model.history + 2) * prod(model.space)
    if blocks == "selective":
        saved = footprint(model, KEEP_ALL, dtype).per_window
        saved -= footprint(model, recompute, dtype).per_window
        state = 64 * time_tokens * model.width * DTYPES[dtype].itemsize
        estimated -= (saved + model.depth * state) // (model.depth - 1)
    # Over time, what comes in is there a second time in another order.
    tolerance = 0.02 if time_tokens == 1 else 0.04
    assert found == pytest.approx(windows * estimated, rel=tolerance)


def test_each_way_to_recompute_keeps_less() -> None:
    model = ViTConfig(depth=12)
    kept = [
        footprint(model, Recompute(blocks=blocks), "bf16").per_window
        for blocks in ("none", "selective", "full")
    ]
    assert kept == sorted(kept, reverse=True)
