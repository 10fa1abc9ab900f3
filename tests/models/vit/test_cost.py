"""FLOPs of a ViT against those that torch counts."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dpot_scale.models.family import KEEP_ALL, Recompute
from dpot_scale.models.vit.config import ViTConfig
from dpot_scale.models.vit.cost import count_flops, count_parameters
from dpot_scale.models.vit.network import ViT

MODELS = [
    ViTConfig(width=24, heads=3, depth=3, mlp_ratio=2, patch=4, grid=(16, 20), history=4),
    ViTConfig(width=24, heads=2, patch=4, grid=16, channels=2, history=6, horizon=2, time_tokens=3),
    ViTConfig(width=16, heads=2, patch=4, grid=(8, 10, 12), space_dims=3, history=4, time_tokens=4),
]  # fmt: skip


@pytest.mark.parametrize("model", MODELS)
def test_flops_are_those_that_torch_counts(model: ViTConfig) -> None:
    """Attention is asked to be made of products, as torch counts none inside its own kernel."""
    network, windows = ViT(model), 3
    frames = torch.randn(windows, model.history, model.channels, *model.space)
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter, torch.no_grad():
        network(frames)
    assert count_flops(model, KEEP_ALL).forward == counter.get_total_flops() / windows


@pytest.mark.parametrize("model", MODELS)
def test_parameters_are_those_of_the_network(model: ViTConfig) -> None:
    with torch.device("meta"):
        network = ViT(model)
    assert count_parameters(model).total == sum(p.numel() for p in network.parameters())


def test_selective_repeats_the_attentions_alone() -> None:
    model = MODELS[1]
    repeated = {
        blocks: count_flops(model, Recompute(blocks=blocks)).recomputed
        for blocks in ("none", "selective", "every_k", "full")
    }
    assert repeated["none"] == 0
    assert repeated["every_k"] == repeated["full"] / 2
    tokens = 16 * model.time_tokens
    mlp = 2 * tokens * 2 * model.mlp_ratio * model.width**2
    assert repeated["selective"] == repeated["full"] - model.depth * mlp
