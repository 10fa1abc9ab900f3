"""What lies in a folder: a run or sweep never writes into one of another kind or identity."""

import os
from pathlib import Path
from typing import Literal

from dpot_scale.config.identity import run_hash
from dpot_scale.config.load import load_run
from dpot_scale.config.places import (
    CHECKPOINTS,
    JOURNAL,
    RESULT_FILE,
    RUN_CONFIG,
    SWEEP_CONFIG,
    TRIALS,
)
from dpot_scale.config.run import RunConfig
from dpot_scale.data.store.dataset import INDEX
from dpot_scale.errors import ConfigError
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
    """Return what lies in a folder that only a folder of this kind has."""
    return [mark for mark in MARKS[kind] if os.path.exists(directory / mark)]  # noqa: PTH110 - never raises


def require_kind(directory: Path, kind: Kind) -> None:
    """Make sure that a run or sweep can have a folder.

    Raises:
        ConfigError: the folder is one of another kind, or lies among what a sweep keeps.
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


def finished_before(config: RunConfig) -> TrainingResult | None:
    """Return the result of a run that has ended, None if there is something left to do.

    Raises:
        ConfigError: its folder is one of another kind, or of a run with another config.
    """
    require_kind(config.directory, "run")
    expected = run_hash(config)
    finished = read_result(config.directory)
    if finished is not None and finished.config_hash != expected:
        raise ConfigError(
            f"{config.directory} holds a finished run of another config ({finished.config_hash}, "
            f"this is {expected}); choose another `name` or `output`"
        )
    begun = config.directory / RUN_CONFIG
    # Before it has a checkpoint, nothing else tells whose metrics and MLflow run these are.
    if finished is None and begun.is_file() and run_hash(load_run(str(begun))) != expected:
        raise ConfigError(
            f"{config.directory} holds an unfinished run that was made with another config (see "
            f"{begun}); restore that config, or choose another `name` or `output`"
        )
    return finished
