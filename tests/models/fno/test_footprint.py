"""What a forward of an FNO keeps, against what its graph holds."""

from math import prod

import pytest
import torch
from torch import Tensor

from dpot_scale.config.strategy import Dtype
from dpot_scale.models.family import KEEP_ALL
from dpot_scale.models.fno.config import PROJECTION, FNOConfig
from dpot_scale.models.fno.footprint import footprint
from dpot_scale.models.fno.network import FNO

DTYPES: dict[Dtype, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}


@pytest.mark.parametrize("windows", [1, 4])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("grid", [64, (40, 24)])
def test_what_a_forward_keeps(windows: int, dtype: Dtype, grid: int | tuple[int, int]) -> None:
    model = FNOConfig(width=24, depth=3, grid=grid, modes=16)
    network = FNO(model).to(DTYPES[dtype])
    weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    kept: dict[int, Tensor] = {}  # the tensors themselves, so that no memory is used twice

    def keep(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(torch.randn(windows, model.history, model.channels, *model.space))
    found = sum(t.untyped_storage().nbytes() for at, t in kept.items() if at not in weights)
    estimated = footprint(model, KEEP_ALL, dtype, "float32")
    # Not kept by the graph: the frames, the forecast twice, a gradient in the output layers.
    elsewhere = 4 * model.channels * (model.history + 2)
    elsewhere += DTYPES[dtype].itemsize * PROJECTION * model.width
    elsewhere *= prod(model.space)
    kept_by_graph = windows * (estimated.per_window - elsewhere) + estimated.fixed
    assert found == pytest.approx(kept_by_graph, rel=0.02)


def test_no_view_of_a_weight_is_kept() -> None:
    """Under ZeRO-3 the memory behind a view of a gathered weight could not be freed."""
    network = FNO(FNOConfig(width=6, depth=1, modes=3, grid=16)).bfloat16()
    weight, kept = network.blocks[0].spectral.weight, []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor
    ):
        network(torch.randn(1, 10, 4, 16, 16))
    of_weight = [t for t in kept if t.untyped_storage().data_ptr() == weight.data_ptr()]
    assert [t.shape for t in of_weight] == [weight.shape]
    assert not any(t.numel() == weight.numel() for t in kept if t.dtype == torch.float32)
