"""Keeps a run or sweep from writing into the folder of another one."""

import os
from pathlib import Path
from typing import Literal

from dpot_scale.config.identity import changed_content, identity
from dpot_scale.config.load import load_run
from dpot_scale.config.places import (
    CHECKPOINTS,
    JOURNAL,
    RESULT_FILE,
    RUN_CONFIG,
    SWEEP_CONFIG,
    TRIALS,
)
from dpot_scale.data.store.dataset import INDEX
from dpot_scale.errors import ConfigError
from dpot_scale.runs.contents import recorded
from dpot_scale.runs.resolved import Run
from dpot_scale.runs.result import TrainingResult, read_result
from dpot_scale.tracking.spool import SPOOL

Kind = Literal["run", "sweep", "dataset"]
# A folder is of a kind if one of these lies in it.
MARKS: dict[Kind, tuple[str, ...]] = {
    "run": (RUN_CONFIG, SPOOL, CHECKPOINTS, RESULT_FILE),
    "sweep": (SWEEP_CONFIG, JOURNAL, TRIALS),
    "dataset": (INDEX,),
}
OUTPUT: dict[Kind, str] = {"run": "output", "sweep": "run.output"}  # the key that places it


def found_marks(directory: Path, kind: Kind) -> list[str]:
    """Return the files in a folder that only a folder of this kind has."""
    return [mark for mark in MARKS[kind] if os.path.exists(directory / mark)]  # noqa: PTH110 - never raises


def require_kind(directory: Path, kind: Kind) -> None:
    """Make sure that a run or sweep may use a folder.

    Raises:
        ConfigError: it is the folder of the other kind, or lies in the folder of a sweep.
    """
    if os.path.exists(directory.parent / JOURNAL):  # noqa: PTH110 - never raises
        raise ConfigError(
            f"{directory} lies in the folder of a sweep; give this {kind} another `{OUTPUT[kind]}`"
        )
    for other in MARKS:
        found = found_marks(directory, other)
        if other != kind and found:
            raise ConfigError(
                f"{directory} is the folder of a {other} ({', '.join(found)} in it); give this "
                f"{kind} another `name` or `{OUTPUT[kind]}`"
            )


def finished_before(run: Run) -> TrainingResult | None:
    """Return the result of a finished run, None if there is something left to do.

    Raises:
        ConfigError: its folder is one of another kind, or of a run with another config, other
            data or other weights to begin with.
    """
    directory = run.config.directory
    require_kind(directory, "run")
    finished = read_result(directory)
    state = "an unfinished" if finished is None else "a finished"
    difference = changed_content(recorded(directory), run.contents.record())
    if difference is not None:
        raise ConfigError(f"{directory} holds {state} run that was begun with {difference}")
    begun = directory / RUN_CONFIG
    # Compared by what it says, so that the rule by which an identity is found may change.
    if begun.is_file() and identity(load_run(str(begun)), run.contents) != run.identity:
        raise ConfigError(
            f"{directory} holds {state} run that was made with another config (see {begun}); "
            "restore that config, or choose another `name` or `output`"
        )
    return finished
