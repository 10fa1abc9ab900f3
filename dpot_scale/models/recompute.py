"""Activation checkpointing: blocks that recompute their activations instead of keeping them.

torch's non-reentrant checkpointing is right in every mode. FairScale's wrapper is the alternative
that can move what is kept to the host; it is unmaintained, so it is imported where it is asked for.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dpot_scale.models.family import Recompute

# Blocks draw no random numbers, so no generator is restored.
TORCH: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}

Run = Callable[[Tensor], Tensor]


def repeated(run: Run, x: Tensor) -> Tensor:
    """Return run(x), of which only x is kept: the backward runs it a second time."""
    output: Tensor = checkpoint(run, x, **TORCH)
    return output


def runners(blocks: nn.ModuleList, recompute: Recompute) -> list[Run]:
    """Return how to run each block in the forward pass.

    A block that repeats a part of itself (selective) does so by itself.
    """
    if recompute.blocks == "selective":
        return list(blocks)
    return [
        _again(block, recompute) if recompute.repeats(i) else block
        for i, block in enumerate(blocks)
    ]


def _again(block: nn.Module, recompute: Recompute) -> Run:
    if recompute.backend == "torch":
        return partial(repeated, block)
    from fairscale.nn.checkpoint import checkpoint_wrapper

    # It replaces the `forward` of the block it is given, and returns the block.
    wrapped: Run = checkpoint_wrapper(block, offload_to_cpu=recompute.offload)
    return wrapped
