"""Checkpoints as transactions: until its marker is renamed into place, one does not exist.

`checkpoints/step_000500/` holds the shards of every rank and, written last, COMMITTED.json with
the size and SHA-256 of each file. Removal deletes the marker first.
"""

import json
import logging
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from torch import distributed as dist

from dpot_scale.engine.runtime import World, any_rank
from dpot_scale.errors import CheckpointError
from dpot_scale.files import sha256, write_whole

MARKER = "COMMITTED.json"
T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainState:
    """How far a run is."""

    step: int = 0  # updates made
    windows_seen: int = 0  # the data position: all that is needed to continue the stream

    def after_step(self, global_batch: int) -> "TrainState":
        """Return the state one update later."""
        return TrainState(step=self.step + 1, windows_seen=self.windows_seen + global_batch)


class Sharded(Protocol):
    """An engine whose whole training state is spread over files, some written by each rank."""

    def save_shards(self, folder: Path) -> None:
        """Write this rank's files under `folder`. Collective."""

    def load_shards(self, folder: Path) -> None:
        """Continue from the files under `folder`. Collective."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Census:
    """Size in bytes and SHA-256 of one file of a checkpoint."""

    bytes: int
    sha256: str


class CheckpointStore:
    """The committed checkpoints of one run.

    Args:
        directory: Where the checkpoints lie; on a disk that all ranks share.
        keep: How many to keep, at least two: the newest may turn out to be damaged.
        config_hash: Of the run config; a checkpoint of another config is refused.
        world: The ranks.
    """

    def __init__(self, directory: Path, *, keep: int, config_hash: str, world: World) -> None:
        self.directory = directory
        self.keep = keep
        self.config_hash = config_hash
        self.world = world

    def save(self, engine: Sharded, state: TrainState) -> None:
        """Commit a checkpoint, then remove older ones and what crashes left. Collective."""
        folder = self.directory / f"step_{state.step:06d}"
        if self.world.is_main:
            _remove(folder)
            folder.mkdir(parents=True)
        dist.barrier()
        engine.save_shards(folder)
        dist.barrier()
        census = self._census(folder)
        if self.world.is_main:
            marker = {
                **asdict(state),
                "world_size": self.world.world_size,
                "config_hash": self.config_hash,
                "files": {name: asdict(entry) for name, entry in sorted(census.items())},
            }
            write_whole(folder / MARKER, json.dumps(marker, indent=2))  # now it exists
            kept = self._committed()[: self.keep]
            for other in set(self.directory.glob("step_*")).difference(kept):
                _remove(other)
        dist.barrier()

    def restore(self, engine: Sharded) -> TrainState | None:
        """Continue from the newest intact checkpoint; None if there is none. Collective.

        Raises:
            CheckpointError: it was made by another config or on another number of ranks, or all
                checkpoints are damaged.
        """
        committed = self._committed()
        for folder in committed:
            marker = _read_marker(folder)
            if marker is not None:
                self._check_belongs(marker, folder)
            damaged = [MARKER] if marker is None else self._damaged_files(folder, marker["files"])
            if any_rank(bool(damaged), self.world):
                log.warning("%s is damaged (%s): trying the one before", folder, damaged)
                continue
            assert marker is not None
            engine.load_shards(folder)
            return TrainState(step=marker["step"], windows_seen=marker["windows_seen"])
        if committed:
            raise CheckpointError(
                f"no checkpoint under {self.directory} is intact: remove it to start again"
            )
        return None

    def _committed(self) -> list[Path]:
        """Return the committed checkpoints, the newest first."""
        markers = self.directory.glob(f"step_*/{MARKER}")
        return sorted(
            (marker.parent for marker in markers), key=lambda folder: -int(folder.name[5:])
        )

    def _census(self, folder: Path) -> dict[str, Census]:
        """Examine every file; the ranks share the work. Collective."""
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        mine = {str(path.relative_to(folder)): _examine(path) for path in self._my_share(files)}
        shares: list[dict[str, Census]] = [{} for _ in range(self.world.world_size)]
        dist.all_gather_object(shares, mine)
        return {name: entry for share in shares for name, entry in share.items()}

    def _damaged_files(self, folder: Path, files: dict[str, Any]) -> list[str]:
        """Return those of this rank's share that are not as they were committed."""
        return [
            name
            for name in self._my_share(sorted(files))
            if not (folder / name).is_file() or asdict(_examine(folder / name)) != files[name]
        ]

    def _my_share(self, items: Iterable[T]) -> list[T]:
        return list(items)[self.world.rank :: self.world.world_size]

    def _check_belongs(self, marker: dict[str, Any], folder: Path) -> None:
        if marker["config_hash"] != self.config_hash:
            raise CheckpointError(
                f"{folder} was made with another config ({marker['config_hash']}, this run has "
                f"{self.config_hash}): restore that config, or choose another `name`"
            )
        if marker["world_size"] != self.world.world_size:
            raise CheckpointError(
                f"{folder} was made by {marker['world_size']} workers and this run has "
                f"{self.world.world_size}: continue on {marker['world_size']} workers, or start a "
                "new run with `initialize_from` its exported weights"
            )


def _read_marker(folder: Path) -> dict[str, Any] | None:
    """Return what the marker of a checkpoint says; None if it cannot be read."""
    try:
        marker: dict[str, Any] = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return marker


def _remove(folder: Path) -> None:
    """Remove a checkpoint, which stops existing at once: the marker goes first."""
    (folder / MARKER).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _examine(path: Path) -> Census:
    return Census(bytes=path.stat().st_size, sha256=sha256(path))
