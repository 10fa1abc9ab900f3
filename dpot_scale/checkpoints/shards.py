"""The file that a rank writes into a checkpoint, and the training state that all files hold.

Each is a safetensors file: tensors behind a JSON header, no pickle. A tensor `KIND/NAME` holds
consecutive numbers of a parameter; the metadata say with which one they begin, so one process or
any number of ranks may put together what they need.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

from dpot_scale.checkpoints.checkpoint import cannot_read, is_file, says_there_is_none
from dpot_scale.checkpoints.deepspeed_files import open_deepspeed
from dpot_scale.checkpoints.tensor_file import tensor_header
from dpot_scale.config.record import FORMAT_KEY, require_format
from dpot_scale.engine.shards import SHARDS
from dpot_scale.engine.state import Extent, Snapshot, StoredState
from dpot_scale.errors import CheckpointError

FORMAT = 1
SHAPES, STARTS, NUMBERS = "shapes", "starts", "numbers"  # keys of the metadata


def shard_file(rank: int) -> str:
    """Return the file of a rank inside a checkpoint."""
    return f"{SHARDS}/rank_{rank:05d}.safetensors"


def write_shard(path: Path, snapshot: Snapshot) -> None:
    """Write what a rank keeps, one tensor at a time.

    Raises:
        OSError: it cannot be written.
    """
    metadata = {
        FORMAT_KEY: str(FORMAT),
        SHAPES: json.dumps(snapshot.shapes),
        STARTS: json.dumps({part.name: part.start for part in snapshot.parts}),
        NUMBERS: json.dumps(snapshot.numbers),
    }
    tensors = {f"{part.kind}/{part.name}": part.values for part in snapshot.parts}
    described = {key: (values.dtype, tuple(values.shape)) for key, values in tensors.items()}
    with path.open("wb") as file:
        file.write(tensor_header(described, metadata))
        for values in tensors.values():
            file.write(values.detach().cpu().contiguous().view(torch.uint8).numpy().data)


def is_ours(folder: Path) -> bool:
    """Return whether a checkpoint is one of tensors and not of DeepSpeed's own files.

    Raises:
        CheckpointError: the system does not say.
    """
    return is_file(folder / shard_file(0))


def open_state(folder: Path) -> StoredState:
    """Return the training state of a checkpoint; its numbers are read when they are asked for.

    Args:
        folder: A checkpoint, of any number of ranks, any engine and any version.

    Raises:
        CheckpointError: its files are not those of a checkpoint, or the system does not read them.
    """
    try:
        return _open_shards(folder) if is_ours(folder) else open_deepspeed(folder)
    except CheckpointError:
        raise
    except Exception as error:  # a hostile file may raise anything
        if isinstance(error, OSError) and not says_there_is_none(error):
            raise cannot_read(folder / SHARDS, error) from error
        raise CheckpointError(
            f"{folder / SHARDS} does not hold the files of a checkpoint "
            f"({type(error).__name__}: {error}); choose another checkpoint"
        ) from error


def _open_shards(folder: Path) -> StoredState:
    shapes: dict[str, tuple[int, ...]] = {}
    kinds: dict[str, dict[str, list[Extent]]] = {}
    numbers: dict[str, float] = {}
    for path in sorted((folder / SHARDS).glob("rank_*.safetensors")):
        file: Any = safe_open(path, framework="pt")
        metadata: dict[str, str] = file.metadata()
        require_format(
            {FORMAT_KEY: json.loads(metadata[FORMAT_KEY])}, FORMAT, path, CheckpointError
        )
        shapes |= {name: tuple(shape) for name, shape in json.loads(metadata[SHAPES]).items()}
        numbers |= json.loads(metadata[NUMBERS])
        starts = json.loads(metadata[STARTS])
        for key in file.keys():  # noqa: SIM118 - no mapping
            kind, name = key.split("/", 1)
            values = file.get_slice(key)
            (size,) = values.get_shape()
            kinds.setdefault(kind, {}).setdefault(name, []).append(
                Extent(starts[name], size, values)
            )
    ordered = {
        kind: {name: sorted(extents, key=_start) for name, extents in of_kind.items()}
        for kind, of_kind in kinds.items()
    }
    return StoredState(shapes, ordered, numbers)


def _start(extent: Extent) -> int:
    return extent.start


class Master(NamedTuple):
    """The fp32 master of a parameter in a checkpoint."""

    shape: tuple[int, ...]
    read: Callable[[], Tensor]


def masters(folder: Path) -> dict[str, Master]:
    """Return the masters of all parameters of a checkpoint by their names; none is read yet.

    Raises:
        CheckpointError: its files are not those of a checkpoint.
    """
    stored = open_state(folder)
    return {
        name: Master(shape, partial(stored.whole, name)) for name, shape in stored.shapes.items()
    }
