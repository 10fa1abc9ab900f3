"""What a finished run leaves for others to read: one JSON file, never a log to parse."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from dpot_scale.config.schema import Section
from dpot_scale.files import write_whole
from dpot_scale.training.console import table

RESULT_FILE = "result.json"
ZERO_TARGETS = "zero_targets"


class DatasetScore(Section):
    """Held-out relative L2 errors on one dataset, mean over fields and trajectories."""

    rel_l2: float  # rollout from the first history frames, over all forecast frames
    one_step_rel_l2: float  # every forward sees true frames
    persistence_rel_l2: float  # the last known frame repeated
    persistence_one_step_rel_l2: float
    zero_targets: int = 0  # frames, summed over fields and trajectories, that no error counts in


class TrainingResult(Section):
    """One finished run."""

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
    final_train_loss: float
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
    """Return the result in a run's directory, or None while the run is unfinished."""
    try:
        text = (directory / RESULT_FILE).read_text(encoding="utf-8")
        return TrainingResult.model_validate_json(text)
    except (OSError, ValidationError):
        return None


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
