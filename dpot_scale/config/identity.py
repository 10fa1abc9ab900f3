"""The identity of a run: a hash of what decides its numbers, by content and not by spelling."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dpot_scale.config.base import content_hash
from dpot_scale.config.model import ModelConfig, Points
from dpot_scale.config.run import RunConfig

# Of the rule below; the first one hashed the config as it was spelled.
VERSION = 2

# What does not decide the numbers of a run: its places, how it is sharded and recomputed, when it
# is saved, scored and logged, and what it puts up with. A field that is not listed does.
LEFT_OUT: dict[str, Any] = {
    "name": True,
    "output": True,
    "evaluation": True,
    "checkpoint": True,
    "limits": True,
    "tracking": True,
    "model": True,  # its dimensions count instead, whether a size names them or not
    # The content of the source counts instead, as that of the datasets and of the JSON; `absent`
    # only decides whether there is a run.
    "start": {"source", "absent"},
    "data": {"root", "suite"},
    "batch": {"micro_batch"},
    "engine": {
        "kind",
        "deepspeed",
        "activation_checkpointing",
        "recompute_every",
        "recompute_backend",
        "recompute_offload",
        "compile",
    },
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """What the price of a training depends on of a dataset."""

    grid: Points
    trajectories: int  # for training


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents:
    """The datasets and weights that a run reads, each named by a hash of its content."""

    datasets: Mapping[str, str]
    start: str | None = None  # the weights it begins with; None: drawn from its seed
    # Of the datasets that are known; no content of its own.
    stored: Mapping[str, Stored] = field(default_factory=dict, compare=False)

    def record(self) -> dict[str, str]:
        """Return all hashes by names for people."""
        start = {} if self.start is None else {"start": self.start}
        return {f"dataset {name}": digest for name, digest in self.datasets.items()} | start


def identity(config: RunConfig, contents: Contents) -> str:
    """Return twelve hex digits that are the same for runs with the same numbers.

    A field that has its default is left out, so that a new one changes no identity.
    """
    values = config.model_dump(mode="json", exclude=LEFT_OUT, exclude_defaults=True)
    values["model"] = _dimensions(config.model)
    if isinstance(config.optim.reference_width, dict):  # of other families it decides nothing
        reference = {"reference_width": config.optim.reference_for(config.model.family)}
        values["optim"] = {k: v for k, v in (values["optim"] | reference).items() if v is not None}
    # A section whose other fields were left out is as good as none.
    values = {key: value for key, value in values.items() if value != {}}
    return content_hash(
        {
            "version": VERSION,
            "config": values,
            "precision": config.engine.deepspeed.precision,
            "contents": contents.record(),
        }
    )


def _dimensions(model: ModelConfig) -> dict[str, object]:
    """Return the family of a model, and the dimensions that have no default or another value."""
    fields = type(model).model_fields
    found = {n: v for n, v in model.dimensions().items() if v != fields[n].default}
    return {"family": model.family, **found}


def changed_content(before: Mapping[str, str], now: Mapping[str, str]) -> str | None:
    """Return in words which content differs from the one that was read before; None if none does.

    Args:
        before: The record of an earlier start; empty if there is none.
        now: The record of this start.
    """
    for name in sorted(before.keys() | now.keys()) if before else ():
        old, new = before.get(name, "none"), now.get(name, "none")
        if old != new:
            return (
                f"another {name} ({old}, now {new}): restore what it was, or choose another `name` "
                "for a new run"
            )
    return None
