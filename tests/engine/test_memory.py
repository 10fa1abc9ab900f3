"""The memory estimate against arithmetic one can do by hand."""

from dpot_scale.config.schema import ModelConfig
from dpot_scale.engine.memory import (
    GIB,
    PROCESS,
    MemoryEstimate,
    activation_bytes_per_window,
    estimate_memory,
)
from dpot_scale.engine.strategy import Dtype
from dpot_scale.model.cost import count_parameters
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


def test_describe_is_one_line() -> None:
    memory = estimate(3, offload=True)
    line = memory.describe()
    assert "\n" not in line
    assert line.startswith(f"{memory.total / GIB:.2f} GiB per worker")
    assert "on the host" in line
