"""The file format of the released weights: {args: Namespace, model, optimizer} in a pickle.

Nothing but tensors, plain containers, `argparse.Namespace`, numbers of NumPy and paths is ever
unpickled.
"""

import argparse
import codecs
import pathlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from fnmatch import fnmatch
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from dpot_scale.config.model import ModelConfig
from dpot_scale.errors import CheckpointError, ConfigError
from dpot_scale.models.dpot.config import DPOTConfig
from dpot_scale.models.families import described

PREFIX = "module."  # left by DistributedDataParallel in some released files
ACTIVATION = "gelu"

# Our dimension -> its name in the released args.
ARG_NAMES = {
    "grid": "res",
    "patch": "patch_size",
    "width": "width",
    "depth": "n_layers",
    "heads": "n_blocks",
    "mlp_ratio": "mlp_ratio",
    "modes": "modes",
    "out_layer_dim": "out_layer_dim",
    "history": "T_in",
    "horizon": "T_bundle",
    "normalize": "normalize",
    "channels": "n_channels",
    "num_datasets": "n_class",
    "time_aggregation": "time_agg",
}
# The shapes say these. Of all others a file says nothing: they have their defaults.
IN_SHAPES = ("family", "space_dims")

# What the args of a training script are made of, by the names that each version of NumPy and
# Python gives it in a pickle. A path is only kept: no class here touches the file system.
_SCALAR: Callable[..., Any] = np.float64(0).__reduce__()[0]  # type: ignore[assignment]
_RECONSTRUCT: Callable[..., Any] = np.zeros(0).__reduce__()[0]  # type: ignore[assignment]
_KNOWN: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    argparse.Namespace,
    (codecs.encode, "_codecs.encode"),  # of the bytes of a number, in protocol 2
    np.dtype,
    np.ndarray,
    *(type(np.dtype(kind)) for kind in (*"?bBhHiIlLqQefd", "U")),
    *((_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *((_RECONSTRUCT, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    *(
        (pure, f"{module}.{name}")
        for module in ("pathlib", "pathlib._local")
        for pure, name in (
            (pathlib.PurePosixPath, "PosixPath"),
            (pathlib.PurePosixPath, "PurePosixPath"),
            (pathlib.PureWindowsPath, "WindowsPath"),
            (pathlib.PureWindowsPath, "PureWindowsPath"),
        )
    ),
]
_REFUSED = re.compile(r"Unsupported (?:global: GLOBAL|class) (\S+)")  # in what torch says

Shapes = Mapping[str, tuple[int, ...]]


def read_released(path: Path) -> tuple[DPOTConfig, dict[str, Tensor]]:
    """Return the config and state dict of a released file, without any `module.` prefix.

    Raises:
        CheckpointError: no such file format, or args that describe no DPOT.
    """
    args, state = _contents(path)
    if args.get("act", ACTIVATION) != ACTIVATION:
        raise CheckpointError(
            f"{path} was trained with the activation {args['act']!r}; only {ACTIVATION} is built"
        )
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    return described(DPOTConfig, _dimensions(args, shapes), path), state


def write_released(file: Path | BinaryIO, config: ModelConfig, state: Mapping[str, Tensor]) -> None:
    """Write weights as a released file, which the public implementation reads.

    Raises:
        ConfigError: they are not those of a DPOT, or the format does not know an option of it.
    """
    if not isinstance(config, DPOTConfig):
        raise ConfigError(
            f"the released .pth format holds a dpot, and these are the weights of a "
            f"{config.family}: name a .safetensors file"
        )
    _require_known(config)
    args = {public: getattr(config, ours) for ours, public in ARG_NAMES.items()}
    args |= {"model": "DPOT", "act": ACTIVATION, "normalize": int(config.normalize)}
    torch.save(
        {
            "args": argparse.Namespace(**args),
            "model": dict(state),
            "optimizer": {"state": {}, "param_groups": []},
        },
        file,
    )


def _require_known(config: DPOTConfig) -> None:
    """Refuse a model with an option that the public implementation lacks."""
    said, fields = config.dimensions(), DPOTConfig.model_fields
    unknown = [
        f"model.{name}={said[name]}"
        for name in said.keys() - {*ARG_NAMES, *IN_SHAPES}
        if said[name] != fields[name].default
    ]
    if not isinstance(config.grid, int) or config.grid % config.patch:
        unknown.append(f"model.grid={said['grid']}")
    if unknown:
        raise ConfigError(
            f"the released .pth format does not know {', '.join(sorted(unknown))}, without which "
            "these weights forecast something else: name a .safetensors file"
        )


def _contents(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with torch.serialization.safe_globals(_KNOWN):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile pickle may raise anything
        refused = _REFUSED.search(str(error))
        named = f": it names {refused[1]}, which could run code" if refused else ""
        raise CheckpointError(
            f"{path} is neither a safetensors file nor a released weights file of tensors and "
            f"args only{named}; nothing else in it was loaded"
        ) from error
    if not isinstance(content, dict) or not {"args", "model"} <= content.keys():
        raise CheckpointError(f"{path} is no released weights file: it must hold args and model")
    args, state = content["args"], content["model"]
    if isinstance(args, argparse.Namespace):
        args = vars(args)
    if not isinstance(args, dict):
        raise CheckpointError(f"{path}: args must be a Namespace, not {type(args).__name__}")
    if not isinstance(state, dict) or not _is_state_dict(state.items()):
        raise CheckpointError(f"{path}: model must map parameter names to tensors")
    if all(key.startswith(PREFIX) for key in state):
        state = {key.removeprefix(PREFIX): tensor for key, tensor in state.items()}
    return {key: _plain(value) for key, value in args.items()}, dict(state)


def _plain(value: object) -> object:
    """Return a number of NumPy or torch as one of Python, and a path as text."""
    if isinstance(value, pathlib.PurePath):
        return str(value)
    if isinstance(value, np.generic | np.ndarray | Tensor) and value.ndim == 0:
        return value.item()
    return value


def _is_state_dict(items: Iterable[tuple[object, object]]) -> bool:
    return all(isinstance(key, str) and isinstance(value, Tensor) for key, value in items)


def _dimensions(args: Mapping[str, Any], shapes: Shapes) -> dict[str, object]:
    """Return what args and shapes say of the model, as the fields of a `DPOTConfig`.

    Each is a vote, and so are the published defaults; the earlier one wins a draw. So one damaged
    key is reported as such, and args that contradict all the weights (they may, in the number of
    heads) do no harm. `modes` and the time aggregation only the args can know.
    """
    defaults = DPOTConfig().dimensions()
    counted = [name for name in (*ARG_NAMES, "space_dims") if name != "time_aggregation"]

    def settle(name: str, *seen: Iterable[float]) -> float:
        said = (args.get(ARG_NAMES.get(name, "")), *chain(*seen), defaults[name])
        votes = Counter(value for value in said if isinstance(value, int | float))
        return votes.most_common(1)[0][0] if votes else 0

    def sizes(pattern: str, axis: int) -> Iterator[int]:
        return (s[axis] for s in _matching(shapes, pattern) if -len(s) <= axis < len(s))

    found = {name: settle(name) for name in counted}
    convolutions = [shape for shape in _matching(shapes, "*.[024].weight") if len(shape) > 2]
    found["space_dims"] = settle("space_dims", (len(shape) - 2 for shape in convolutions))
    found["width"] = settle("width", sizes("blocks.*.norm?.weight", 0), sizes("pos_embed", 1))
    found["patch"] = settle("patch", sizes("patch_embed.proj.0.weight", -1))
    found["grid"] = settle("grid", (n * found["patch"] for n in sizes("pos_embed", -1)))
    found["depth"] = settle("depth", [_block_count(shapes)])
    found["heads"] = settle("heads", sizes("blocks.*.filter.[wb]?", 1))
    hidden = sizes("blocks.*.mlp.0.bias", 0)
    found["mlp_ratio"] = settle("mlp_ratio", _quotients(hidden, found["width"]))
    found["out_layer_dim"] = settle("out_layer_dim", sizes("out_layer.[02].bias", 0))
    found["history"] = settle("history", sizes("time_agg_layer.w", 0))
    found["num_datasets"] = settle("num_datasets", sizes("cls_head.4.*", 0))
    place = found["space_dims"] + 1
    found["channels"] = settle(
        "channels",
        (n - place for n in sizes("patch_embed.proj.0.weight", 1)),
        _quotients((n - place for n in sizes("patch_embed.proj.0.*", 0)), found["patch"]),
    )
    return found | {"time_aggregation": args.get("time_agg", DPOTConfig().time_aggregation)}


def _matching(shapes: Shapes, pattern: str) -> list[tuple[int, ...]]:
    return [shape for key, shape in shapes.items() if fnmatch(key, pattern)]


def _block_count(shapes: Shapes) -> int:
    return len({key.split(".")[1] for key in shapes if key.startswith("blocks.")})


def _quotients(values: Iterable[float], divisor: float) -> Iterator[float]:
    return (value / divisor for value in values if divisor > 0)
