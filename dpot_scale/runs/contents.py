"""The datasets and the initial weights that a run or sweep reads, each named by its content."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dpot_scale.checkpoints.checkpoint import checkpoint_folders, has_marker
from dpot_scale.config.base import PositiveInt
from dpot_scale.config.identity import Contents, Stored
from dpot_scale.config.places import CHECKPOINTS, INPUTS, JOURNAL, MARKER, RESULT_FILE, WEIGHTS
from dpot_scale.config.record import FIRST_FORMAT, FORMAT_KEY, Record, read_record
from dpot_scale.config.run import RunConfig
from dpot_scale.data.store.dataset import INDEX
from dpot_scale.data.store.digest import dataset_digest, recipe_digest
from dpot_scale.data.store.index import read_index
from dpot_scale.errors import RecordError
from dpot_scale.files import sha256, write_whole

# Stands for what is not there and was never read: a plan needs no data.
MISSING = "missing"
DIGITS = 12
STEP = " step "  # between the identity of a run and the step of a checkpoint


class Recorded(Record):
    """The contents that a run or sweep read when it was started."""

    format: PositiveInt = 2
    contents: dict[str, str]


def read_contents(config: RunConfig, directory: Path) -> Contents:
    """Return the contents that a run reads. Where a file is gone, the record of it is returned.

    So a finished run or sweep can be reported without its data.

    Args:
        config: With absolute paths.
        directory: The folder that may hold a record of an earlier start.

    Raises:
        DataError: the index of a dataset cannot be read.
    """
    before = recorded(directory)
    found = {name: _dataset(config, name) for name in config.data.weights}
    datasets = {
        name: known[0] if known else before.get(f"dataset {name}", MISSING)
        for name, known in found.items()
    }
    stored = {name: known[1] for name, known in found.items() if known}
    if config.start.source is None:
        return Contents(datasets=datasets, stored=stored)
    start = _start(config.start.source, directory, before.get("start"))
    return Contents(datasets=datasets, start=start, stored=stored)


def recorded(directory: Path) -> dict[str, str]:
    """Return the record of an earlier start; an empty one if there is none.

    Raises:
        RecordError: another version wrote the record.
    """
    path = directory / INPUTS
    content = _json(path)
    if content.get(FORMAT_KEY, FIRST_FORMAT) == FIRST_FORMAT:
        return {}  # of the same contents it says other digests
    try:
        return read_record(Recorded, content, path, RecordError).contents
    except ValidationError:
        return {}


def record(directory: Path, contents: Contents) -> None:
    """Write the record of the contents that are read.

    Raises:
        OSError: the record cannot be written.
    """
    text = Recorded(contents=contents.record()).model_dump_json(indent=2)
    write_whole(directory / INPUTS, text)


def _dataset(config: RunConfig, name: str) -> tuple[str, Stored] | None:
    """Return the digest of a dataset and what it stores; None where nobody knows it."""
    data = config.data
    if data.suite is not None and name in data.suite.datasets:
        recipe = data.suite.datasets[name]
        stored = Stored(grid=(recipe.grid,) * config.model.space_dims, trajectories=recipe.train)
        return recipe_digest(data.suite.recipe(name)), stored
    path = data.root / name / INDEX
    if not path.is_file():
        return None
    index = read_index(path)
    trajectories = sum(shard.trajectories for shard in index.splits.train)
    return dataset_digest(index), Stored(grid=index.info.grid, trajectories=trajectories)


def weights_digest(source: Path) -> str | None:
    """Return a digest of the weights that a path stands for; None if there are none.

    A finished run is named by its identity, and a checkpoint, as the newest of an unfinished run,
    by that and its step: these say all that their files could, which need not be read.
    """
    if source.is_file():
        return sha256(source)[:DIGITS]
    if identity := _identity_in(_json(source / RESULT_FILE)):
        return identity
    folders = checkpoint_folders(source / CHECKPOINTS)
    for folder in (source, *(folders[step] for step in sorted(folders, reverse=True))):
        marker = _json(folder / MARKER)
        if identity := _identity_in(marker):
            return f"{identity}{STEP}{marker['step']}"
    weights = source / WEIGHTS  # of a folder that no run made
    return sha256(weights)[:DIGITS] if weights.is_file() else None


def _identity_in(record: Mapping[str, Any]) -> str:
    """Return the identity of the run that wrote a record; the first ones call it otherwise."""
    return str(record.get("identity") or record.get("config_hash") or "")


def _start(source: Path, directory: Path, before: str | None) -> str:
    """Return the digest of the weights that a run begins with, or began with.

    Args:
        source: Where they are, or were.
        directory: The folder of the run or sweep.
        before: What its record says.
    """
    now = weights_digest(source)
    if now is None:
        return before or MISSING
    # The source may have gone on since; who has begun has weights of its own by now.
    of_run = not (source / MARKER).is_file()
    is_same = before is not None and before.partition(STEP)[0] == now.partition(STEP)[0]
    return before if before and of_run and is_same and _has_begun(directory) else now


def _has_begun(directory: Path) -> bool:
    """Return whether a run has saved something, or a sweep has started a trial."""
    folders = checkpoint_folders(directory / CHECKPOINTS).values()
    return any((directory / name).is_file() for name in (RESULT_FILE, JOURNAL)) or any(
        has_marker(folder) for folder in folders
    )


def _json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; an empty one if there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
