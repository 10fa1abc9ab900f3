"""Checkpoints as transactions: until its marker is renamed into place, one does not exist.

`checkpoints/step_000500/` holds the shards of every rank and, written last, when they are on the
disk for good, COMMITTED.json with the size and SHA-256 of each. Removal deletes the marker first.
"""

import json
import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Protocol

from dpot_scale.checkpoints.archive import Archive, UnreachableError
from dpot_scale.checkpoints.background import Background
from dpot_scale.checkpoints.checkpoint import (
    Census,
    Checkpoint,
    Marker,
    TrainState,
    checkpoint_folders,
    checkpoint_name,
    examine,
    has_marker,
    open_checkpoint,
)
from dpot_scale.checkpoints.deepspeed_files import pickles, refuse_code
from dpot_scale.checkpoints.retention import removable, remove_checkpoint
from dpot_scale.checkpoints.search import Search
from dpot_scale.checkpoints.shards import is_ours, open_state, shard_file, write_shard
from dpot_scale.checkpoints.uploads import Uploads
from dpot_scale.config.places import MARKER
from dpot_scale.config.record import FORMAT_KEY
from dpot_scale.config.run import CheckpointConfig
from dpot_scale.data.channels import TrainingData
from dpot_scale.engine.collectives import from_main, gathered, on_every_rank, on_main
from dpot_scale.engine.runtime import World, aside
from dpot_scale.engine.state import Snapshot, StoredState
from dpot_scale.errors import CheckpointError, UserError
from dpot_scale.files import flush_folders, flush_to_disk, write_whole
from dpot_scale.terminal import under_way

log = logging.getLogger(__name__)


class Sharded(Protocol):
    """An engine whose training state is spread over the ranks."""

    def snapshot(self) -> Snapshot | None:
        """Return what this rank keeps; None where only `save_shards` reaches it."""

    def load_state(self, stored: StoredState) -> None:
        """Continue from a state that any number of ranks has saved. Collective."""

    def save_shards(self, folder: Path) -> None:
        """Write this rank's files under `folder`. Collective."""

    def load_shards(self, folder: Path) -> None:
        """Continue from what as many ranks wrote by `save_shards`. Collective."""


class CheckpointStore:
    """The committed checkpoints of one run.

    Args:
        directory: Where the checkpoints lie; on a disk that all ranks share.
        config: Which of them to keep.
        identity: The identity of the run; a checkpoint of another one is refused.
        world: The ranks.
        model: What the marker says of the model: its dimensions.
        data: What the marker says of the data that it is trained on.
        contents: What the run reads beside its config, by its name for people; a checkpoint of
            other contents is refused.

    Attributes:
        newest: The step of the newest checkpoint that it has restored or committed; 0: none. One
            that a thread still writes is none.
    """

    def __init__(
        self,
        directory: Path,
        *,
        config: CheckpointConfig,
        identity: str,
        world: World,
        model: Mapping[str, object] | None = None,
        data: TrainingData | None = None,
        contents: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = directory
        self.config = config
        self.identity = identity
        self.world = world
        self.model = model
        self.data = data
        self.contents = dict(contents or {})
        self.newest = 0
        self._aside = aside(world) if config.copy_gib else None
        self._background: Background | None = None
        self._archive = self._uploads = None
        self._spares_one = False  # that was being copied when a newer one replaced it
        if config.archive is not None:
            self._archive = Archive(config.archive, directory.absolute().parent.name, identity)
            if world.is_main:
                self._uploads = Uploads(partial(self._archive.sync, directory, config))
        self._search = Search(directory, self._archive, identity, self.contents, world)

    def save(self, engine: Sharded, state: TrainState) -> None:
        """Commit a checkpoint, then remove older ones and what crashes left. Collective.

        Where the host may keep a copy of the state, that is all that this waits for.

        Raises:
            DiskError: a rank cannot write, or could not in the save before; raised on all ranks.
                The checkpoints before it remain.
        """
        self.finish()
        snapshot = engine.snapshot()
        if snapshot is not None and self._fits(snapshot):
            assert self._aside is not None
            copy, world = snapshot.on_host(), self._aside
            self._background = Background(lambda: self._save(engine, copy, state, world))
        else:
            self._save(engine, snapshot, state, self.world)

    def finish(self) -> None:
        """Wait until the newest save is committed. Collective.

        Raises:
            DiskError: a rank could not write it; raised on all ranks.
        """
        background, self._background = self._background, None
        if background is not None:
            background.finish()

    @property
    def has_failed(self) -> bool:
        """Return whether this rank's thread could not save: the next `save` or `finish` says so."""
        return self._background is not None and self._background.has_failed

    def take_upload_seconds(self) -> float | None:
        """Return how long the newest upload took; None where none has ended since this was asked.

        One that found all checkpoints in the archive is none.
        """
        return None if self._uploads is None else self._uploads.take_seconds()

    def settle(self) -> None:
        """Wait until the newest save has ended, whatever came of it."""
        with suppress(UserError):  # which `finish` would raise: another one is on its way
            self.finish()

    def close(self) -> None:
        """Wait until the newest save has ended, and the archive, if there is one, has it."""
        self.settle()
        if self._uploads is not None and self._archive is not None:
            with under_way("copying to the archive"):
                problem = self._uploads.close()
            if self._spares_one:
                self._prune(self.newest)
            if isinstance(problem, UnreachableError):
                log.warning("%s; %s", problem, self._archive.what_is_missing())
            elif problem is not None:
                log.warning("%s", problem)

    def catch_up(self) -> None:
        """Copy from the archive what is newer there than here, with what the run skips. Collective.

        Called before anything is read from the folder of the run.

        Raises:
            CheckpointError: the archive is of another run, or the disk has no checkpoint and the
                archive cannot be read.
        """
        self._search.catch_up()

    def restore(self, engine: Sharded) -> TrainState | None:
        """Continue from the newest intact checkpoint; None if there is none. Collective.

        Raises:
            CheckpointError: it was made by another config or from other data, it would run code,
                or all checkpoints are damaged.
        """
        self.finish()
        checkpoint = self._search.newest_intact()
        if checkpoint is None:
            return None
        self._refuse_code(checkpoint)
        self._load(engine, checkpoint)
        self.newest = checkpoint.state.step
        return checkpoint.state

    def _fits(self, snapshot: Snapshot) -> bool:
        """Return whether the host may keep a copy of what each rank has. Collective."""
        if self._aside is None:
            return False
        most = self.config.copy_gib * 2**30
        return not any(gathered(snapshot.bytes > most, self.world))

    def _save(
        self, engine: Sharded, snapshot: Snapshot | None, state: TrainState, world: World
    ) -> None:
        """Write and commit a state, then remove what it replaces. Collective in a world."""
        folder = self.directory / checkpoint_name(state.step)
        try:
            on_main(lambda: _make(folder), world, folder)
            on_every_rank(lambda: self._write(engine, snapshot, folder), world, folder)
            census = self._put_on_disk(folder, world, has_shards=snapshot is not None)
            on_main(lambda: self._commit(folder, state, census), world, folder)
        except UserError:
            if world.is_main:
                with suppress(OSError):  # what lacks a file only takes space
                    remove_checkpoint(folder)
            raise
        self.newest = state.step
        on_main(partial(self._prune, state.step), world, self.directory)
        if self._uploads is not None:
            self._uploads.wake()

    def _write(self, engine: Sharded, snapshot: Snapshot | None, folder: Path) -> None:
        """Write this rank's files."""
        if snapshot is None:
            engine.save_shards(folder)
        else:
            path = folder / shard_file(self.world.rank)
            path.parent.mkdir(exist_ok=True)
            write_shard(path, snapshot)

    def _load(self, engine: Sharded, checkpoint: Checkpoint) -> None:
        """Continue from an intact checkpoint. Collective."""
        folder = checkpoint.folder
        if is_ours(folder) or engine.snapshot() is not None:
            stored = on_every_rank(partial(open_state, folder), self.world, folder)
            if stored.is_complete:
                engine.load_state(stored)
                return
        self._require_same_workers(checkpoint)
        engine.load_shards(folder)

    def _commit(self, folder: Path, state: TrainState, census: Mapping[str, Census]) -> None:
        """Make a checkpoint exist."""
        marker = {
            FORMAT_KEY: Marker.newest_format(),
            **asdict(state),
            "world_size": self.world.world_size,
            "identity": self.identity,
            "device": self.world.device.type,
            "time": time.time(),
            "contents": self.contents,
            "model": self.model,
            "data": None if self.data is None else self.data.model_dump(mode="json"),
            "files": {name: entry.model_dump() for name, entry in sorted(census.items())},
        }
        write_whole(folder / MARKER, json.dumps(marker, indent=2))

    def _prune(self, newest: int) -> None:
        """Remove the checkpoints that newer ones replace, and what crashes left.

        What cannot be read or removed stays until the next save: the new one is committed.
        """
        try:
            for folder in self._replaced(newest):
                remove_checkpoint(folder)
        except CheckpointError as error:
            log.warning("%s", error)
        except OSError as error:
            log.warning("what newer checkpoints replace stays: %s", error)

    def _replaced(self, newest: int) -> list[Path]:
        """Return the folders that may go.

        Raises:
            CheckpointError: a marker cannot be read; whose time is not known may not be removed.
        """
        folders = checkpoint_folders(self.directory)
        marked = {step for step, folder in folders.items() if has_marker(folder)}
        opened = [open_checkpoint(folders[step]) for step in marked]
        times = {one.state.step: one.marker.time for one in opened if one and one.marker.time}
        old = removable(marked, newest, self.config, times)
        copying = None if self._archive is None else self._archive.copying
        self._spares_one = copying in old
        old -= {copying}
        return [folders[step] for step in (folders.keys() - marked) | old]

    def _put_on_disk(self, folder: Path, world: World, *, has_shards: bool) -> dict[str, Census]:
        """Put every file on the disk for good and examine it; the ranks share the work. Collective.

        Without it, a machine that loses power may keep the marker, which is small, and not the
        shards. A rank may not see yet what others have written: it examines its own shard, and of
        DeepSpeed's files what the main rank sees.
        """
        if has_shards:
            share = [folder / shard_file(world.rank)]
        else:
            names = from_main(lambda: _files_in(folder), world, folder)
            share = [folder / name for name in world.share(names)]

        def put_mine() -> dict[str, Census]:
            for path in share:
                flush_to_disk(path)
            return {str(path.relative_to(folder)): examine(path) for path in share}

        mine = on_every_rank(put_mine, world, folder)
        on_main(lambda: flush_folders(folder), world, folder)
        shares = gathered(mine, world)
        return {name: entry for share in shares for name, entry in share.items()}

    def _refuse_code(self, checkpoint: Checkpoint) -> None:
        """Refuse a checkpoint that would run code when it is read; the ranks share the work."""
        names = from_main(partial(pickles, checkpoint), self.world, checkpoint.folder)
        examine_mine = partial(refuse_code, checkpoint, self.world.share(names))
        on_every_rank(examine_mine, self.world, checkpoint.folder)

    def _require_same_workers(self, checkpoint: Checkpoint) -> None:
        """Refuse files that only the workers who wrote them can tell apart."""
        folder, marker = checkpoint.folder, checkpoint.marker
        made = _workers(marker.world_size, marker.device)
        here = _workers(self.world.world_size, self.world.device.type)
        if made != here:
            raise CheckpointError(
                f"{folder} was made by {made} and this run has {here}: continue on {made}, or "
                f"start a new run from its weights with another `name` and "
                f"`start.source={folder}`, or with the file that "
                f"`python -m dpot_scale.weights export {folder}` writes"
            )


def _make(folder: Path) -> None:
    """Make an empty folder."""
    remove_checkpoint(folder)
    folder.mkdir(parents=True)


def _files_in(folder: Path) -> list[str]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return [str(path.relative_to(folder)) for path in found]


def _workers(number: int, device: str) -> str:
    """Return who holds the shards of a run, in words."""
    return f"{number} {'CPU' if device == 'cpu' else 'GPU'} workers"
