"""DeepSpeed's own files in a checkpoint: searched for code and read by one process.

Earlier versions left them to DeepSpeed; today only a state that nothing but DeepSpeed reaches is
saved in them. They are pickles, so they are read by torch's unpickler for tensors and plain
containers (`weights_only=True`), which calls nothing that is not in a list here. No import of
DeepSpeed, and no process group, is needed.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dpot_scale.checkpoints.checkpoint import Checkpoint
from dpot_scale.engine.shards import SHARDS
from dpot_scale.engine.state import ADAM_STEPS, WEIGHT, Extent, StoredState
from dpot_scale.engine.zero_state import SCALING
from dpot_scale.errors import CheckpointError

Kinds = dict[str, dict[str, list[Extent]]]


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


def open_deepspeed(folder: Path) -> StoredState:
    """Return the training state in DeepSpeed's files, or as much of it as they tell apart.

    Args:
        folder: A checkpoint, of any number of ranks and any stage.

    Raises:
        Exception: of any kind, where they are not what they seem.
    """
    shards = folder / SHARDS
    # One file of each rank under stage 3, one in all below.
    models = [_load(f) for f in sorted(shards.glob("*mp_rank_00_model_states.pt"), key=_rank)]
    optimizers = [_load(f) for f in sorted(shards.glob("*_optim_states.pt"), key=_rank)]
    if not optimizers:
        return _stage_0(models[0])
    states = [optimizer["optimizer_state_dict"] for optimizer in optimizers]
    if "fp32_flat_groups" in states[0]:
        return _stage_3(models, states)
    return _stage_2(models[0], states)


def _load(file: Path) -> dict[str, Any]:
    """Return what a file says; tensors stay on the disk until they are read."""
    with torch.serialization.safe_globals(_KNOWN):
        content: dict[str, Any] = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    return content


def _rank(file: Path) -> int:
    found = re.search(r"pp_rank_(\d+)", file.name)
    return int(found[1]) if found else 0


def _stage_0(model: Mapping[str, Any]) -> StoredState:
    """Each rank has everything, and nothing names the parameters that the optimizer counts.

    Where all train alike, they are those of the model, in its order.
    """
    module: Mapping[str, Tensor] = model["module"]
    kinds: Kinds = {WEIGHT: {name: [_whole(value)] for name, value in module.items()}}
    optimizer = model.get("optimizer")
    groups = optimizer["param_groups"] if optimizer else []
    moments: Mapping[int, Mapping[str, Any]] = optimizer["state"] if optimizer else {}
    is_known = bool(optimizer) and (
        not moments or (len(groups) == 1 and list(moments) == list(range(len(module))))
    )
    for name, state in zip(module, moments.values(), strict=False) if is_known else ():
        for kind, moment in _moments(state).items():
            is_known = is_known and moment.shape == module[name].shape
            kinds.setdefault(kind, {})[name] = [_whole(moment)]
    shapes = {name: tuple(value.shape) for name, value in module.items()}
    if not is_known:
        return StoredState(shapes, {WEIGHT: kinds[WEIGHT]}, {}, is_complete=False)
    return StoredState(shapes, kinds, _numbers(model, moments.values()))


def _stage_2(model: Mapping[str, Any], states: Sequence[Mapping[str, Any]]) -> StoredState:
    """Stages 1 and 2 lay the parameters of a group end to end and cut that into a part per rank."""
    by_group = [_tuples(shapes) for shapes in model["param_shapes"]]
    paddings = states[0].get("param_alignment_paddings") or [[0] * len(one) for one in by_group]
    bases = [state["base_optimizer_state"]["state"] for state in states]
    kinds: Kinds = {}
    for group, of_group in enumerate(by_group):
        parts = {WEIGHT: [state["single_partition_of_fp32_groups"][group] for state in states]}
        for kind in _moments(bases[0].get(group, {})):
            parts[kind] = [base[group][kind] for base in bases]
        for kind, stream in parts.items():
            start = 0
            for (name, shape), gap in zip(of_group.items(), paddings[group], strict=True):
                found = _extents([stream], start, prod(shape), prod(shape))
                kinds.setdefault(kind, {})[name] = found
                start += prod(shape) + gap
            _check_used(start, sum(part.numel() for part in stream), slack=2 * len(parts[kind]))
    module: Mapping[str, Tensor] = model["module"]
    # What does not train has no master, and each rank has the whole of it.
    frozen = {name: value for name, value in module.items() if name not in kinds[WEIGHT]}
    kinds[WEIGHT] |= {name: [_whole(value)] for name, value in frozen.items()}
    shapes = {name: tuple(value.shape) for name, value in module.items()}
    return StoredState(shapes, kinds, _numbers(states[0], bases[0].values()))


def _stage_3(
    models: Sequence[Mapping[str, Any]], states: Sequence[Mapping[str, Any]]
) -> StoredState:
    """Stage 3 cuts each parameter into a part per rank; a rank lays its parts end to end."""
    ranks = len(states)
    shapes = {n: s for group in models[0]["param_shapes"] for n, s in _tuples(group).items()}
    bases = [state["optimizer_state_dict"]["state"] for state in states]
    streams = {WEIGHT: [state["fp32_flat_groups"] for state in states]}
    for kind in {kind: None for one in bases[0].values() for kind in _moments(one)}:
        streams[kind] = [
            [  # several tensors, of which some may have no such moment
                base.get(n, {}).get(kind, torch.empty_like(master, device="meta"))
                for n, master in enumerate(masters)
            ]
            for base, masters in zip(bases, streams[WEIGHT], strict=True)
        ]
    kinds: Kinds = {}
    start = 0
    for name, shape in shapes.items():
        size = -(-prod(shape) // ranks)  # the last part is padded
        for kind, stream in streams.items():
            if found := _extents(stream, start, size, prod(shape)):
                kinds.setdefault(kind, {})[name] = found
        start += size
    _check_used(start, sum(part.numel() for part in streams[WEIGHT][0]), slack=1)
    frozen = _tuples(models[0].get("frozen_param_shapes") or {})
    for name, shape in frozen.items():
        fragments = [[model["frozen_param_fragments"][name].flatten()] for model in models]
        kinds[WEIGHT][name] = _extents(fragments, 0, -(-prod(shape) // ranks), prod(shape))
    return StoredState(shapes | frozen, kinds, _numbers(states[0], bases[0].values()))


def _tuples(shapes: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(shape) for name, shape in shapes.items()}


def _moments(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return what an optimizer keeps of the size of a master."""
    return {k: v for k, v in state.items() if isinstance(v, Tensor) and v.dim() > 0}


def _numbers(saved: Mapping[str, Any], states: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return the numbers of a training state."""
    scaling = vars(saved["loss_scaler"]) if saved.get("dynamic_loss_scale") else {}
    numbers = {key: float(scaling[key]) for key in SCALING if key in scaling}
    steps = [int(state["step"]) for state in states if "step" in state]
    return numbers | ({ADAM_STEPS: max(steps)} if steps else {})


def _check_used(used: int, there: int, *, slack: int) -> None:
    """Refuse a stream that parameters do not fill, up to its alignment."""
    if -(-used // slack) != -(-there // slack):
        raise ValueError(f"the parameters take {used} of the {there} numbers that there are")


def _whole(value: Tensor) -> Extent:
    return Extent(0, value.numel(), value.detach().reshape(-1))


def _extents(
    streams: Sequence[Sequence[Tensor]], start: int, size: int, total: int
) -> list[Extent]:
    """Return where a parameter lies that has `size` numbers of each stream, a row of tensors.

    Args:
        streams: Of each rank that cuts a parameter, or one of all.
        start: Where it begins in each.
        size: How much of each is its.
        total: How many numbers it has; what follows in the last stream is padding.
    """
    found = []
    for number, stream in enumerate(streams):
        first = 0
        for tensor in stream:
            low, high = max(start, first), min(start + size, first + tensor.numel())
            at = number * size + low - start
            high = min(high, low + total - at)
            if low < high and not tensor.is_meta:
                found.append(Extent(at, high - low, tensor[low - first : high - first]))
            first += tensor.numel()
    return found
