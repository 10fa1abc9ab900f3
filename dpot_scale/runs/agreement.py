"""Makes sure that all ranks share a folder and have the same config, code and data."""

import contextlib
import hashlib
import secrets
import socket
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import distributed as dist

from dpot_scale.config.base import content_hash
from dpot_scale.engine.collectives import on_main, raise_on_all
from dpot_scale.engine.runtime import World
from dpot_scale.errors import ConfigError
from dpot_scale.files import write_whole
from dpot_scale.runs.resolved import Run

TOKEN = ".shared"

# How long a rank waits until it sees what another has written: as long as NFS may remember that
# there was nothing.
PATIENCE_SECONDS = 60.0

MENDS = {
    "config": "give every rank the same config",
    "version": "install the same dpot_scale and torch on every machine",
    "dataset": "give every machine the same files, or a data.root that all share",
    "start": "give every machine the same weights",
    "engine.deepspeed": "give every machine the same JSON",
}


def require_agreement_of_ranks(run: Run, world: World) -> None:
    """Make sure that all ranks share a folder, and have the same config, code and data. Collective.

    Raises:
        ConfigError: they do not; the sentence names a rank, and how it differs from the main one.
        DiskError: the main rank cannot write to its folder.
    """
    if world.world_size > 1:
        require_one_folder(run.config.directory, world)
        own = {
            "version of dpot_scale": code_digest(),
            "version of torch": torch.__version__,
            "content of engine.deepspeed": content_hash(run.config.engine.deepspeed.settings),
            **run.contents.record(),
            "config of the run": run.identity,
        }
        _require_same(own, world)


def require_one_folder(directory: Path, world: World) -> None:
    """Make sure that all ranks see what the main one writes into a folder. Collective.

    Raises:
        ConfigError: a rank does not.
        DiskError: the main rank cannot write there.
    """
    written = [secrets.token_hex(8)]
    dist.broadcast_object_list(written)
    on_main(lambda: write_whole(directory / TOKEN, written[0]), world, directory)
    blind = None
    if not sees(directory / TOKEN, written[0]):
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


def sees(path: Path, content: str) -> bool:
    """Return whether this process sees a file that another one has written, after a while."""
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
        for name in dict.fromkeys([*main, *theirs]):
            here, there = main.get(name, "none"), theirs.get(name, "none")
            if here != there:
                mend = next(mend for word, mend in MENDS.items() if word in name)
                raise ConfigError(
                    f"rank {rank} on {host} has another {name} ({there}) than rank 0 on "
                    f"{main_host} ({here}): {mend}"
                )


def code_digest() -> str:
    """Return a digest of the source of this package, as installed here."""
    digest = hashlib.sha256()
    package = Path(__file__).parents[1]
    for file in sorted(package.rglob("*.py")):
        digest.update(str(file.relative_to(package)).encode() + file.read_bytes())
    return digest.hexdigest()[:12]
