"""The memory estimate against arithmetic one can do by hand."""

import pytest
import torch
from torch import Tensor

from dpot_scale.config.schema import ModelConfig
from dpot_scale.engine.memory import (
    COMPUTE_BYTES,
    GIB,
    PROCESS,
    MemoryEstimate,
    activation_bytes_per_window,
    derived_weight_bytes,
    estimate_memory,
)
from dpot_scale.engine.strategy import Dtype
from dpot_scale.model.cost import count_parameters
from dpot_scale.model.dpot import DPOT
from dpot_scale.model.sizes import architecture

ARCH = architecture(ModelConfig(size="L"))
PARAMETERS = count_parameters(ARCH).total


def estimate(
    stage: int,
    dtype: Dtype = "bf16",
    world_size: int = 8,
    *,
    recompute: bool = False,
    offload: bool = False,
    on_gpu: bool = True,
) -> MemoryEstimate:
    return estimate_memory(
        ARCH,
        stage=stage,
        dtype=dtype,
        world_size=world_size,
        micro_batch=2,
        recompute=recompute,
        offload=offload,
        on_gpu=on_gpu,
    )


def state(memory: MemoryEstimate) -> float:
    """Bytes per parameter of what lasts."""
    lasting = memory.parameters + memory.masters + memory.moments + memory.gradients
    return lasting / PARAMETERS


def test_state_per_parameter_of_each_stage() -> None:
    # fp32, one copy: weight 4, moments 8, gradient 4.
    assert state(estimate(0, "fp32")) == 16
    # bf16: weight 2, master 4, moments 8, gradient 4; an eighth of what the stage shards.
    assert abs(state(estimate(1)) - (2 + (4 + 8) / 8 + 4)) < 1e-6
    assert abs(state(estimate(2)) - (2 + (4 + 8 + 4) / 8)) < 1e-6
    assert abs(state(estimate(3)) - (2 + 4 + 8 + 4) / 8) < 1e-6


def test_the_total_is_the_sum_of_the_parts() -> None:
    memory = estimate(3, on_gpu=False)
    parts = memory.gathered + memory.buffers + memory.activations + memory.slack
    assert memory.total - PROCESS - parts == round(state(memory) * PARAMETERS)
    assert memory.slack > 0


def test_offload_moves_the_state_to_the_host() -> None:
    here, there = estimate(3), estimate(3, offload=True)
    assert there.offloaded == here.total - there.total == round(state(here) * PARAMETERS)


def test_recompute_keeps_one_latent_per_block() -> None:
    kept = activation_bytes_per_window(ARCH, dtype="bf16", recompute=False)
    recomputed = activation_bytes_per_window(ARCH, dtype="bf16", recompute=True)
    latent = 2 * ARCH.width * ARCH.latent_grid**2
    assert recomputed < kept
    assert recomputed > ARCH.depth * latent


@pytest.mark.parametrize("windows", [1, 4])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_what_a_forward_keeps(windows: int, dtype: Dtype) -> None:
    arch = architecture(ModelConfig(size="Ti", depth=2, mlp_ratio=3))
    model = DPOT(arch).to({"fp32": torch.float32, "bf16": torch.bfloat16}[dtype])
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, Tensor] = {}  # the tensors themselves, so that no memory is used twice

    def keep(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(torch.randn(windows, arch.history, arch.channels, arch.grid, arch.grid))
    found = sum(
        tensor.untyped_storage().nbytes()
        for address, tensor in kept.items()
        if address not in weights
    )
    estimated = windows * activation_bytes_per_window(arch, dtype=dtype, recompute=False)
    # Not kept by the graph: the frames, the forecast twice, a gradient in the output layers.
    elsewhere = 4 * arch.channels * (arch.history + 2) + COMPUTE_BYTES[dtype] * arch.out_layer_dim
    estimated += derived_weight_bytes(arch, dtype=dtype, recompute=False)
    assert found == pytest.approx(estimated - windows * elsewhere * arch.grid**2, rel=0.02)


def test_describe_is_one_line() -> None:
    memory = estimate(3, offload=True)
    line = memory.describe()
    assert "\n" not in line
    assert line.startswith(f"{memory.total / GIB:.2f} GiB per worker")
    assert "on the host" in line
