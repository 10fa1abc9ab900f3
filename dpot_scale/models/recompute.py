"""Activation checkpointing: blocks that recompute their activations instead of keeping them.

torch's non-reentrant checkpointing is right in every mode. FairScale's wrapper is the alternative
that can move what is kept to the host; it is unmaintained, so it is imported where it is asked for.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dpot_scale.config.run import EngineConfig

# Blocks draw no random numbers, so no generator is restored.
TORCH: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}

Run = Callable[[Tensor], Tensor]


def runners(blocks: nn.ModuleList, engine: EngineConfig) -> list[Run]:
    """Return how to run each block in the forward pass."""
    match engine.activation_checkpointing:
        case "none":
            return list(blocks)
        case "selective":
            for block in blocks:  # as FairScale does it with the forward of a whole block
                block.__dict__["mix"] = partial(checkpoint, block.mix, **TORCH)
            return list(blocks)
        case mode:
            every = engine.recompute_every if mode == "every_k" else 1
            wrap = _by_fairscale(engine) if engine.recompute_backend == "fairscale" else _by_torch
            return [wrap(block) if i % every == 0 else block for i, block in enumerate(blocks)]


def _by_torch(block: nn.Module) -> Run:
    return partial(checkpoint, block, **TORCH)


def _by_fairscale(engine: EngineConfig) -> Callable[[nn.Module], Run]:
    from fairscale.nn.checkpoint import checkpoint_wrapper

    # It replaces the `forward` of the block it is given, and returns the block.
    return partial(checkpoint_wrapper, offload_to_cpu=engine.recompute_offload)
