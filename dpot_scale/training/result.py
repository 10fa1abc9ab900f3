"""What a finished run leaves for others to read: one JSON file, never a log to parse."""

from collections.abc import Mapping
from math import nan
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BeforeValidator, ValidationError

from dpot_scale.config.schema import Section
from dpot_scale.errors import RecordError
from dpot_scale.files import write_whole
from dpot_scale.terminal import table

RESULT_FILE = "result.json"
ZERO_TARGETS = "zero_targets"


def _nan_for_null(value: object) -> object:
    """Read what the first version wrote where a number was not finite."""
    return nan if value is None else value


Score = Annotated[float, BeforeValidator(_nan_for_null)]  # NaN or infinite: the text "NaN"


class DatasetScore(Section):
    """Held-out relative L2 errors on one dataset, mean over fields and trajectories."""

    rel_l2: Score  # rollout from the first history frames, over all forecast frames
    one_step_rel_l2: Score  # every forward sees true frames
    persistence_rel_l2: Score  # the last known frame repeated
    persistence_one_step_rel_l2: Score
    zero_targets: int = 0  # frames, summed over fields and trajectories, that no error counts in


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


def score_table(scores: Mapping[str, DatasetScore]) -> str:
    """Return the scores of each dataset as lines of text, with those of persistence beside.

    Fields that were left out, because the truth is zero everywhere, are said below.
    """
    header = ("held-out rel_l2", "rollout", "persistence", "one step", "persistence")
    rows = [
        (
            name,
            f"{score.rel_l2:.4f}",
            f"{score.persistence_rel_l2:.4f}",
            f"{score.one_step_rel_l2:.4f}",
            f"{score.persistence_one_step_rel_l2:.4f}",
        )
        for name, score in scores.items()
    ]
    left_out = [
        f"left out of {name}: {score.zero_targets:,} frames of a field that are zero everywhere"
        for name, score in scores.items()
        if score.zero_targets
    ]
    return "\n".join([table(header, rows), *left_out])
