"""The files that ranks write into a checkpoint: searched for code and read by one process.

No import of DeepSpeed, and no process group, is needed to read them. They are DeepSpeed's own, and
pickles: a format of ours would be written beside them, because DeepSpeed resumes only from its own,
and would double what a checkpoint takes. So they are read as they are by torch's unpickler for
tensors and plain containers (`weights_only=True`), which calls nothing that is not in a list here.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dpot_scale.checkpoints.checkpoint import Checkpoint
from dpot_scale.engine.shards import SHARDS
from dpot_scale.errors import CheckpointError


class _Opaque:
    """Stands for an object of DeepSpeed that nobody needs: its state is kept, and never run."""

    def __init__(self, *_: object) -> None:
        pass


# All that DeepSpeed's own files name beside tensors and plain containers, at any stage and dtype.
_KNOWN: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (int, "deepspeed.runtime.zero.config.ZeroStageEnum"),
    (_Opaque, "deepspeed.runtime.fp16.loss_scaler.LossScaler"),
    (_Opaque, "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler"),
    (_Opaque, "deepspeed.utils.tensor_fragment.fragment_address"),
]


def foreign_names(file: Path) -> list[str]:
    """Return what a file of a checkpoint would call that DeepSpeed's never do; runs nothing.

    DeepSpeed unpickles its files, and a pickle may name any function to be called.
    """
    try:
        with torch.serialization.safe_globals(_KNOWN):
            return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(file))
    except Exception:  # a hostile file may raise anything
        return ["something that cannot be examined"]


def pickles(checkpoint: Checkpoint) -> list[str]:
    """Return the files that DeepSpeed may unpickle: it reads those that no marker names, too."""
    there = {f"{SHARDS}/{file.name}" for file in (checkpoint.folder / SHARDS).glob("*.pt")}
    return sorted(there.union(name for name in checkpoint.marker.files if name.endswith(".pt")))


def refuse_code(checkpoint: Checkpoint, names: Iterable[str] | None = None) -> None:
    """Refuse a checkpoint that would run code when it is read.

    Args:
        checkpoint: The checkpoint.
        names: Those of its `pickles` to examine; None for all.

    Raises:
        CheckpointError: one of the named files is no mere tensors.
    """
    for name in pickles(checkpoint) if names is None else names:
        file = checkpoint.folder / name
        if foreign := foreign_names(file):
            raise CheckpointError(
                f"{file} would run {', '.join(foreign)} when it is loaded, which no checkpoint of "
                "dpot_scale does: remove this checkpoint and find out who changed it"
            )


class Master(NamedTuple):
    """The fp32 master of a parameter in a checkpoint."""

    shape: tuple[int, ...]
    read: Callable[[], Tensor]


def masters(folder: Path) -> dict[str, Master]:
    """Return the masters of all parameters of a checkpoint by their names; none is read yet.

    Args:
        folder: A checkpoint, of any number of ranks and any stage.

    Raises:
        CheckpointError: its files are not those of a checkpoint of DeepSpeed.
    """
    shards = folder / SHARDS
    try:
        # One file of each rank under stage 3, one in all below.
        models = [_load(f) for f in sorted(shards.glob("*mp_rank_00_model_states.pt"), key=_rank)]
        model = models[0]
        optimizers = [_load(f) for f in sorted(shards.glob("*_optim_states.pt"), key=_rank)]
        if not optimizers:  # stage 0: each rank has everything
            return {n: Master(tuple(t.shape), t.detach().float) for n, t in model["module"].items()}
        states = [optimizer["optimizer_state_dict"] for optimizer in optimizers]
        if "fp32_flat_groups" in states[0]:
            found = _of_stage_3(model["param_shapes"], [s["fp32_flat_groups"] for s in states])
            return found | _frozen_of_stage_3(models)
        parts = [state["single_partition_of_fp32_groups"] for state in states]
        paddings = states[0].get("param_alignment_paddings")
        found = _of_stage_2(model["param_shapes"], parts, paddings)
        # What does not train has no master, and each rank has the whole of it.
        frozen = {name: value for name, value in model["module"].items() if name not in found}
        return found | {n: Master(tuple(t.shape), t.detach().float) for n, t in frozen.items()}
    except Exception as error:  # a hostile file may raise anything
        raise CheckpointError(
            f"{shards} does not hold the files of a checkpoint ({type(error).__name__}: {error}); "
            "choose another checkpoint"
        ) from error


def _load(file: Path) -> dict[str, Any]:
    """Return what a file says; tensors stay on the disk until they are read."""
    with torch.serialization.safe_globals(_KNOWN):
        content: dict[str, Any] = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    return content


def _rank(file: Path) -> int:
    found = re.search(r"pp_rank_(\d+)", file.name)
    return int(found[1]) if found else 0


def _of_stage_2(
    shapes: Sequence[Mapping[str, Sequence[int]]],
    parts: Sequence[Sequence[Tensor]],
    paddings: Sequence[Sequence[int]] | None,
) -> dict[str, Master]:
    """Stages 1 and 2 lay the parameters of a group end to end and cut that into a part per rank.

    Args:
        shapes: The shapes of the parameters of each group.
        parts: For each rank, its part of each group.
        paddings: For each group, the values that follow each parameter; None for none.
    """
    found: dict[str, Master] = {}
    for group, of_group in enumerate(shapes):
        stream = [of_rank[group] for of_rank in parts]
        gaps = paddings[group] if paddings else [0] * len(of_group)
        start = 0
        for (name, shape), gap in zip(of_group.items(), gaps, strict=True):
            found[name] = _master([stream], start, prod(shape), tuple(shape))
            start += prod(shape) + gap
        _check_used(start, sum(part.numel() for part in stream), slack=2 * len(parts))
    return found


def _of_stage_3(
    shapes: Sequence[Mapping[str, Sequence[int]]], groups: Sequence[Sequence[Tensor]]
) -> dict[str, Master]:
    """Stage 3 cuts each parameter into a part per rank; a rank lays its parts end to end.

    Args:
        shapes: The shapes of the parameters of each group.
        groups: For each rank, its parts of all parameters, in several tensors.
    """
    found: dict[str, Master] = {}
    start = 0
    for of_group in shapes:
        for name, shape in of_group.items():
            size = -(-prod(shape) // len(groups))  # the last part is padded
            found[name] = _master(groups, start, size, tuple(shape))
            start += size
    _check_used(start, sum(part.numel() for part in groups[0]), slack=1)
    return found


def _frozen_of_stage_3(models: Sequence[Mapping[str, Any]]) -> dict[str, Master]:
    """Return what does not train: it has no master, and stage 3 cuts it into a part per rank.

    Args:
        models: Of each rank, what it says of the model.
    """
    fragments = [model.get("frozen_param_fragments") or {} for model in models]
    shapes = models[0].get("frozen_param_shapes") or {}
    return {
        name: _master([[of_rank[name].flatten()] for of_rank in fragments], 0, size, tuple(shape))
        for name, shape in shapes.items()
        for size in [-(-prod(shape) // len(models))]
    }


def _check_used(used: int, there: int, *, slack: int) -> None:
    """Refuse a stream that parameters do not fill, up to its alignment."""
    if -(-used // slack) != -(-there // slack):
        raise ValueError(f"the parameters take {used} of the {there} numbers that there are")


def _master(
    streams: Sequence[Sequence[Tensor]], start: int, size: int, shape: tuple[int, ...]
) -> Master:
    return Master(shape, partial(_joined, streams, start, size, shape))


def _joined(
    streams: Sequence[Sequence[Tensor]], start: int, size: int, shape: tuple[int, ...]
) -> Tensor:
    """Return a parameter from `size` numbers of each stream, which is a row of tensors."""
    parts = []
    for stream in streams:
        first = 0
        for tensor in stream:
            low, high = max(start, first), min(start + size, first + tensor.numel())
            if low < high:
                parts.append(tensor[low - first : high - first])
            first += tensor.numel()
    return torch.cat(parts)[: prod(shape)].reshape(shape).detach().float()
