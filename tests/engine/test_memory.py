"""The memory estimate against arithmetic one can do by hand."""

import pytest
import torch
from torch import Tensor

from dpot_scale.config.model import ModelConfig
from dpot_scale.config.run import EngineConfig
from dpot_scale.config.strategy import Dtype, read_strategy
from dpot_scale.engine.memory import (
    COMPUTE_BYTES,
    GIB,
    KERNELS,
    PROCESS,
    MemoryEstimate,
    activation_bytes_per_window,
    derived_weight_bytes,
    estimate_memory,
    recomputed_blocks,
)
from dpot_scale.models.dpot.cost import count_parameters
from dpot_scale.models.dpot.network import DPOT
from dpot_scale.models.dpot.sizes import architecture

ARCH = architecture(ModelConfig(size="L"))
PARAMETERS = count_parameters(ARCH).total


def estimate(
    strategy: str, recompute: str = "none", world_size: int = 8, *, on_gpu: bool = True
) -> MemoryEstimate:
    return estimate_memory(
        ARCH, engine(strategy, recompute), world_size=world_size, micro_batch=2, on_gpu=on_gpu
    )


def engine(strategy: str, recompute: str = "none") -> EngineConfig:
    return EngineConfig.model_validate(
        {"deepspeed": read_strategy(strategy), "activation_checkpointing": recompute}
    )


def per_parameter(memory: MemoryEstimate) -> float:
    return memory.state / PARAMETERS


def test_state_per_parameter_of_each_stage() -> None:
    # fp32, one copy: weight 4, moments 8, gradient 4.
    assert per_parameter(estimate("zero0_fp32")) == 16
    # bf16: weight 2, master 4, moments 8, gradient 4; an eighth of what the stage shards.
    assert abs(per_parameter(estimate("zero1_bf16")) - (2 + (4 + 8) / 8 + 4)) < 1e-6
    assert abs(per_parameter(estimate("zero2_bf16")) - (2 + (4 + 8 + 4) / 8)) < 1e-6
    assert abs(per_parameter(estimate("zero3_bf16")) - (2 + 4 + 8 + 4) / 8) < 1e-6
    assert abs(per_parameter(estimate("zero3_bf16_lean")) - (2 + 4 + 8 + 2) / 8) < 1e-6


def test_the_total_is_the_sum_of_the_parts() -> None:
    memory = estimate("zero3_bf16", on_gpu=False)
    working = memory.buffers + memory.activations + memory.passing + memory.holes
    assert memory.process == PROCESS + KERNELS["bf16"]
    assert memory.total == memory.process + working + round(per_parameter(memory) * PARAMETERS)


def test_the_heap_keeps_freed_blocks_on_cpu_unless_memory_is_dear() -> None:
    assert estimate("zero3_bf16", on_gpu=False).holes > estimate("zero2_bf16", on_gpu=False).holes
    for lean in ("zero3_bf16_lean", "zero3_bf16_offload"):
        assert estimate(lean, on_gpu=False).holes == 0
    assert estimate("zero3_bf16").holes == 0  # of the GPU; its host is not estimated


def test_offload_moves_the_state_elsewhere() -> None:
    here, on_host, on_disk = (
        estimate(name) for name in ("zero3_bf16", "zero3_bf16_offload", "zero3_bf16_nvme")
    )
    for moved in (on_host, on_disk):
        assert moved.offloaded == here.total - moved.total == here.state
    # The host of a CPU worker is the worker, but a disk is not.
    assert estimate("zero3_bf16_offload", on_gpu=False).offloaded == 0
    on_disk = estimate("zero3_bf16_nvme", on_gpu=False)
    assert on_disk.offloaded == on_disk.state - on_disk.parameters


def test_each_way_to_recompute_keeps_less() -> None:
    kept = [
        activation_bytes_per_window(ARCH, engine("zero3_bf16", recompute), dtype="bf16")
        for recompute in ("none", "selective", "every_k", "full")
    ]
    assert kept == sorted(kept, reverse=True)
    latent = 2 * ARCH.width * ARCH.latent_grid**2
    assert kept[-1] > ARCH.depth * latent


@pytest.mark.parametrize(
    ("recompute", "blocks"), [("none", 0), ("every_k", 3), ("selective", 5), ("full", 5)]
)
def test_recomputed_blocks(recompute: str, blocks: int) -> None:
    assert recomputed_blocks(5, engine("zero3_bf16", recompute)) == blocks


@pytest.mark.parametrize("windows", [1, 4])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_what_a_forward_keeps(windows: int, dtype: Dtype) -> None:
    arch = architecture(ModelConfig(size="Ti", depth=2, mlp_ratio=3))
    kept_everything = engine("zero1_bf16")
    spectral = torch.bfloat16
    model = DPOT(arch, spectral_dtype=spectral).to(
        {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    )
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
    estimated = windows * activation_bytes_per_window(arch, kept_everything, dtype=dtype)
    # Not kept by the graph: the frames, the forecast twice, a gradient in the output layers.
    elsewhere = 4 * arch.channels * (arch.history + 2) + COMPUTE_BYTES[dtype] * arch.out_layer_dim
    estimated += derived_weight_bytes(arch, kept_everything, dtype=dtype)
    assert found == pytest.approx(estimated - windows * elsewhere * arch.grid**2, rel=0.02)


def test_describe_is_one_line() -> None:
    memory = estimate("zero3_bf16_offload")
    line = memory.describe()
    assert "\n" not in line
    assert line.startswith(f"{memory.total / GIB:.2f} GiB per worker")
    assert "elsewhere" in line
