"""What decides the numbers of a run beside its config, and what all of its ranks must share."""

import contextlib
import hashlib
import json
import secrets
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist

from dpot_scale.checkpoints.checkpoint import changed_input
from dpot_scale.config.identity import hashed, run_hash
from dpot_scale.config.run import RunConfig
from dpot_scale.data.store.dataset import SPLITS, DatasetStore
from dpot_scale.engine.collectives import on_main, raise_on_all
from dpot_scale.engine.runtime import World
from dpot_scale.engine.strategy import read_strategy
from dpot_scale.errors import CheckpointError, ConfigError
from dpot_scale.files import write_whole

INPUTS = "inputs.json"
TOKEN = ".shared"

# How long a rank waits until it sees what another has written: as long as NFS may remember that
# there was nothing.
PATIENCE_SECONDS = 60.0

MENDS = {
    "config": "give every rank the same config",
    "version": "install the same dpot_scale and torch on every machine",
    "dataset": "give every machine the same files, or a data.root that all share",
    "engine.deepspeed": "give every machine the same JSON",
}


def inputs_of(config: RunConfig, stores: Mapping[str, DatasetStore]) -> dict[str, str]:
    """Return what else a run is trained on, by its name in words.

    A generated dataset is named by its recipe: made anew, perhaps on another machine, it is the
    same one. A JSON of deepspeed_configs/ is part of the code.
    """
    inputs = {f"dataset {name}": _digest(store) for name, store in stores.items()}
    if Path(config.engine.deepspeed).suffix:
        raw = read_strategy(config.engine.deepspeed).raw
        inputs |= {f"engine.deepspeed {key}": json.dumps(value) for key, value in _leaves(raw)}
    return inputs


def require_same_inputs(directory: Path, inputs: Mapping[str, str], world: World) -> None:
    """Record the inputs of a run, or make sure that they are those it began with. Collective.

    Raises:
        CheckpointError: one is another.
        DiskError: the record cannot be written.
    """

    def compare() -> None:
        changed = changed_input(_recorded(directory / INPUTS), inputs)
        if changed is not None:
            raise CheckpointError(f"{directory} was begun with {changed}")
        write_whole(directory / INPUTS, json.dumps(inputs, indent=2))

    on_main(compare, world, directory)


def require_agreement_of_ranks(config: RunConfig, inputs: Mapping[str, str], world: World) -> None:
    """Make sure that all ranks share a folder, and have the same config, code and data. Collective.

    Raises:
        ConfigError: they do not; it names a rank that differs from the main one, and in what.
        DiskError: the main rank cannot write to its folder.
    """
    if world.world_size > 1:
        _require_one_folder(config.directory, world)
        own = {
            "config of the run": run_hash(config),
            "version of dpot_scale": _code_digest(),
            "version of torch": torch.__version__,
            "content of engine.deepspeed": hashed(read_strategy(config.engine.deepspeed).raw),
            **inputs,
        }
        _require_same(own, world)


def _require_one_folder(directory: Path, world: World) -> None:
    """Let the main rank write what the others must read."""
    written = [secrets.token_hex(8)]
    dist.broadcast_object_list(written)
    on_main(lambda: write_whole(directory / TOKEN, written[0]), world, directory)
    blind = None
    if not _sees(directory / TOKEN, written[0]):
        blind = ConfigError(
            f"rank {world.rank} on {socket.gethostname()} does not see in {directory} what rank 0 "
            "wrote there, so that a checkpoint would lack its part: set `output` to a folder that "
            "all machines share"
        )
    try:
        raise_on_all(blind, world)
    finally:
        if world.is_main:
            (directory / TOKEN).unlink(missing_ok=True)


def _sees(path: Path, content: str) -> bool:
    until = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until:
        with contextlib.suppress(OSError):
            if path.read_text(encoding="utf-8") == content:
                return True
        time.sleep(0.1)
    return False


def _require_same(own: Mapping[str, str], world: World) -> None:
    everywhere: list[tuple[str, dict[str, str]] | None] = [None] * world.world_size
    dist.all_gather_object(everywhere, (socket.gethostname(), dict(own)))
    (main_host, main), *others = (one for one in everywhere if one is not None)
    for rank, (host, theirs) in enumerate(others, start=1):
        for name in main.keys() | theirs.keys():
            here, there = main.get(name, "none"), theirs.get(name, "none")
            if here != there:
                mend = next(mend for word, mend in MENDS.items() if word in name)
                raise ConfigError(
                    f"rank {rank} on {host} has another {name} ({there}) than rank 0 on "
                    f"{main_host} ({here}): {mend}"
                )


def _digest(store: DatasetStore) -> str:
    info = store.info
    description: dict[str, Any] = {
        "equation": info.equation,
        "channels": info.channels,
        "grid": info.grid,
        "frame_interval": info.frame_interval,
        "source": info.source,
    }
    if info.origin != "generated":
        description["source"] = [
            [split, shard.trajectories, shard.frames, shard.sha256]
            for split in SPLITS
            for shard in store.shards[split]
        ]
    return hashed(description)


def _leaves(raw: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in raw.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _code_digest() -> str:
    digest = hashlib.sha256()
    package = Path(__file__).parents[1]
    for file in sorted(package.rglob("*.py")):
        digest.update(str(file.relative_to(package)).encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def _recorded(path: Path) -> dict[str, str]:
    """Return the inputs that a run began with; nothing where that is not known."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
