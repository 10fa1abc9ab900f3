"""A checkpoint as a value that one process alone may look at: its marker and its files.

`checkpoints/step_000500/` is one if it holds COMMITTED.json. Only folders of exactly such a name
are ours: a copy that a user made is neither read nor removed.
"""

import json
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from dpot_scale.checkpoints.shards import foreign_names
from dpot_scale.config.base import Section
from dpot_scale.engine.shards import SHARDS
from dpot_scale.errors import CheckpointError
from dpot_scale.files import sha256

MARKER = "COMMITTED.json"
FORMAT = 1  # of the marker
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainState:
    """How far a run is."""

    step: int = 0  # updates made
    windows_seen: int = 0  # the data position: all that is needed to continue the stream

    def after_step(self, global_batch: int) -> "TrainState":
        """Return the state one update later."""
        return TrainState(step=self.step + 1, windows_seen=self.windows_seen + global_batch)


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


class Marker(Section):
    """What makes a folder a checkpoint: the state, by whom it was saved, and its files."""

    format: Annotated[int, Field(ge=FORMAT, le=FORMAT)] = FORMAT  # absent in the first ones
    step: Annotated[int, Field(ge=0)]
    windows_seen: Annotated[int, Field(ge=0)]
    world_size: Annotated[int, Field(ge=1)]
    config_hash: str
    # With which the order inside shards varies; the first ones were all made on CPU.
    device: Literal["cpu", "cuda"] = "cpu"
    # What else the run was trained on, by its name in words; the first ones do not say.
    inputs: dict[str, str] = Field(default={})
    files: Annotated[dict[Annotated[str, AfterValidator(_inside)], Census], Field(min_length=1)]

    @property
    def state(self) -> TrainState:
        """How far the run was."""
        return TrainState(step=self.step, windows_seen=self.windows_seen)


def checkpoint_name(step: int) -> str:
    """Return the name of the checkpoint of a step."""
    return f"step_{step:06d}"


def checkpoint_folders(directory: Path) -> list[Path]:
    """Return the folders that are checkpoints, or were to become some."""
    return [
        folder
        for folder in directory.glob("step_*")
        if folder.is_dir()
        and re.fullmatch("step_[0-9]{6,}", folder.name)
        and folder.name == checkpoint_name(_step_of(folder))
    ]


def committed(directory: Path) -> list[Path]:
    """Return the checkpoints of a run that have a marker, the newest first."""
    markers = [folder for folder in checkpoint_folders(directory) if (folder / MARKER).is_file()]
    return sorted(markers, key=lambda folder: -_step_of(folder))


def newest_intact(directory: Path) -> Path | None:
    """Return the newest intact checkpoint of a run, for one process alone; None without any.

    Raises:
        CheckpointError: none of them is intact, or one would run code when it is read.
    """
    found = committed(directory)
    for folder in found:
        marker = read_marker(folder)
        if marker is not None and not damaged_files(folder, marker, marker.files):
            refuse_code(folder, pickles(folder, marker))
            return folder
        log.warning("%s is damaged: trying the one before", folder)
    if found:
        raise CheckpointError(f"no checkpoint under {directory} is intact; choose other weights")
    return None


def read_marker(folder: Path) -> Marker | None:
    """Return what the marker of a checkpoint says; None if it is not a valid one.

    Raises:
        CheckpointError: a newer dpot_scale wrote it.
    """
    try:
        raw = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        if isinstance(raw, dict) and raw.get("format") in range(FORMAT + 1, 1000):
            raise CheckpointError(
                f"{folder} was saved by a newer version of dpot_scale: continue with that one"
            )
        marker = Marker.model_validate(raw, strict=True)
    except (OSError, ValueError, RecursionError):
        return None
    return marker if marker.step == _step_of(folder) else None


def damaged_files(folder: Path, marker: Marker, names: Iterable[str]) -> list[str]:
    """Return those of the named files that are not as they were committed."""
    return [name for name in names if _examined(folder / name) != marker.files[name]]


def changed_input(before: Mapping[str, str], now: Mapping[str, str]) -> str | None:
    """Return what has changed of the inputs of a run and what to do; None where nothing has.

    Args:
        before: What it was trained on, by its name in words; empty where that is not known.
        now: What it is about to be trained on.
    """
    for name in sorted(before.keys() | now.keys()) if before else ():
        old, new = before.get(name, "none"), now.get(name, "none")
        if old != new:
            return (
                f"another {name} ({old}, now {new}): restore what it was, or choose another `name` "
                "for a new run"
            )
    return None


def pickles(folder: Path, marker: Marker) -> list[str]:
    """Return the files that DeepSpeed may unpickle: it reads those that no marker names, too."""
    there = {f"{SHARDS}/{file.name}" for file in (folder / SHARDS).glob("*.pt")}
    return sorted(there.union(name for name in marker.files if name.endswith(".pt")))


def refuse_code(folder: Path, names: Iterable[str]) -> None:
    """Refuse a checkpoint that would run code when it is read.

    Args:
        folder: The checkpoint.
        names: Those of its `pickles` to examine.

    Raises:
        CheckpointError: one of the named files is no mere tensors.
    """
    for name in names:
        if foreign := foreign_names(folder / name):
            raise CheckpointError(
                f"{folder / name} would run {', '.join(foreign)} when it is loaded, which no "
                "checkpoint of dpot_scale does: remove this checkpoint and find out who changed it"
            )


def examine(path: Path) -> Census:
    """Return size and sum of a file.

    Raises:
        OSError: it cannot be read.
    """
    return Census(bytes=path.stat().st_size, sha256=sha256(path))


def _step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step_"))


def _examined(path: Path) -> Census | None:
    """Return size and sum of a file; None if it cannot be read."""
    try:
        return examine(path)
    except OSError:
        return None
