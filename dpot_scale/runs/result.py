"""What a finished run leaves for others to read: one JSON file, never a log to parse."""

from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import ValidationError

from dpot_scale.config.base import Section
from dpot_scale.config.places import RESULT_FILE
from dpot_scale.errors import RecordError
from dpot_scale.evaluation.scores import DatasetScore, Score
from dpot_scale.files import write_whole


class TrainingResult(Section):
    """One finished run."""

    format: Literal[1] = 1  # absent in the first ones
    name: str
    config_hash: str
    world_size: int
    parameters: int
    block_parameters: int
    windows: int
    steps: int
    seconds: float  # of training steps and evaluations in the attempt that finished
    train_flops: float
    windows_per_second: float
    peak_memory_gib: float  # of all ranks together
    final_train_loss: Score
    evaluation: dict[str, DatasetScore]

    @property
    def mean_rel_l2(self) -> float:
        """Rollout error, mean over datasets."""
        return float(np.mean([score.rel_l2 for score in self.evaluation.values()]))

    @property
    def mean_one_step_rel_l2(self) -> float:
        """One-step error, mean over datasets."""
        return float(np.mean([score.one_step_rel_l2 for score in self.evaluation.values()]))


def save_result(directory: Path, result: TrainingResult) -> None:
    """Write the result of a run, all of it or nothing."""
    write_whole(directory / RESULT_FILE, result.model_dump_json(indent=2))


def read_result(directory: Path) -> TrainingResult | None:
    """Return the result in a run's directory, or None while the run is unfinished.

    Raises:
        RecordError: there is one, which cannot be read: the run is not to be trained again for it.
    """
    path = directory / RESULT_FILE
    try:
        return TrainingResult.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise RecordError(
            f"{path} is not the result of a run that this version of dpot_scale can read "
            f"({f'{where}: ' if where else ''}{first['msg']}): use the version that wrote it, or "
            "remove the file to have the end of the run done again"
        ) from error
