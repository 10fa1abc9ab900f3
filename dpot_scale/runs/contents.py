"""The datasets and the initial weights that a run or sweep reads, each named by its content."""

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dpot_scale.config.base import PositiveInt
from dpot_scale.config.identity import Contents, Stored
from dpot_scale.config.places import CHECKPOINTS, INPUTS, MARKER, RESULT_FILE, WEIGHTS
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
    start = _start(config.start.source) or before.get("start", MISSING)
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


def _start(source: Path) -> str | None:
    """Return a digest of weights.

    A run or a checkpoint is named by the identity of the run that made it, which says all that its
    files could; so these need not be read.
    """
    if source.is_file():
        return sha256(source)[:DIGITS]
    checkpoints = [source / MARKER, *sorted((source / CHECKPOINTS).glob(f"*/{MARKER}"))]
    made_by = [_json(path) for path in (source / RESULT_FILE, *checkpoints)]
    found = next((one for one in made_by if one), {})
    identity = found.get("identity") or found.get("config_hash")
    if identity:
        step = f" step {found['step']}" if (source / MARKER).is_file() else ""
        return f"{identity}{step}"
    weights = source / WEIGHTS  # of a folder that no run made
    return sha256(weights)[:DIGITS] if weights.is_file() else None


def _json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; an empty one if there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
