"""Files that are on the disk for good, or a sentence that says why not."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dpot_scale.errors import DataError
from dpot_scale.files import write_whole


class CannotWrite(DataError):  # noqa: N818
    """The disk is full, or the folder may not be written to."""


def cannot_write(path: Path, error: OSError | RuntimeError) -> CannotWrite:
    """Say it in a line. h5py's own words have several, and what closing raises hides the reason."""
    number = getattr(error if isinstance(error, OSError) else error.__context__, "errno", None)
    reason = os.strerror(number) if number else " ".join(str(error).split())
    return CannotWrite(f"cannot write {path}: {reason}; is there space on the disk?")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file that is either the old or the new one, whatever happens."""
    write_whole(path, json.dumps(content, indent=2))
