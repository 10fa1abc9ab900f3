"""What was published, and which of it a model stands beside."""

import numpy as np
import pytest

from dpot_scale.config.run import EvaluationConfig
from dpot_scale.data.catalog import CATALOG
from dpot_scale.errors import ConfigError
from dpot_scale.evaluation.published import (
    PARAMETERS,
    PUBLISHED,
    nearest_size,
    protocol,
    require_published,
)
from dpot_scale.models.dpot.config import DPOTConfig
from dpot_scale.models.families import count_parameters


def test_every_size_has_an_error_on_every_dataset() -> None:
    assert {size: list(errors) for size, errors in PUBLISHED.items()} == {
        size: list(CATALOG) for size in PARAMETERS
    }
    assert (PUBLISHED["Ti"]["ns2d_fno_1e-5"], PUBLISHED["H"]["cfdbench"]) == (0.0976, 0.00749)
    assert (PUBLISHED["M"]["swe_pdb"], PUBLISHED["L"]["ns2d_cond_pda"]) == (0.0029, 0.24)


def test_the_mean_of_the_sizes_falls() -> None:
    means = [np.exp(np.mean(np.log(list(errors.values())))) for errors in PUBLISHED.values()]
    assert sorted(means, reverse=True) == means


def test_a_model_stands_beside_the_size_of_its_parameters() -> None:
    assert PARAMETERS["S"] == count_parameters(DPOTConfig(size="S")).total
    assert {size: nearest_size(n) for size, n in PARAMETERS.items()} == {s: s for s in PARAMETERS}
    assert [nearest_size(n) for n in (1_000, 14_000_000, 16_000_000, 10**10)] == [
        "Ti", "Ti", "S", "H",
    ]  # fmt: skip


def test_the_published_number_of_trajectories_and_frames() -> None:
    found = protocol("swe_pdb", EvaluationConfig(trajectories=3, batch=5))
    assert (found.trajectories, found.rollout_frames, found.batch) == (60, 91, 5)
    assert protocol("swe_pdb", EvaluationConfig(), 4).trajectories == 4
    assert protocol("swe_pdb", EvaluationConfig(), 400).trajectories == 60


@pytest.mark.parametrize(
    ("datasets", "history", "message"),
    [
        (["swe_pdb", "swe_pdbs"], 10, r"'swe_pdbs' is none of them \(did you mean 'swe_pdb'\?\)"),
        (["swe_pdb"], 4, "starts rollouts from 10 frames, and the model sees model.history=4"),
    ],
)
def test_what_was_not_published_is_refused(datasets: list[str], history: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        require_published(datasets, history)
