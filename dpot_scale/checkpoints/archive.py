"""Copies of committed checkpoints at a URL, made in the background and read on an empty disk.

`URL/RUN/step_000500/` holds the files of a checkpoint and, written last, its marker: as on the
disk, it exists when its marker does. Only folders of such names are ever removed there. Beside
them lies what the run skips.
"""

import json
import logging
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from dpot_scale.checkpoints.checkpoint import (
    Checkpoint,
    Marker,
    checkpoint_name,
    committed,
    verify,
)
from dpot_scale.checkpoints.retention import removable
from dpot_scale.config.places import MARKER, QUARANTINE, ROLLBACKS
from dpot_scale.config.record import read_record
from dpot_scale.config.run import CheckpointConfig
from dpot_scale.errors import CheckpointError, ConfigError
from dpot_scale.files import flush_to_disk, write_whole

RECORDS = (ROLLBACKS, QUARANTINE)

log = logging.getLogger(__name__)


class Archive:
    """The checkpoints of one run at a URL.

    Args:
        url: Of any kind that fsspec has a file system for.
        run: The name of the run, which is a folder there.

    Raises:
        ConfigError: fsspec does not know the kind, or lacks a package for it.
    """

    def __init__(self, url: str, run: str) -> None:
        import fsspec

        self.url = url
        try:
            files, root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise ConfigError(
                f"checkpoint.archive={url} needs a file system that fsspec lacks here ({error}): "
                "install its package, as s3fs for s3:// or gcsfs for gs://"
            ) from error
        self._files: Any = files
        self._root = PurePosixPath(root) / run

    def markers(self) -> dict[int, bytes]:
        """Return the content of each marker, by step."""
        found = {}
        for step, folder in self._folders().items():
            try:
                found[step] = self._files.cat_file(f"{folder}/{MARKER}")
            except FileNotFoundError:  # what an interruption left
                continue
        return found

    def put(self, checkpoint: Checkpoint) -> None:
        """Copy a checkpoint; it exists there when all of it does."""
        folder = self._folder(checkpoint.state.step)
        if self._files.exists(f"{folder}/{MARKER}"):
            self._files.rm_file(f"{folder}/{MARKER}")
        for name in checkpoint.marker.files:
            target = folder / name
            self._files.makedirs(str(target.parent), exist_ok=True)
            self._files.put_file(str(checkpoint.folder / name), str(target))
        self._files.pipe_file(f"{folder}/{MARKER}", (checkpoint.folder / MARKER).read_bytes())

    def remove(self, step: int) -> None:
        """Remove a checkpoint, or what was to become one; the marker goes first."""
        folder = self._folder(step)
        if self._files.exists(f"{folder}/{MARKER}"):
            self._files.rm_file(f"{folder}/{MARKER}")
        self._files.rm(str(folder), recursive=True)

    def sync(self, directory: Path, config: CheckpointConfig) -> None:
        """Copy what a folder of checkpoints has and the archive lacks; remove what is replaced."""
        here = committed(directory)
        there = self.markers()
        for name in RECORDS:  # which newer checkpoints go by
            self._put_record(directory.parent / name)
        for checkpoint in here:
            if there.get(checkpoint.state.step) != (checkpoint.folder / MARKER).read_bytes():
                self.put(checkpoint)
        if here:
            newest = here[0].state.step
            steps = there.keys() | {one.state.step for one in here}
            times = {step: found for step, text in there.items() if (found := _time(text))}
            times |= {one.state.step: one.marker.time for one in here if one.marker.time}
            debris = self._folders().keys() - steps
            for step in debris | removable(steps, newest, config, times):
                if step in self._folders():
                    self.remove(step)

    def _put_record(self, record: Path) -> None:
        """Copy a small file of the run's folder, if it has it and the archive has another."""
        target = str(self._root / record.name)
        content = record.read_bytes() if record.exists() else None
        if content is not None and self._record(target) != content:
            self._files.makedirs(str(self._root), exist_ok=True)
            self._files.pipe_file(target, content)

    def _record(self, target: str) -> bytes | None:
        try:
            return bytes(self._files.cat_file(target))
        except FileNotFoundError:
            return None

    def fetch_record(self, directory: Path) -> None:
        """Copy what the run skips and could not read into its folder, if the archive knows of it.

        Args:
            directory: The folder of the run.

        Raises:
            CheckpointError: the archive cannot be read.
        """
        for name in RECORDS:
            try:
                content = self._record(str(self._root / name))
            except Exception as error:  # each kind of file system has its own
                raise self._unreadable(error) from error
            if content is not None:
                write_whole(directory / name, content)

    def fetch(self, directory: Path) -> Checkpoint | None:
        """Copy the newest intact checkpoint into a folder of checkpoints; None if there is none.

        Raises:
            CheckpointError: another version wrote it, or the archive cannot be read.
        """
        try:
            for step, text in sorted(self.markers().items(), reverse=True):
                found = self._get(step, text, directory)
                if found is not None:
                    return found
                log.warning("%s at %s is damaged", checkpoint_name(step), self.url)
        except CheckpointError:
            raise
        except Exception as error:  # each kind of file system has its own
            raise self._unreadable(error) from error
        return None

    def _unreadable(self, error: Exception) -> CheckpointError:
        reason = " ".join(str(error).split())
        return CheckpointError(f"cannot read checkpoint.archive={self.url}: {reason}")

    def _get(self, step: int, text: bytes, directory: Path) -> Checkpoint | None:
        """Copy a checkpoint; return None if it is not as it was committed."""
        folder = directory / checkpoint_name(step)
        try:
            marker = read_record(Marker, json.loads(text), self.url, CheckpointError, strict=True)
        except (ValueError, RecursionError):
            return None
        checkpoint = Checkpoint(folder, marker)
        for name in marker.files:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._files.get_file(f"{self._folder(step)}/{name}", str(target))
            except FileNotFoundError:
                return None
            flush_to_disk(target)
        if marker.step != step or verify(checkpoint):
            return None
        flush_to_disk(directory)
        write_whole(folder / MARKER, text)
        return checkpoint

    def _folder(self, step: int) -> PurePosixPath:
        return self._root / checkpoint_name(step)

    def _folders(self) -> dict[int, str]:
        """Return what is a checkpoint there, or was to become one, by step."""
        self._files.invalidate_cache()
        try:
            entries = self._files.ls(str(self._root), detail=True)
        except FileNotFoundError:
            return {}
        names = {PurePosixPath(entry["name"]).name for entry in entries}
        steps = (int(name[5:]) for name in names if re.fullmatch("step_[0-9]{6,}", name, re.A))
        return {step: str(self._folder(step)) for step in steps if checkpoint_name(step) in names}


def _time(marker: bytes) -> float | None:
    """Return when a checkpoint was committed, as its marker says; None where it does not."""
    try:
        found = json.loads(marker).get("time")
    except (ValueError, AttributeError, RecursionError):
        return None
    return float(found) if isinstance(found, int | float) else None


class Uploads:
    """Keeps an archive up to date from a thread; what fails is tried again at the next commit.

    Args:
        sync: Brings the archive up to date.
        url: Of the archive, for the sentence.
    """

    def __init__(self, sync: Callable[[], None], url: str) -> None:
        self.seconds: float | None = None  # that the newest one took
        self._sync = sync
        self._url = url
        self._due = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="archive", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Say that there is a new checkpoint."""
        self._due.set()

    def close(self) -> None:
        """Wait until the archive is up to date, or has failed once more."""
        self._ended = True
        self._due.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended or self._due.is_set():
            self._due.wait()
            self._due.clear()
            started = time.perf_counter()
            try:
                self._sync()
            except Exception as error:  # each kind of file system has its own
                reason = " ".join(str(error).split()) or type(error).__name__
                log.warning("checkpoint.archive=%s is not up to date: %s", self._url, reason)
            else:
                self.seconds = time.perf_counter() - started
