"""FLOPs and parameters of an FNO against those that torch counts."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dpot_scale.models.family import KEEP_ALL, Recompute
from dpot_scale.models.fno.config import FNOConfig
from dpot_scale.models.fno.cost import count_flops, count_parameters, matrix_shapes
from dpot_scale.models.fno.network import FNO

MODELS = [
    FNOConfig(width=7, depth=3, modes=4, grid=(16, 20), channels=3, history=4),
    FNOConfig(width=6, depth=1, modes=9, grid=12, channels=2, history=5, horizon=2),
    FNOConfig(width=5, depth=2, modes=3, grid=(8, 5, 12), space_dims=3, history=4),
]


@pytest.mark.parametrize("model", MODELS)
def test_flops_are_those_that_torch_counts(model: FNOConfig) -> None:
    windows = 3
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        FNO(model)(torch.randn(windows, model.history, model.channels, *model.space))
    assert count_flops(model, KEEP_ALL).forward == counter.get_total_flops() / windows


@pytest.mark.parametrize("model", MODELS)
def test_parameters_are_those_of_the_network(model: FNOConfig) -> None:
    with torch.device("meta"):
        network = FNO(model)
    assert count_parameters(model).total == sum(p.numel() for p in network.parameters())
    weights = [p.numel() for name, p in network.blocks.named_parameters() if "weight" in name]
    shapes = matrix_shapes(model)
    assert sum(one.number * one.rows * one.columns for one in shapes) == sum(weights)


def test_whole_blocks_run_again_or_none() -> None:
    model = MODELS[0]
    repeated = {
        blocks: count_flops(model, Recompute(blocks=blocks)).recomputed
        for blocks in ("none", "selective", "every_k", "full")
    }
    assert repeated["none"] == repeated["selective"] == 0
    assert repeated["every_k"] == pytest.approx(repeated["full"] * 2 / 3)
    assert repeated["full"] < count_flops(model, KEEP_ALL).forward
