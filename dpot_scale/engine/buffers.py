"""The sizes of DeepSpeed's buffers, in elements, from the model and the device.

On a GPU the sizes serve speed and only keep the largest models in bounds. On CPU they serve memory:
what one block needs suffices to keep the cores busy, and larger messages are not faster. No torch
here, so plans and memory estimates stay cheap.
"""

from dataclasses import dataclass

from dpot_scale.config.deepspeed_keys import BUCKET_MULTIPLE
from dpot_scale.models.family import Footprint

CHUNK_GPU, LIVE_GPU = 200_000_000, 1_000_000_000
# Below this many elements on CPU the latency of a message exceeds the time to copy it.
CHUNK_CPU = 5_000_000
# On a GPU parameters of at most so many vectors stay whole on every rank. On CPU none do: they are
# gathered one by one after each step, and the latency of that exceeds a step.
PERSISTENT_VECTORS = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Buffers:
    """Sizes in elements."""

    chunk: int  # gradients reduced together, parameters gathered ahead or updated together
    live: int  # parameters gathered at a time, those ahead of their use included
    reuse_distance: int  # a parameter used again within so many others is not gathered again
    persistent: int  # parameters of at most this size are never sharded


def fit_buffers(footprint: Footprint, *, on_gpu: bool) -> Buffers:
    """Return the sizes for a model."""
    if on_gpu:
        chunk, live, reuse_distance = CHUNK_GPU, LIVE_GPU, LIVE_GPU
    else:
        chunk = max(CHUNK_CPU, footprint.block_matrix)
        live, reuse_distance = footprint.block + chunk, footprint.block
    return Buffers(
        chunk=min(footprint.parameters, chunk),
        live=min(footprint.parameters, live),
        reuse_distance=min(footprint.parameters, reuse_distance),
        persistent=PERSISTENT_VECTORS * footprint.vector if on_gpu else 0,
    )


def deepspeed_sizes(buffers: Buffers, stage: int) -> dict[str, int]:
    """Return the sizes under the names that DeepSpeed has for them at a stage of ZeRO."""
    if stage == 0:
        return {}
    if stage < 3:
        bucket = buffers.chunk + -buffers.chunk % BUCKET_MULTIPLE
        return {"reduce_bucket_size": bucket, "allgather_bucket_size": bucket}
    return {
        "reduce_bucket_size": buffers.chunk,
        "sub_group_size": buffers.chunk,
        "stage3_prefetch_bucket_size": buffers.chunk,
        "stage3_param_persistence_threshold": buffers.persistent,
        "stage3_max_live_parameters": buffers.live,
        "stage3_max_reuse_distance": buffers.reuse_distance,
    }
