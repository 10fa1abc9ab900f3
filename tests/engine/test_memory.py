"""The memory estimate against arithmetic one can do by hand."""

from dpot_scale.config.engine import EngineConfig
from dpot_scale.config.optim import OptimConfig
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
    strategy: str, recompute: str = "none", optimizer: str = "adam", *, on_gpu: bool = True
) -> MemoryEstimate:
    optim = OptimConfig.model_validate({"kind": optimizer})
    return estimate_memory(
        ARCH, engine(strategy, recompute), optim, world_size=8, micro_batch=2, on_gpu=on_gpu
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


def test_muon_keeps_one_moment_of_a_matrix() -> None:
    width, hidden, heads = ARCH.width, ARCH.mlp_ratio * ARCH.width, ARCH.heads
    matrices = ARCH.depth * (2 * width * hidden + 4 * heads * (width // heads) ** 2)
    assert matrices > 0.4 * PARAMETERS
    for strategy, ranks in (("zero0_fp32", 1), ("zero1_bf16", 8), ("zero3_bf16", 8)):
        adam, muon = estimate(strategy), estimate(strategy, optimizer="muon")
        assert abs(adam.state - muon.state - 4 * matrices / ranks) <= 4
        assert adam.state - adam.moments == muon.state - muon.moments
    # While matrices are made orthogonal, some more are there: on a GPU still less in all.
    assert estimate("zero3_bf16").passing <= estimate("zero3_bf16", optimizer="muon").passing
    assert estimate("zero3_bf16", optimizer="muon").total < estimate("zero3_bf16").total


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
    here, moved = (estimate(name) for name in ("zero3_bf16", "zero3_bf16_offload"))
    assert moved.offloaded == here.total - moved.total == here.state
    # The host of a CPU worker is the worker.
    assert estimate("zero3_bf16_offload", on_gpu=False).offloaded == 0


def test_describe_is_one_line() -> None:
    memory = estimate("zero3_bf16_offload")
    line = memory.describe()
    assert "\n" not in line
    assert line.startswith(f"{memory.total / GIB:.2f} GiB per worker")
    assert "elsewhere" in line
