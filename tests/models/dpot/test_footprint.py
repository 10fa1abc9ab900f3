"""What a forward keeps, against what its graph holds."""

from math import prod

import pytest
import torch
from torch import Tensor

from dpot_scale.config.strategy import ELEMENT_BYTES, Dtype
from dpot_scale.models.dpot.config import DPOTConfig
from dpot_scale.models.dpot.footprint import footprint
from dpot_scale.models.dpot.network import DPOT
from dpot_scale.models.family import KEEP_ALL, Recompute


def test_each_way_to_recompute_keeps_less() -> None:
    large = DPOTConfig(size="L")
    kept = [
        footprint(large, Recompute(blocks=blocks), "bf16", "bfloat16").per_window
        for blocks in ("none", "selective", "every_k", "full")
    ]
    assert kept == sorted(kept, reverse=True)
    latent = 2 * large.width * prod(large.latent_grid)
    assert kept[-1] > large.depth * latent


@pytest.mark.parametrize("windows", [1, 4])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("skip_frames", [0, 4])
def test_what_a_forward_keeps(windows: int, dtype: Dtype, skip_frames: int) -> None:
    config = DPOTConfig(size="Ti", depth=2, mlp_ratio=3, skip_frames=skip_frames)
    model = DPOT(config, spectral_dtype="bfloat16").to(
        {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    )
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, Tensor] = {}  # the tensors themselves, so that no memory is used twice

    def keep(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(torch.randn(windows, config.history, config.channels, config.grid, config.grid))
    found = sum(
        tensor.untyped_storage().nbytes()
        for address, tensor in kept.items()
        if address not in weights
    )
    estimated = footprint(config, KEEP_ALL, dtype, "bfloat16")
    # Not kept by the graph: the frames, the forecast twice, a gradient in the output layers.
    elsewhere = 4 * config.channels * (config.history + 2)
    elsewhere += ELEMENT_BYTES[dtype] * config.out_layer_dim
    kept_by_graph = estimated.per_window - elsewhere * config.grid**2
    assert found == pytest.approx(windows * kept_by_graph + estimated.fixed, rel=0.02)
