"""What one rank needs, in bytes, by formula. No torch here, so plans stay cheap."""

from dataclasses import dataclass, fields
from math import prod

from dpot_scale.engine.strategy import (
    BUCKET_CPU,
    BUCKET_GPU,
    LIVE_PARAMETERS_CPU,
    LIVE_PARAMETERS_GPU,
    Dtype,
)
from dpot_scale.model.cost import count_parameters
from dpot_scale.model.sizes import Architecture

FP32 = 4
COMPUTE_BYTES: dict[Dtype, int] = {"fp32": 4, "bf16": 2, "fp16": 2}
MIB = 2**20
GIB = 2**30
# Resident memory of a process that has imported torch and DeepSpeed and built a tiny engine
# (measured on CPU, torch 2.13, DeepSpeed 0.19.8); a CUDA context takes about as much of a GPU.
PROCESS = 490 * MIB
# Gathering and freeing parameters leaves holes that glibc keeps: resident memory over the sum of
# what is alive, measured on DPOT-Ti and DPOT-M. Under ZeRO-2 there is none; on a GPU, not measured.
ALLOCATOR_SLACK_ZERO3_CPU = 1.5


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryEstimate:
    """Bytes per rank, part by part, at the peak of a step."""

    process: int  # interpreter, libraries, device context
    parameters: int  # the shard, or all of them, in the compute dtype
    masters: int  # fp32
    moments: int  # Adam's two, fp32
    gradients: int  # fp32
    gathered: int  # parameters of other ranks that are here for a while
    buffers: int  # gradients under reduction, and the flat gradient of the update
    activations: int
    slack: int  # freed memory the allocator keeps
    offloaded: int  # of the above, in host memory instead: not part of the total

    @property
    def total(self) -> int:
        """Bytes on the device of one rank; on CPU, of its process."""
        parts: list[int] = [getattr(self, field.name) for field in fields(self)]
        return sum(parts) - 2 * self.offloaded

    def describe(self) -> str:
        """Return one line for the header of a run."""
        state = self.parameters + self.masters + self.moments + self.gradients
        passing = self.gathered + self.buffers + self.slack
        host = f", {self.offloaded / GIB:.2f} GiB of it on the host" if self.offloaded else ""
        return (
            f"{self.total / GIB:.2f} GiB per worker: state {state / GIB:.2f}{host}, activations "
            f"{self.activations / GIB:.2f}, buffers and allocator {passing / GIB:.2f}, process "
            f"{self.process / GIB:.2f}"
        )


def estimate_memory(
    arch: Architecture,
    *,
    stage: int,
    dtype: Dtype,
    world_size: int,
    micro_batch: int,
    recompute: bool,
    offload: bool,
    on_gpu: bool = False,
) -> MemoryEstimate:
    """Return what a rank needs to train.

    Args:
        arch: The model.
        stage: Of ZeRO, 0 to 3.
        dtype: Of the parameters in the forward.
        world_size: Ranks the state is spread over.
        micro_batch: Windows per forward.
        recompute: Whether activation checkpointing keeps only the input of each block.
        offload: Whether parameters, masters, moments and gradients live in host memory.
        on_gpu: Decides the size of buffers, and whether the allocator's slack is known.
    """
    parameters = count_parameters(arch).total
    share = -(-parameters // world_size)
    compute = COMPUTE_BYTES[dtype]
    bucket = min(parameters, BUCKET_GPU if on_gpu else BUCKET_CPU)
    live = min(parameters, LIVE_PARAMETERS_GPU if on_gpu else LIVE_PARAMETERS_CPU)
    state = {
        "parameters": compute * (share if stage == 3 else parameters),
        "masters": FP32 * share if stage else 0,  # stage 0 updates the parameters themselves
        "moments": 2 * FP32 * (share if stage else parameters),
        "gradients": FP32 * (share if stage >= 2 else parameters),
    }
    # A gather fills one flat buffer, from which the parameters are copied.
    gathered = compute * (live + bucket) if stage == 3 else compute * bucket if stage else 0
    updated = min(share, live // world_size) if stage == 3 else share if stage else 0
    buffers = FP32 * (bucket + updated) if stage else FP32 * parameters
    activations = micro_batch * activation_bytes_per_window(arch, dtype=dtype, recompute=recompute)
    activations += derived_weight_bytes(arch, dtype=dtype, recompute=recompute)
    alive = sum(state.values()) + gathered + buffers + activations
    return MemoryEstimate(
        process=PROCESS,
        **state,
        gathered=gathered,
        buffers=buffers,
        activations=activations,
        slack=int((ALLOCATOR_SLACK_ZERO3_CPU - 1) * alive) if stage == 3 and not on_gpu else 0,
        offloaded=sum(state.values()) if offload else 0,
    )


def activation_bytes_per_window(arch: Architecture, *, dtype: Dtype, recompute: bool) -> int:
    """Return what the forward of one window keeps for its backward, layer by layer."""
    compute = COMPUTE_BYTES[dtype]
    points = int(arch.grid**arch.space_dims)
    latents = int(arch.latent_grid**arch.space_dims)
    latent = arch.width * latents  # elements of one latent state
    # Frames, their patches, both sides of the GELU.
    embedding = arch.history * (
        (FP32 + compute) * arch.channels * points + compute * 2 * arch.patch_width * latents
    )
    # Inputs of both norms, output of the second, the hidden layer before and after its GELU; three
    # spectra, which a spectral_dtype of bfloat16 would halve.
    block = compute * (3 + 2 * arch.mlp_ratio) * latent
    block += FP32 * 3 * 2 * arch.width * prod(arch.kept_modes)
    blocks = arch.depth * compute * latent + block if recompute else arch.depth * block
    # The last latent state, before and after the two GELUs, and the gradient of one of them.
    output = compute * (latent + 5 * arch.out_layer_dim * points)
    return embedding + blocks + output + FP32 * 2 * arch.channels * arch.horizon * points


def derived_weight_bytes(arch: Architecture, *, dtype: Dtype, recompute: bool) -> int:
    """Return what a forward computes from weights and keeps for its backward, for any batch.

    The complex products as real ones, in each block; the temporal weights with their cosines, their
    sum over frames, and the merged matrix; the output patches with their channels last.
    """
    width = arch.width
    joint = 2 * 4 * width * (width // arch.heads)
    merged = (arch.history + 1) * width**2 + arch.history * arch.patch_width * width
    patches = width * arch.out_layer_dim * int(arch.patch**arch.space_dims)
    spectral = FP32 * joint * (1 if recompute else arch.depth)
    return spectral + COMPUTE_BYTES[dtype] * (merged + patches)
