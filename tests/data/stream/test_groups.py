"""Steps whose windows all have one grid."""

from collections import Counter
from collections.abc import Mapping

import pytest

from dpot_scale.config.data import DataConfig
from dpot_scale.data.stream.groups import GroupedMixture, open_groups
from dpot_scale.data.stream.mixture import BLOCK, Cut, Mixture, Windows, open_mixture
from dpot_scale.errors import ConfigError

WINDOWS = {"a": Windows(7, {1: 3}), "b": Windows(5, {1: 4}), "c": Windows(3, {1: 2, 2: 1})}
GRIDS = {"a": (64, 64), "b": (96, 160), "c": (64, 64)}
WEIGHTS = {"a": 2.0, "b": 1.0, "c": 1.0}
BATCH = 6


def a_config(weights: Mapping[str, float] = WEIGHTS, sampling: str = "weighted") -> DataConfig:
    return DataConfig.model_validate({"weights": weights, "sampling": sampling})


def opened(config: DataConfig | None = None, seed: int = 1) -> Mixture:
    return open_groups(WINDOWS, GRIDS, config or a_config(), global_batch=BATCH, seed=seed)


def step_of(mixture: Mixture, step: int) -> list[tuple[str, Cut]]:
    return [mixture.locate(step * BATCH + offset) for offset in range(BATCH)]


@pytest.mark.parametrize("sampling", ["weighted", "repeat"])
def test_all_windows_of_a_step_have_one_grid(sampling: str) -> None:
    mixture = opened(a_config(sampling=sampling))
    for step in (*range(200), *range(BLOCK - 5, BLOCK + 5)):
        assert len({GRIDS[name] for name, _ in step_of(mixture, step)}) == 1


@pytest.mark.parametrize("sampling", ["weighted", "repeat"])
def test_the_windows_of_a_group_are_those_of_a_training_on_it_alone(sampling: str) -> None:
    """In any order of asking: a position is all that decides."""
    mixture = opened(a_config(sampling=sampling))
    weights = {name: WEIGHTS[name] for name in ("a", "c")}
    windows = {name: WINDOWS[name] for name in weights}
    alone, turn = open_mixture(windows, a_config(weights, sampling), seed=1), 0
    backwards = opened(a_config(sampling=sampling))
    steps = range(2 * BLOCK)
    later = {step: step_of(backwards, step) for step in reversed(steps)}
    for step in steps:
        found = step_of(mixture, step)
        assert found == later[step]
        if found[0][0] in weights:
            expected = [alone.locate(turn * BATCH + offset) for offset in range(BATCH)]
            assert found == expected
            turn += 1
    assert turn in {BLOCK + BLOCK // 2, round(2 * BLOCK * (2 * 7 + 3) / (2 * 7 + 5 + 3))}


def test_any_part_of_a_training_has_its_share_of_each_grid() -> None:
    mixture = opened()
    grids = [GRIDS[mixture.locate(step * BATCH)[0]] for step in range(1000)]
    for start in range(0, 1000, 40):
        assert 8 <= Counter(grids[start : start + 40])[96, 160] <= 12
    # In no fixed pattern, and in another one for another seed.
    assert len({tuple(grids[start : start + 8]) for start in range(0, 1000, 8)}) > 5
    other = opened(seed=2)
    assert grids != [GRIDS[other.locate(step * BATCH)[0]] for step in range(1000)]


def test_datasets_of_one_grid_are_mixed_as_ever() -> None:
    grids = dict.fromkeys(WINDOWS, (64, 64))
    found = open_groups(WINDOWS, grids, a_config(), global_batch=BATCH, seed=3)
    expected = open_mixture(WINDOWS, a_config(), seed=3)
    assert not isinstance(found, GroupedMixture)
    assert all(found.locate(n) == expected.locate(n) for n in range(500))


def test_a_share_that_is_too_small_is_refused() -> None:
    weights = {"a": 5000.0, "b": 1.0, "c": 5000.0}
    with pytest.raises(ConfigError, match=r"b on the grid 96 x 160 have less than 1/4096 of all"):
        opened(a_config(weights))
