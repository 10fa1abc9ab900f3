"""A checkpoint as a value: any process may look at one alone, without torch.

`checkpoints/step_000500/` is one if it holds COMMITTED.json. Only folders of exactly such a name
are ours: a copy that a user made is neither read nor removed.
"""

import errno
import json
import logging
import os
import re
import stat
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field, model_validator

from dpot_scale.config.base import PositiveInt, Section
from dpot_scale.config.places import MARKER
from dpot_scale.config.record import FIRST_FORMAT, FORMAT_KEY, Record, read_record
from dpot_scale.errors import CheckpointError
from dpot_scale.files import NotAFileError, sha256

log = logging.getLogger(__name__)

T = TypeVar("T")

# How the system says that there is no such file. Any other error says nothing of the file itself.
NO_FILE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP}
PAUSE_SECONDS = 1.0  # before what could not be read is read again


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainState:
    """How far a run is: all that is needed to continue its stream of windows."""

    step: int = 0  # updates made; each has seen a global batch of windows

    def after_step(self) -> "TrainState":
        """Return the state one update later."""
        return TrainState(step=self.step + 1)


class Census(Section):
    """Size and SHA-256 of one file of a checkpoint."""

    bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


def _inside(name: str) -> str:
    """Refuse a file that would lie outside of its checkpoint."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError("not a file of the checkpoint")
    return name


class Marker(Record):
    """The record that makes a folder a checkpoint: the state, who saved it, and its files."""

    format: PositiveInt = 4  # since 4 the shards are safetensors, which any number of ranks reads
    step: Annotated[int, Field(ge=0)]
    world_size: Annotated[int, Field(ge=1)]
    # Of the run; "" in the first ones, which name it by another hash.
    identity: str
    # With which the order inside older shards varies; the first ones were all made on CPU.
    device: Literal["cpu", "cuda"] = "cpu"
    # What the run reads beside its config, by its name for people; the first ones do not say.
    contents: dict[str, str] = Field(default={})
    # The dimensions of the model; the first ones do not say them.
    model: dict[str, Any] | None = None
    # What the model is trained on, a `TrainingData`; since format 3.
    data: dict[str, Any] | None = None
    time: float | None = None  # of its commit, in seconds since 1970; since format 4
    files: Annotated[dict[Annotated[str, AfterValidator(_inside)], Census], Field(min_length=1)]

    @model_validator(mode="before")
    @classmethod
    def _read_format_1(cls, raw: object) -> object:
        """Accept the first markers; they name the run and its data by hashes that are gone."""
        if not isinstance(raw, dict) or raw.get(FORMAT_KEY) != FIRST_FORMAT:
            return raw
        if not isinstance(raw.get("config_hash"), str):
            return raw
        gone = {"config_hash", "inputs", "windows_seen"}
        return {key: raw[key] for key in raw if key not in gone} | {"identity": ""}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A committed folder and the content of its marker."""

    folder: Path
    marker: Marker

    def __str__(self) -> str:
        return str(self.folder)

    @property
    def state(self) -> TrainState:
        """How far the run was."""
        return TrainState(step=self.marker.step)


def checkpoint_name(step: int) -> str:
    """Return the name of the checkpoint of a step."""
    return f"step_{step:06d}"


def checkpoint_folders(directory: Path) -> dict[int, Path]:
    """Return the folders that are checkpoints, or were to become some, by their steps.

    Raises:
        CheckpointError: the directory, or what lies in it, is there and cannot be read.
    """
    return {
        int(folder.name.removeprefix("step_")): folder
        for folder in _read(lambda: list(directory.iterdir()), directory) or ()
        if re.fullmatch("step_[0-9]{6,}", folder.name)
        and folder.name == checkpoint_name(int(folder.name.removeprefix("step_")))
        and stat.S_ISDIR(_mode(folder))
    }


def has_marker(folder: Path) -> bool:
    """Return whether a folder was committed, though its marker may be damaged since.

    Raises:
        CheckpointError: the system does not say.
    """
    return is_file(folder / MARKER)


def is_file(path: Path) -> bool:
    """Return whether there is a file.

    Raises:
        CheckpointError: the system does not say. `Path.is_file` raises an `OSError` there, and from
            Python 3.14 on takes the file for absent.
    """
    return stat.S_ISREG(_mode(path))


def saved_step(directory: Path) -> int:
    """Return the step of the newest checkpoint that was committed, 0 if there is none.

    Raises:
        CheckpointError: one cannot be read.
    """
    folders = checkpoint_folders(directory)
    return max((step for step, folder in folders.items() if has_marker(folder)), default=0)


def committed(directory: Path) -> list[Checkpoint]:
    """Return the checkpoints of a run, the newest first, without those whose marker is damaged.

    Raises:
        CheckpointError: another version wrote one, or one cannot be read.
    """
    found = []
    for step, folder in sorted(checkpoint_folders(directory).items(), reverse=True):
        if not has_marker(folder):
            continue  # what a crash left
        checkpoint = open_checkpoint(folder)
        if checkpoint is not None and checkpoint.marker.step == step:
            found.append(checkpoint)
        else:
            log.warning("%s is damaged (%s)", folder, MARKER)
    return found


def open_checkpoint(folder: Path) -> Checkpoint | None:
    """Return the checkpoint in a folder of any name; None if it has no marker or a damaged one.

    Raises:
        CheckpointError: another version wrote it, or it cannot be read.
    """
    path = folder / MARKER
    try:
        text = _read(lambda: path.read_text(encoding="utf-8"), path)
        if text is None:
            return None
        marker = read_record(Marker, json.loads(text), folder, CheckpointError, strict=True)
    except (ValueError, RecursionError):
        return None
    return Checkpoint(folder, marker)


def newest_intact(directory: Path) -> Checkpoint | None:
    """Return the newest intact checkpoint of a run; None if the run has no checkpoint.

    Raises:
        CheckpointError: none is intact, another version wrote one, or one cannot be read.
    """
    for checkpoint in committed(directory):
        if not verify(checkpoint):
            return checkpoint
        log.warning("%s is damaged: trying the one before", checkpoint)
    require_none(directory)
    return None


def require_none(directory: Path) -> None:
    """Make sure that a run of which no checkpoint is intact never had one.

    Raises:
        CheckpointError: it had, or that cannot be read.
    """
    if any(has_marker(folder) for folder in checkpoint_folders(directory).values()):
        raise CheckpointError(
            f"no checkpoint under {directory} is intact: remove that folder to start the run "
            "again, or choose other weights"
        )


def verify(checkpoint: Checkpoint, names: Iterable[str] | None = None) -> list[str]:
    """Return the files of a checkpoint that are not as they were committed.

    Args:
        checkpoint: The checkpoint.
        names: The files to read; None for all.

    Raises:
        CheckpointError: the system does not read one, which says nothing of its content.
    """
    files = checkpoint.marker.files
    names = files if names is None else names
    return [n for n in names if _examined(checkpoint.folder / n) != files[n]]


def examine(path: Path) -> Census:
    """Return size and sum of a file.

    Raises:
        OSError: it cannot be read.
    """
    return Census(bytes=path.stat().st_size, sha256=sha256(path))


def _examined(path: Path) -> Census | None:
    """Return size and sum of a file; None if there is none."""
    return _read(lambda: examine(path), path)


def _mode(path: Path) -> int:
    """Return the kind and permissions of what lies at a path; 0 if there is nothing."""
    return _read(lambda: path.stat().st_mode, path) or 0


def _read(read: Callable[[], T], path: Path) -> T | None:
    """Return what is read; None if there is no such file or folder.

    A disk or a server that fails damages no checkpoint: a run that went back behind an intact one
    would remove it. So it is tried again, once.

    Raises:
        CheckpointError: it cannot be read.
    """
    for pause in (PAUSE_SECONDS, None):
        try:
            return read()
        except OSError as error:
            if says_there_is_none(error):
                return None
            if pause is None:
                raise cannot_read(path, error) from error
            time.sleep(pause)
    raise AssertionError("the second try returns or raises")


def says_there_is_none(error: OSError) -> bool:
    """Return whether an error means that there is no such file."""
    return isinstance(error, NotAFileError) or error.errno in NO_FILE


def cannot_read(path: Path, error: OSError) -> CheckpointError:
    """Return the error for what is there and cannot be read, which says nothing of its content."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    return CheckpointError(
        f"cannot read {path}: {reason}; nothing is removed: start again once it can be read"
    )
