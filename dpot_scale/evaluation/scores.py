"""Held-out scores as values that are saved, read back and shown."""

from collections.abc import Mapping
from math import nan
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator

from dpot_scale.config.base import Section
from dpot_scale.config.record import Record
from dpot_scale.terminal import table

SCORES_FILE = "scores.json"
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


class Scores(Record):
    """The content of `scores.json`."""

    weights: Path  # the checkpoint or weights file
    config: str  # its file or preset
    evaluation: dict[str, DatasetScore]


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
