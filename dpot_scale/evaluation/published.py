"""The published protocol and errors of DPOT (Hao et al., ICML 2024, arXiv 2403.03542, table 1).

Rollouts from the first 10 frames; the relative L2 error over the whole predicted trajectory per
field, mean over fields, then over trajectories; the truth is the field resized to 128 x 128 points,
of datasets of 64 x 64 points at every second point. `data/catalog.py` has the sizes and lengths.
"""

import math
from collections.abc import Iterable

from dpot_scale.config.data import DataConfig
from dpot_scale.config.run import EvaluationConfig
from dpot_scale.config.sentences import nearest
from dpot_scale.data.catalog import CATALOG
from dpot_scale.errors import ConfigError

HISTORY = 10

# Parameters of each published size.
PARAMETERS = {
    "Ti": 7_534_643,
    "S": 30_801_459,
    "M": 122_125_875,
    "L": 509_018_739,
    "H": 1_031_082_099,
}

# After pre-training, in the order of the catalogue.
_ERRORS = {
    "Ti": (
        *(0.0976, 0.0606, 0.00954, 0.0173, 0.0397, 0.0132),
        *(0.0220, 0.00560, 0.0321, 0.125, 0.384, 0.00952),
    ),
    "S": (
        *(0.0553, 0.0442, 0.0131, 0.0153, 0.0337, 0.0118),
        *(0.0188, 0.00657, 0.0379, 0.0999, 0.316, 0.00696),
    ),
    "M": (
        *(0.0409, 0.0285, 0.00474, 0.0116, 0.0238, 0.00866),
        *(0.0129, 0.00290, 0.0292, 0.0812, 0.276, 0.00752),
    ),
    "L": (
        *(0.0550, 0.0274, 0.00528, 0.0100, 0.0216, 0.00872),
        *(0.0115, 0.00233, 0.0232, 0.0798, 0.240, 0.00650),
    ),
    "H": (
        *(0.0174, 0.0131, 0.00229, 0.00961, 0.0180, 0.00847),
        *(0.0105, 0.00199, 0.0191, 0.0379, 0.213, 0.00749),
    ),
}
PUBLISHED = {size: dict(zip(CATALOG, errors, strict=True)) for size, errors in _ERRORS.items()}


def nearest_size(parameters: int) -> str:
    """Return the published size that has the most similar number of parameters."""
    return min(PARAMETERS, key=lambda size: abs(math.log(PARAMETERS[size] / parameters)))


def require_published(datasets: Iterable[str], history: int) -> None:
    """Make sure that there is a published protocol for some datasets and a model.

    Raises:
        ConfigError: there is none.
    """
    for name in datasets:
        if name not in CATALOG:
            raise ConfigError(
                f"--metric paper scores the published datasets, and {name!r} is none of them"
                f"{nearest(name, CATALOG)}: choose with --datasets from {', '.join(CATALOG)}"
            )
    if history != HISTORY:
        raise ConfigError(
            f"--metric paper starts rollouts from {HISTORY} frames, and the model sees "
            f"model.history={history}: leave --metric paper out"
        )


def protocol(dataset: str, config: EvaluationConfig, most: int | None = None) -> EvaluationConfig:
    """Return how many trajectories of a dataset are forecast as published, and how far.

    Args:
        dataset: Its name in the catalogue.
        config: Says all else.
        most: How many trajectories at most; None: as many as published.
    """
    entry = CATALOG[dataset]
    trajectories = entry.test if most is None else min(most, entry.test)
    return config.model_copy(
        update={"trajectories": trajectories, "rollout_frames": entry.predicted_frames}
    )


def published_data(data: DataConfig) -> DataConfig:
    """Return how a model sees data by the protocol: all on its grid, and all points count."""
    return data.model_copy(update={"shapes": "resize", "mask_points": False})
