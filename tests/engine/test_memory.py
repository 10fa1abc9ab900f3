"""The memory estimate against arithmetic one can do by hand."""

from dpot_scale.config.run import EngineConfig
from dpot_scale.config.strategy import read_strategy
from dpot_scale.engine.memory import (
    GIB,
    KERNELS,
    PROCESS,
    MemoryEstimate,
    estimate_memory,
)
from dpot_scale.models.dpot.config import DPOTConfig
from dpot_scale.models.dpot.cost import count_parameters

ARCH = DPOTConfig(size="L")
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


def test_describe_is_one_line() -> None:
    memory = estimate("zero3_bf16_offload")
    line = memory.describe()
    assert "\n" not in line
    assert line.startswith(f"{memory.total / GIB:.2f} GiB per worker")
    assert "elsewhere" in line
