"""Copies of committed checkpoints at a URL, made in the background, read where the disk has less.

`URL/RUN/step_000500/` holds the files of a checkpoint and, written last, its marker: as on the
disk, it exists when its marker does. Only folders of such names are ever removed there. Beside
them lie the records of the run (`archived_records.py`).
"""

import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from dpot_scale.checkpoints.answers import Answers
from dpot_scale.checkpoints.archived_records import ArchivedRecords
from dpot_scale.checkpoints.checkpoint import (
    Checkpoint,
    Marker,
    checkpoint_name,
    committed,
    has_marker,
    verify,
)
from dpot_scale.checkpoints.retention import removable, remove_checkpoint
from dpot_scale.config.places import MARKER
from dpot_scale.config.record import read_record
from dpot_scale.config.run import CheckpointConfig
from dpot_scale.errors import CheckpointError, ConfigError, UserError
from dpot_scale.files import flush_folders, flush_to_disk, write_whole

log = logging.getLogger(__name__)


class UnreachableError(CheckpointError):
    """An archive does not answer, or cannot be written."""


class Sent(NamedTuple):
    """What an archive lacked and has got."""

    steps: list[int]  # of checkpoints, the newest first
    record_bytes: int  # of what lies beside them


class Archive:
    """The checkpoints of one run at a URL.

    Args:
        url: Of any kind that fsspec has a file system for.
        run: The name of the run, which is a folder there.
        identity: That of the run. Another one of the same name is left as it is.

    Attributes:
        copying: The step of the checkpoint that is being copied, which must stay until then.

    Raises:
        ConfigError: fsspec does not know the kind, or lacks a package for it.
    """

    def __init__(self, url: str, run: str, identity: str) -> None:
        import fsspec

        self.url = url
        try:
            files, root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise ConfigError(
                f"checkpoint.archive={url} needs a file system that fsspec lacks here ({error}): "
                "install its package, as by pip install 'dpot_scale[s3]' for s3://, or gcsfs for gs://"
            ) from error
        self._files: Any = files
        self._answers = Answers()
        self._root = PurePosixPath(root) / run
        self.copying: int | None = None
        self._identity = identity
        self._records = ArchivedRecords(files, self._answers, self._root, url)
        self._here: set[int] = set()  # steps of those that it was to have
        self._known: set[int] = set()  # steps of those that it has, as far as it has answered
        self._damaged: set[int] = set()  # steps of copies that are not as they were committed

    def steps(self) -> set[int]:
        """Return the steps of the checkpoints there.

        Raises:
            UnreachableError: the archive cannot be read.
        """
        with self._named("cannot read checkpoint.archive={}"):
            return set(self._markers())

    def sync(self, directory: Path, config: CheckpointConfig) -> Sent:
        """Copy what a folder of checkpoints has and the archive lacks; remove what is replaced.

        Raises:
            UnreachableError: that did not work.
            CheckpointError: the archive is of another run, or this run is further there.
        """
        with self._named("checkpoint.archive={} is not up to date"):
            here = committed(directory)
            self._here = {one.state.step for one in here}
            there = self._markers()
            self._require_own(there)
            self._require_not_ahead(there, here)
            record_bytes = self._records.put(directory.parent)  # newer checkpoints go by them
            replaced = _replaced(there, here, config) if here else set()
            wanted = [one for one in here if one.state.step not in replaced]
            self._here = {one.state.step for one in wanted}
            copied = [one.state.step for one in wanted if self._put_anew(one, there)]
            self._remove(replaced, there, here)
        return Sent(copied, record_bytes)

    def what_is_missing(self) -> str:
        """Return which checkpoints it lacks since `sync` has failed, and what to do."""
        steps = sorted(self._here - (self._known - self._damaged))
        lacking = ", ".join(map(checkpoint_name, steps)) or "only the newest records"
        return (
            f"it lacks {lacking} of this run, as far as it has answered: start the run again when "
            "it does, finished or not, which sends what is missing"
        )

    def fetch(
        self, directory: Path, above: int | None = None, *, records: bool = False
    ) -> Checkpoint | None:
        """Copy the newest intact checkpoint into a folder of checkpoints; None if there is none.

        What lies in its place is replaced.

        Args:
            directory: The folder.
            above: The step beyond which it must be; None: any will do.
            records: Whether what the run skips and could not read is copied with it, into the
                folder of the run.

        Raises:
            UnreachableError: the archive cannot be read.
            CheckpointError: it is of another run, another version wrote it, or any would do and
                none is intact.
        """
        with self._named("cannot read checkpoint.archive={}"):
            there = self._markers()
            self._require_own(there)
            for step in sorted(there, reverse=True):
                if step in self._damaged or (above is not None and step <= above):
                    continue
                found = self._get(step, there[step], directory, records=records)
                if found is not None:
                    return found
                log.warning("%s at %s is damaged", checkpoint_name(step), self.url)
                self._damaged.add(step)
        if there and above is None:
            raise CheckpointError(
                f"no checkpoint at {self.url} is intact: remove {self._root.name} there to start "
                "the run again, or choose another `name`"
            )
        return None

    def _require_own(self, there: Mapping[int, bytes]) -> None:
        """Refuse the checkpoints of another run."""
        known = {_said(text, "identity") for text in there.values()}
        others = {one for one in known if isinstance(one, str)} - {self._identity, ""}
        if others:
            raise CheckpointError(
                f"checkpoint.archive={self.url} holds another run of the name {self._root.name} "
                f"({others.pop()}, this one is {self._identity}), and stays as it is: choose "
                "another `name` or `checkpoint.archive`, or remove what is there"
            )

    def _require_not_ahead(self, there: Mapping[int, bytes], here: list[Checkpoint]) -> None:
        """Refuse to replace what this run does not come from.

        It has gone back behind a damaged copy, which is none to return to.
        """
        newest = here[0].state.step if here else -1
        ahead = {step for step in there if step > newest} - self._damaged
        if ahead:
            raise CheckpointError(
                f"checkpoint.archive={self.url} has step {max(ahead)} of this run, which is not so "
                "far here, and stays as it is: start the run again to go on from there"
            )

    def _put_anew(self, checkpoint: Checkpoint, there: Mapping[int, bytes]) -> bool:
        """Copy a checkpoint, unless it is there; return whether that was done."""
        step = self.copying = checkpoint.state.step  # before it is looked for
        try:
            if not has_marker(checkpoint.folder):  # a newer one has replaced it meanwhile
                return False
            is_there = there.get(step) == (checkpoint.folder / MARKER).read_bytes()
            if is_there and step not in self._damaged:
                return False
            self._put(checkpoint)
            return True
        finally:
            self.copying = None

    def _put(self, checkpoint: Checkpoint) -> None:
        """Copy a checkpoint; it exists there when all of it does."""
        folder = self._folder(checkpoint.state.step)
        if self._answers.of(self._files.exists, f"{folder}/{MARKER}"):
            self._answers.of(self._files.rm_file, f"{folder}/{MARKER}")
        for name in checkpoint.marker.files:
            target = folder / name
            self._answers.of(self._files.makedirs, str(target.parent), exist_ok=True)
            source = checkpoint.folder / name
            size = checkpoint.marker.files[name].bytes
            self._answers.transfer(self._files.put_file, str(source), str(target), size)
        self._answers.of(
            self._files.pipe_file, f"{folder}/{MARKER}", (checkpoint.folder / MARKER).read_bytes()
        )
        self._damaged.discard(checkpoint.state.step)
        self._known.add(checkpoint.state.step)

    def _remove(
        self, replaced: set[int], there: Mapping[int, bytes], here: list[Checkpoint]
    ) -> None:
        """Remove what newer checkpoints replace, and what interruptions left."""
        if not here:
            return
        folders = self._folders()
        left = folders.keys() - there.keys() - {one.state.step for one in here}
        for step in folders.keys() & (left | replaced):
            self._remove_step(step)

    def _remove_step(self, step: int) -> None:
        """Remove a checkpoint, or what was to become one; the marker goes first."""
        folder = self._folder(step)
        if self._answers.of(self._files.exists, f"{folder}/{MARKER}"):
            self._answers.of(self._files.rm_file, f"{folder}/{MARKER}")
        self._answers.of(self._files.rm, str(folder), recursive=True)
        self._damaged.discard(step)

    def _get(self, step: int, text: bytes, directory: Path, *, records: bool) -> Checkpoint | None:
        """Copy a checkpoint; return None if it is not as it was committed."""
        folder = directory / checkpoint_name(step)
        try:
            marker = read_record(Marker, json.loads(text), self.url, CheckpointError, strict=True)
        except (ValueError, RecursionError):
            return None
        if marker.step != step:
            return None
        checkpoint = Checkpoint(folder, marker)
        remove_checkpoint(folder)  # its files may be those of another run, by links
        for name in marker.files:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                source, size = f"{self._folder(step)}/{name}", marker.files[name].bytes
                self._answers.transfer(self._files.get_file, source, str(target), size)
            except FileNotFoundError:
                return None
            flush_to_disk(target)
        if verify(checkpoint):
            return None
        if records:  # before there is a checkpoint that goes by them
            self._records.get(directory.parent)
        flush_folders(folder)
        write_whole(folder / MARKER, text)
        return checkpoint

    def _markers(self) -> dict[int, bytes]:
        """Return the content of each marker, by step."""
        found = {}
        for step, folder in self._folders().items():
            try:
                found[step] = bytes(self._answers.of(self._files.cat_file, f"{folder}/{MARKER}"))
            except FileNotFoundError:  # what an interruption left
                continue
        self._known = set(found)
        return found

    def _folder(self, step: int) -> PurePosixPath:
        return self._root / checkpoint_name(step)

    def _folders(self) -> dict[int, str]:
        """Return what is a checkpoint there, or was to become one, by step."""
        self._files.invalidate_cache()
        try:
            entries = self._answers.of(self._files.ls, str(self._root), detail=True)
        except FileNotFoundError:
            return {}
        names = {PurePosixPath(entry["name"]).name for entry in entries}
        steps = (int(name[5:]) for name in names if re.fullmatch("step_[0-9]{6,}", name, re.A))
        return {step: str(self._folder(step)) for step in steps if checkpoint_name(step) in names}

    @contextmanager
    def _named(self, problem: str) -> Iterator[None]:
        """Make one sentence of any error: each kind of file system has its own."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UnreachableError(f"{problem.format(self.url)}: {reason}") from error


def _replaced(
    there: Mapping[int, bytes], here: list[Checkpoint], config: CheckpointConfig
) -> set[int]:
    """Return the steps of archive and disk whose checkpoints newer ones replace."""
    times = {step: _time(text) for step, text in there.items()}
    times |= {one.state.step: one.marker.time for one in here}
    known = {step: time for step, time in times.items() if time}
    return removable(times.keys(), here[0].state.step, config, known)


def _time(marker: bytes) -> float | None:
    """Return when a checkpoint was committed, as its marker says; None where it does not."""
    found = _said(marker, "time")
    return float(found) if isinstance(found, int | float) else None


def _said(marker: bytes, key: str) -> str | float | None:
    """Return the text or number under a key of a marker; None where there is none."""
    try:
        found = json.loads(marker).get(key)
    except (ValueError, AttributeError, RecursionError):
        return None
    return found if isinstance(found, str | int | float) else None
