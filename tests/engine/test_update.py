"""The FLOPs of an update: by formula as the products that run, and the same wherever they count."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dpot_scale.config.load import load_run
from dpot_scale.engine.muon import orthogonal
from dpot_scale.engine.update import orthogonal_flops, update_flops


@pytest.mark.parametrize(("rows", "columns"), [(8, 8), (16, 6), (6, 40)])
def test_the_formula_counts_the_products_that_run(rows: int, columns: int) -> None:
    with FlopCounterMode(display=False) as counter:
        orthogonal(torch.randn(3, rows, columns), torch.float32)
    assert counter.get_total_flops() == 3 * orthogonal_flops(rows, columns)


def test_an_update_written_out_by_hand() -> None:
    """Two blocks of width 32 with 4 heads, and an MLP of twice the width."""
    model = "model={width: 32, depth: 2, heads: 4, mlp_ratio: 2, out_layer_dim: 8}"
    run = load_run("quickstart", [model])
    of_mixer = 16 * 5 * (4 * 8 * 8 * 8 + 2 * 8**3)
    of_mlp = 2 * 5 * (4 * 32 * 32 * 64 + 2 * 32**3)
    assert update_flops(run.model, run.optim, run.start) == 2 * (of_mixer + of_mlp) == 7_045_120
    adam = load_run("quickstart", [model, "optim.kind=adam"])
    assert update_flops(adam.model, adam.optim, adam.start) == 0
    frozen = ["start={source: weights.pth, components: {blocks: freeze}}"]
    still = load_run("quickstart", [model, *frozen])
    assert update_flops(still.model, still.optim, still.start) == 0
