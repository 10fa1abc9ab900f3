"""The result of a finished run, one JSON file for other programs to read."""

from pathlib import Path

import numpy as np
from pydantic import Field, ValidationError, model_validator
from pydantic_core import from_json

from dpot_scale.config.base import NonNegativeFloat, PositiveInt
from dpot_scale.config.places import RESULT_FILE
from dpot_scale.config.record import Record, read_record
from dpot_scale.errors import RecordError
from dpot_scale.evaluation.scores import DatasetScore, Score
from dpot_scale.files import write_whole


class TrainingResult(Record):
    """One finished run."""

    format: PositiveInt = 7
    name: str
    identity: str
    datasets: dict[str, str]  # what it was trained on: digests, by name
    world_size: int
    parameters: int
    block_parameters: int
    windows: int
    quarantined: int = 0  # of the windows: could not be read; since format 6
    steps: int
    seconds: float  # of training steps and evaluations in the attempt that finished
    train_flops: float  # since format 5 with those of Muon
    windows_per_second: float
    peak_memory_gib: float  # of all ranks together
    final_train_loss: Score
    evaluation: dict[str, DatasetScore]  # on the test split
    # On the valid split, of the datasets that have one; since format 3.
    valid: dict[str, DatasetScore] = Field(default={})
    # rel_l2 of each lead time of the rollouts on the test split, by dataset; since format 4.
    lead_times: dict[str, tuple[Score, ...]] = Field(default={})
    # Of a worker for one forward, by trajectory, where `evaluation.batch` of them are forecast at a
    # time; by dataset; since format 7.
    forward_seconds: dict[str, NonNegativeFloat] = Field(default={})

    @model_validator(mode="before")
    @classmethod
    def _read_format_1(cls, raw: object) -> object:
        """Accept the first results, which do not say what their datasets held."""
        if isinstance(raw, dict) and raw.get("format", 1) == 1 and "config_hash" in raw:
            newest = cls.newest_format()
            identity = {"identity": raw["config_hash"], "datasets": {}, "format": newest}
            return {key: raw[key] for key in raw if key != "config_hash"} | identity
        return raw

    @property
    def mean_rel_l2(self) -> float:
        """Rollout error, mean over datasets."""
        return float(np.mean([score.rel_l2 for score in self.evaluation.values()]))

    @property
    def mean_persistence_rel_l2(self) -> float:
        """Rollout error of repeating the last known frame, mean over datasets."""
        return float(np.mean([score.persistence_rel_l2 for score in self.evaluation.values()]))

    @property
    def mean_valid_rel_l2(self) -> float | None:
        """Rollout error on the valid split, mean over the datasets with one; None without any."""
        errors = [score.rel_l2 for score in self.valid.values()]
        return float(np.mean(errors)) if errors else None

    @property
    def over_persistence(self) -> float:
        """Rollout error over that of repeating the last known frame, of means over datasets."""
        scores = self.evaluation.values()
        return self.mean_rel_l2 / float(np.mean([score.persistence_rel_l2 for score in scores]))

    @property
    def mean_one_step_rel_l2(self) -> float:
        """One-step error, mean over datasets."""
        return float(np.mean([score.one_step_rel_l2 for score in self.evaluation.values()]))


def save_result(directory: Path, result: TrainingResult) -> None:
    """Write the result of a run whole or not at all."""
    write_whole(directory / RESULT_FILE, result.model_dump_json(indent=2))


def read_result(directory: Path) -> TrainingResult | None:
    """Return the result in a run's directory, or None while the run is unfinished.

    Raises:
        RecordError: the result is damaged, or another version wrote it. Training the run again
            would be no remedy.
    """
    path = directory / RESULT_FILE
    try:
        return read_record(TrainingResult, from_json(path.read_bytes()), path, RecordError)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise RecordError(
            f"{path} is not the result of a run that this version of dpot_scale can read "
            f"({_first_problem(error)}): use the version that wrote it, or remove the file to have "
            "the end of the run done again"
        ) from error


def _first_problem(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {first['msg']}" if where else first["msg"]
