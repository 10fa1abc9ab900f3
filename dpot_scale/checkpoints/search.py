"""Finds the checkpoint that a run goes on from, on its disk and in its archive."""

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from dpot_scale.checkpoints.archive import Archive, UnreachableError
from dpot_scale.checkpoints.checkpoint import (
    Checkpoint,
    checkpoint_folders,
    committed,
    has_marker,
    require_none,
    verify,
)
from dpot_scale.config.identity import changed_content
from dpot_scale.engine.collectives import from_main, gathered, on_every_rank, on_main
from dpot_scale.engine.runtime import World
from dpot_scale.errors import CheckpointError
from dpot_scale.terminal import under_way

log = logging.getLogger(__name__)


class Search:
    """Looks for the newest intact checkpoint of a run. All ranks call it together.

    The main rank looks and tells the others: a rank may see another list.

    Args:
        directory: The folder of checkpoints.
        archive: Where copies of them are; None without one.
        identity: The identity of the run; a checkpoint of another one is refused.
        contents: What the run reads beside its config, by its name for people; a checkpoint of
            other contents is refused.
        world: The ranks.
    """

    def __init__(
        self,
        directory: Path,
        archive: Archive | None,
        identity: str,
        contents: Mapping[str, str],
        world: World,
    ) -> None:
        self._directory = directory
        self._archive = archive
        self._identity = identity
        self._contents = contents
        self._world = world

    def catch_up(self) -> None:
        """Copy from the archive what is newer than what the disk has. Collective.

        Raises:
            CheckpointError: the archive is of another run, or the disk has no checkpoint and the
                archive cannot be read.
        """

        def fetch() -> None:
            newest = next((one.state.step for one in committed(self._directory)), None)
            self._copy(above=newest, records=True)

        on_main(fetch, self._world, self._directory)

    def newest_intact(self) -> Checkpoint | None:
        """Return the newest intact checkpoint of the disk; None if there is none. Collective.

        The archive may have what is damaged here.

        Raises:
            CheckpointError: it was made by another config or from other data, or all checkpoints
                are damaged, or one cannot be read.
        """
        found, are_there = from_main(self._look, self._world, self._directory)
        for checkpoint in found:
            self._check_belongs(checkpoint)
            damaged = self._damaged(checkpoint)
            if not damaged:
                return checkpoint
            if self._world.is_main:
                log.warning("%s is damaged (%s): trying the one before", checkpoint, damaged)
            copy = partial(self._copy, above=checkpoint.state.step - 1)
            if copied := from_main(copy, self._world, self._directory):
                return copied
        last = self._copy_of_any if are_there else lambda: None
        return from_main(last, self._world, self._directory)

    def _look(self) -> tuple[list[Checkpoint], bool]:
        """Return the checkpoints of the disk, and whether there are some, though damaged."""
        folders = checkpoint_folders(self._directory).values()
        return committed(self._directory), any(has_marker(folder) for folder in folders)

    def _copy(self, above: int | None = None, *, records: bool = False) -> Checkpoint | None:
        """Return a copy out of the archive, as `Archive.fetch` does; None without an archive.

        Where it cannot be read, a run that has checkpoints goes on from those.
        """
        if self._archive is None:
            return None
        try:
            with under_way("reading the archive"):
                return self._archive.fetch(self._directory, above, records=records)
        except UnreachableError as error:
            if above is None:
                raise
            log.warning("%s; the run goes on from what the disk has", error)
            return None

    def _copy_of_any(self) -> Checkpoint | None:
        """Return a copy out of the archive, where nothing on the disk is intact."""
        copied = self._copy()
        if copied is None:
            require_none(self._directory)
        return copied

    def _damaged(self, checkpoint: Checkpoint) -> list[str]:
        """Return the files that are not as they were committed; the ranks share the work."""
        share = self._world.share(sorted(checkpoint.marker.files))
        mine = on_every_rank(partial(verify, checkpoint, share), self._world, checkpoint.folder)
        return [name for share in gathered(mine, self._world) for name in share]

    def _check_belongs(self, checkpoint: Checkpoint) -> None:
        folder, marker = checkpoint.folder, checkpoint.marker
        changed = changed_content(marker.contents, self._contents)
        if changed is not None:
            raise CheckpointError(f"{folder} was trained with {changed}")
        # One without an identity belongs to the config that lies beside it, which was compared.
        if marker.identity and marker.identity != self._identity:
            raise CheckpointError(
                f"{folder} was made with another config ({marker.identity}, this run has "
                f"{self._identity}): restore that config, or choose another `name`"
            )
