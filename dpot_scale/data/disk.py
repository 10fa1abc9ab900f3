"""Files that are on the disk for good, or a sentence that says why not."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dpot_scale.errors import DataError


class CannotWrite(DataError):  # noqa: N818
    """The disk is full, or the folder may not be written to."""


def cannot_write(path: Path, error: OSError | RuntimeError) -> CannotWrite:
    """Say it in a line. h5py's own words have several, and what closing raises hides the reason."""
    number = getattr(error if isinstance(error, OSError) else error.__context__, "errno", None)
    reason = os.strerror(number) if number else " ".join(str(error).split())
    return CannotWrite(f"cannot write {path}: {reason}; is there space on the disk?")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file that is either the old or the new one, whatever happens."""
    new = path.with_suffix(".new")
    with new.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def flush_to_disk(path: Path) -> None:
    """Put a file on the disk for good."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
