"""What the workers of a trial get from a cluster. With Ray itself: tests/end_to_end."""

import pytest

from dpot_scale.config.sweep import ResourcesConfig
from dpot_scale.scaling.cluster import settle, worker_environment, worker_resources


@pytest.mark.parametrize(("gpus", "expected"), [(0, 0), (1, 0), (2, 1), (8, 1)])
def test_auto_is_a_gpu_for_every_worker_or_none(gpus: int, expected: int) -> None:
    there = {"CPU": 16.0} | ({"GPU": float(gpus)} if gpus else {})
    settled = settle(ResourcesConfig(workers=2), there)
    assert settled.gpus_per_worker == expected
    assert worker_resources(settled) == {"CPU": 1.0} | ({"GPU": 1.0} if expected else {})


@pytest.mark.parametrize("chosen", [0, 1])
def test_what_is_chosen_stands(chosen: int) -> None:
    resources = ResourcesConfig.model_validate({"gpus_per_worker": chosen})
    assert settle(resources, {"GPU": 8.0 * (1 - chosen)}) == resources


def test_only_a_worker_without_a_gpu_of_its_own_is_shown_none() -> None:
    hidden = {"env_vars": {"CUDA_VISIBLE_DEVICES": ""}}
    assert worker_environment(ResourcesConfig(gpus_per_worker=0)) == hidden
    assert worker_environment(ResourcesConfig(gpus_per_worker=1)) == {}
