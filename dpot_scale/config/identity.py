"""Which runs are the same: hashes of what decides their numbers."""

import hashlib
import json
from pathlib import Path
from typing import Any

from dpot_scale.config.base import Section
from dpot_scale.config.run import RunConfig


def config_hash(config: Section) -> str:
    """Return twelve hex digits that name the content of a config."""
    return hashed(config.model_dump(mode="json"))


def run_hash(config: RunConfig) -> str:
    """Return the hash of what decides the numbers of a run.

    Left out are its places, what it logs, and how a global batch is cut into micro-batches. A file
    counts by its name, because a Ray job reads it in another folder each time; `runs/inputs.py`
    compares what it says.
    """
    excluded: dict[str, Any] = dict.fromkeys(("name", "output", "tracking", "checkpoint"), True)
    excluded |= {"data": {"root"}, "engine": {"nvme_path"}, "batch": {"micro_batch"}}
    values = config.model_dump(mode="json", exclude=excluded)
    for section, key in (("data", "suite"), ("engine", "deepspeed")):
        if values[section][key] is not None:
            values[section][key] = Path(values[section][key]).name
    # As they were spelled before they had a unit.
    for name in ("warmup", "decay"):
        length = values["optim"].pop(name)
        spelled = {f"{name}_fraction": length["share"]} if "share" in length else {name: length}
        values["optim"] |= spelled
    return hashed(values)


def hashed(values: dict[str, Any]) -> str:
    """Return twelve hex digits that name JSON values."""
    text = json.dumps(values, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
