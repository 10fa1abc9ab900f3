"""Held-out scores as values that are saved and read back."""

from collections.abc import Mapping
from math import nan
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_core import from_json

from dpot_scale.config.base import PositiveInt, Section
from dpot_scale.config.record import Record, read_record
from dpot_scale.errors import RecordError

SCORES_FILE = "scores.json"
ZERO_TARGETS = "zero_targets"

REL_L2 = "rel_l2"
MAX_ERROR = "max_error"

# What each metric is, in the order of a table.
METRICS: Mapping[str, str] = {
    REL_L2: "norm of the error / norm of the truth, over the frames together (the paper's)",
    "vrmse": "root mean square error / standard deviation of the truth in space (The Well's)",
    "nrmse": "root mean square error / root mean square of the truth (PDEBench's)",
    MAX_ERROR: "largest error at any point, frame and trajectory, in the unit of the field",
    "spectral_low": "as nrmse, of waves with fewer than 4 cycles in the domain",
    "spectral_mid": "as nrmse, of waves with 4 to 12 cycles",
    "spectral_high": "as nrmse, of waves with 12 cycles or more",
}

# Lead times that means are also given of, ends included: 6:12 and 13:30 are those of The Well
# (Ohana et al., arXiv 2412.00568, table of losses averaged over windows of the rollout).
WINDOWS = ((6, 12), (13, 30))


def _nan_for_null(value: object) -> object:
    """Read what the first version wrote where a number was not finite."""
    return nan if value is None else value


Score = Annotated[float, BeforeValidator(_nan_for_null)]  # NaN or infinite: the text "NaN"


class DatasetScore(Section):
    """Held-out relative L2 errors on one dataset, mean over fields and trajectories.

    They are of the grid on which the model sees the dataset, as a training reports them.
    """

    rel_l2: Score  # rollout from the first history frames, over all forecast frames
    one_step_rel_l2: Score  # every forward sees true frames
    persistence_rel_l2: Score  # the last known frame repeated
    persistence_one_step_rel_l2: Score
    zero_targets: int = 0  # frames, summed over fields and trajectories, that no error counts in


class Measured(Section):
    """One metric of one forecast, mean over trajectories."""

    rollout: Score
    one_step: Score
    windows: dict[str, Score]  # over lead times: `6:12` are the 6th to the 12th forecast frame
    lead_times: tuple[Score, ...]


class Metric(Measured):
    """One metric of one forecast, mean over fields, and of each field."""

    fields: dict[str, Measured]


class DatasetDetails(Section):
    """All metrics on one dataset, on the grid that was asked for."""

    grid: tuple[int, ...]
    seen_on: tuple[int, ...]  # the grid of the model, on which a training compares
    trajectories: int
    constant_targets: int  # frames of a field that are the same everywhere, which have no vrmse
    model: dict[str, Metric]
    persistence: dict[str, Metric]


class Scores(Record):
    """The content of `scores.json`: one model on the datasets of one split."""

    format: PositiveInt = 2
    weights: Path  # the checkpoint or weights file
    config: str  # its file or preset
    evaluation: dict[str, DatasetScore]
    # Since format 2:
    parameters: int = 0
    split: str = "test"
    scored_on: Literal["stored", "published"] = "stored"  # the grid of `details`
    details: dict[str, DatasetDetails] = Field(default={})


class Comparison(Record):
    """The content of `scores.json` where several models were scored, by their names."""

    sources: dict[str, Scores]


def read_scores(path: Path) -> dict[str, Scores]:
    """Return the scores in a `scores.json` by the names of the models; "" is that of a single one.

    Raises:
        RecordError: there is no such file, it is damaged, or another version wrote it.
    """
    try:
        raw = from_json(path.read_bytes())
        if isinstance(raw, dict) and "sources" in raw:
            return dict(read_record(Comparison, raw, path, RecordError).sources)
        return {"": read_record(Scores, raw, path, RecordError)}
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, ValidationError) as error:
        reason = " ".join(str(error).split())
        raise RecordError(f"{path} holds no scores ({reason})") from error
