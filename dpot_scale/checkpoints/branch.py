"""A branch takes over a checkpoint of its trunk, a run that has made the same steps so far."""

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path

from dpot_scale.checkpoints.checkpoint import Checkpoint, checkpoint_name
from dpot_scale.config.places import MARKER
from dpot_scale.files import flush_folders, flush_to_disk, write_whole


def take_over(checkpoint: Checkpoint, directory: Path, identity: str) -> Checkpoint:
    """Make a checkpoint of one run that of another, which would have computed the same.

    Its files are links where the file system has them: checkpoints are never changed. Like any
    checkpoint it exists when its marker does, so this may be interrupted and done again.

    Args:
        checkpoint: The intact checkpoint of the trunk.
        directory: The folder of the branch's checkpoints.
        identity: The identity of the branch.

    Returns:
        The checkpoint of the branch.

    Raises:
        OSError: it cannot be written.
    """
    folder = directory / checkpoint_name(checkpoint.state.step)
    shutil.rmtree(folder, ignore_errors=True)  # what an interruption left
    for name in checkpoint.marker.files:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        _link(checkpoint.folder / name, target)
        flush_to_disk(target)
    flush_folders(folder)
    marker = json.loads((checkpoint.folder / MARKER).read_text(encoding="utf-8"))
    marker["identity"] = identity
    write_whole(folder / MARKER, json.dumps(marker, indent=2))
    marked = checkpoint.marker.model_copy(update={"identity": identity})
    return Checkpoint(folder, marked)


def _link(source: Path, target: Path) -> None:
    with suppress(OSError):  # another disk, or a file system without links
        os.link(source, target)
        return
    shutil.copyfile(source, target)
