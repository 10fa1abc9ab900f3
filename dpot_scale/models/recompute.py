"""Activation checkpointing: blocks that recompute their activations instead of keeping them.

torch's non-reentrant checkpointing is right in every mode. FairScale's wrapper is the alternative
that can move what is kept to the host; it is unmaintained, so it is imported where it is asked for.
"""

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dpot_scale.errors import ConfigError
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
    repeats = recompute.repeats if recompute.blocks != "selective" else (lambda _: False)
    runs: list[Run] = [
        _again(block, recompute) if repeats(i) else block for i, block in enumerate(blocks)
    ]
    return [partial(_with_gradient, blocks[0], runs[0]), *runs[1:]]


def _with_gradient(block: nn.Module, run: Run, x: Tensor) -> Tensor:
    """Return run(x), where x gets a gradient if the block trains.

    It would get none where all is frozen that comes before. ZeRO-3 then frees the parameters of a
    block that is compiled before its backward, and FairScale warns.
    """
    trains = torch.is_grad_enabled() and any(p.requires_grad for p in block.parameters())
    return run(x.detach().requires_grad_() if trains and not x.requires_grad else x)


def _again(block: nn.Module, recompute: Recompute) -> Run:
    if recompute.backend == "torch":
        return partial(repeated, block)
    checkpoint_wrapper = require_fairscale("fairscale.nn.checkpoint").checkpoint_wrapper
    # It replaces the `forward` of the block it is given, and returns the block.
    wrapped: Run = checkpoint_wrapper(block, offload_to_cpu=recompute.offload)
    return wrapped


def require_fairscale(module: str) -> Any:  # noqa: ANN401 - a module without types
    """Return a module of FairScale, which is an extra of this package.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigError(
            "FairScale is not installed, and the config asks for it: pip install "
            "'dpot_scale[fairscale]'"
        ) from error
