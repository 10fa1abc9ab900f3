import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from dpot_scale.models.dpot.config import DPOTConfig
from dpot_scale.models.dpot.cost import (
    count_flops,
    count_parameters,
    executed_forward_flops,
)
from dpot_scale.models.dpot.network import DPOT
from dpot_scale.models.family import KEEP_ALL, Recompute

PUBLISHED = {  # of the public code: parameters, forward GFLOP per window
    "Ti": (7_534_643, 3.8),
    "S": (30_801_459, 15.0),
    "M": (122_125_875, 61.9),
    "L": (509_018_739, 259.5),
    "H": (1_031_082_099, 527.6),
}
PARTS = {
    "patch_embed": "patch_embed",
    "pos_embed": "pos_embed",
    "time_agg_layer": "time_agg",
    "blocks": "blocks",
    "cls_head": "head",
    "out_layer": "output",
    "skip": "output",
    "conditioning": "conditioning",
    "scale_feats_mu": "statistics",
    "scale_feats_sigma": "statistics",
}


GRIDS = {2: [12, 24, (12, 20), (10, 13)], 3: [12, (8, 12, 6), (5, 8, 7)]}


def forward_flops(arch):
    return count_flops(arch, KEEP_ALL).forward


def meta_counts(arch):
    with torch.device("meta"):
        model = DPOT(arch)
    counts = dict.fromkeys(PARTS.values(), 0)
    for name, parameter in model.named_parameters():
        counts[PARTS[name.split(".")[0]]] += parameter.numel()
    return counts


@pytest.mark.parametrize("size", PUBLISHED)
def test_published_sizes(size):
    parameters, gflop = PUBLISHED[size]
    arch = DPOTConfig(size=size)
    assert count_parameters(arch).total == parameters
    assert sum(meta_counts(arch).values()) == parameters
    assert round(forward_flops(arch) / 1e9, 1) == gflop


def test_debug_is_small():
    assert 100_000 < count_parameters(DPOTConfig(size="debug")).total < 250_000


grids = st.sampled_from([(dims, grid) for dims, of_dims in GRIDS.items() for grid in of_dims])


def a_model(on, conditions, **values):
    space_dims, grid = on
    if conditions:
        values |= {"conditioning": ("dt", "parameters")[:conditions]}
        values |= {"parameters": ("viscosity",) * (conditions - 1)}
    return DPOTConfig(space_dims=space_dims, grid=grid, **values)


models = st.builds(
    a_model,
    on=grids,
    size=st.just("debug"),
    width=st.sampled_from([24, 48]),
    depth=st.integers(1, 3),
    heads=st.sampled_from([1, 3, 8]),
    mlp_ratio=st.integers(1, 4),
    out_layer_dim=st.integers(1, 9),
    patch=st.sampled_from([2, 4]),
    channels=st.integers(1, 5),
    history=st.integers(1, 4),
    horizon=st.integers(1, 3),
    modes=st.integers(1, 16),
    modes_kept=st.sampled_from(["positive", "symmetric"]),
    num_datasets=st.integers(1, 13),
    time_aggregation=st.sampled_from(["exp_mlp", "mlp"]),
    normalize=st.booleans(),
    skip_frames=st.integers(0, 1),
    conditions=st.integers(0, 2),
)


@given(models)
@settings(max_examples=40, deadline=None)
def test_every_part_is_counted(config):
    arch = config
    count = count_parameters(arch)
    assert count.components == meta_counts(arch)


@given(models, st.integers(1, 3))
@settings(max_examples=25, deadline=None)
def test_executed_flops_are_those_of_the_products_that_run(config, windows):
    arch = config
    frames = torch.randn(windows, arch.history, arch.channels, *arch.space)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        told = [torch.randn(windows, len(arch.conditions))] if arch.conditions else []
        DPOT(arch)(frames, *told)
    assert executed_forward_flops(arch, windows) == counter.get_total_flops()


def test_flops_of_a_window_are_those_of_the_formula():
    """The published ones, by hand for one small model in which no two dimensions are equal."""
    arch = DPOTConfig(
            width=48, depth=5, heads=3, mlp_ratio=2, out_layer_dim=7, grid=12, patch=2,
            channels=3, history=4, horizon=2, num_datasets=11, normalize=True, skip_frames=3,
        )  # fmt: skip
    points, latents, modes, features, head = 12 * 12, 6 * 6, 6 * 4, 3 * 2 + 3, 48 // 3
    embedding = 4 * latents * ((3 + 3) * 2 * 2 * features + features * 48)
    aggregation = 4 * latents * 48 * 48
    blocks = 5 * (modes * 2 * 4 * 48 * head + latents * 2 * 48 * 96)
    dataset_head = 2 * 48 * 48 + 48 * 11
    output = latents * 48 * 7 * 2 * 2 + points * (7 * 7 + 7 * 3 * 2 + 7 * 3 * 3)
    statistics = 2 * 2 * 3 * 48
    macs = embedding + aggregation + blocks + dataset_head + output + statistics
    assert forward_flops(arch) == 2 * macs


def test_merging_the_embedding_pays_from_one_window_on():
    """The merger is one path for all: it must never cost more than it saves."""
    for size in PUBLISHED:
        arch = DPOTConfig(size=size)
        assert executed_forward_flops(arch, 1) < forward_flops(arch)
    ti = DPOTConfig(size="Ti")
    assert executed_forward_flops(ti, 8) < 0.72 * 8 * forward_flops(ti)


def test_training_runs_the_forward_of_recomputed_blocks_again():
    arch = DPOTConfig(size="L")
    forward = forward_flops(arch)
    assert (
        count_flops(arch, KEEP_ALL).computed == count_flops(arch, KEEP_ALL).training == 3 * forward
    )
    # 98 % of L's products are in its blocks.
    assert 3.9 < count_flops(arch, Recompute(blocks="full")).computed / forward < 4


def test_costs_need_no_torch():
    program = "import sys, dpot_scale.models.dpot.cost; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
