"""What trials were trained on, counted by hand."""

from collections.abc import Callable
from pathlib import Path

import pytest

from dpot_scale.config.load import load_run
from dpot_scale.config.run import RunConfig
from dpot_scale.scaling.report.training_data import distinct_windows, training_splits

Describe = Callable[..., None]


def run(root: Path, *overrides: str) -> RunConfig:
    return load_run(
        "quickstart",
        [
            f"data.root={root}",
            "data.suite=null",
            "data.weights={a: 3, b: 1}",
            "batch.global_batch=8",
            "windows=4000",
            "model.history=4",
            *overrides,
        ],
    )


def test_windows_and_costs_are_those_of_the_training_split(
    tmp_path: Path, describe_dataset: Describe
) -> None:
    describe_dataset(tmp_path, "a", [(10, 20), (5, 30)], [1.0] * 10 + [4.0] * 5)
    describe_dataset(tmp_path, "b", [(8, 12)])
    splits = training_splits(run(tmp_path))
    assert splits is not None
    a, b = splits["a"], splits["b"]
    assert (a.trajectories, a.frames) == (15, pytest.approx(350 / 15))
    assert a.windows == 10 * (20 - 4) + 5 * (30 - 4)  # of 4 + 1 frames
    assert a.solve_seconds == pytest.approx(2.0)
    assert b.solve_seconds is None


def test_a_dataset_counts_once_however_often_it_is_seen(
    tmp_path: Path, describe_dataset: Describe
) -> None:
    describe_dataset(tmp_path, "a", [(10, 14)])  # 100 windows, 3,000 seen
    describe_dataset(tmp_path, "b", [(500, 14)])  # 5,000 windows, 1,000 seen
    config = run(tmp_path)
    assert distinct_windows(config, training_splits(config)) == 100 + 1000
    # An epoch visits 30 trajectories of a and 500 of b: 226 and 3,774 windows are seen.
    config = run(tmp_path, "data.sampling=repeat")
    expected = 100 + 4000 * 500 / 530
    assert distinct_windows(config, training_splits(config)) == pytest.approx(expected)


def test_where_data_are_gone_all_windows_count(tmp_path: Path, describe_dataset: Describe) -> None:
    describe_dataset(tmp_path, "a", [(10, 14)])
    config = run(tmp_path)
    assert training_splits(config) is None
    assert distinct_windows(config, None) == 4000


def test_costs_that_are_not_known_are_left_out(tmp_path: Path, describe_dataset: Describe) -> None:
    describe_dataset(tmp_path, "a", [(3, 14)], [None, 1.0, 2.0])
    describe_dataset(tmp_path, "b", [(2, 14)], [None, None])
    splits = training_splits(run(tmp_path))
    assert splits is not None
    assert splits["a"].solve_seconds == pytest.approx(1.5)
    assert splits["b"].solve_seconds is None


def test_of_a_part_of_the_trajectories_the_rest_counts_for_nothing(
    tmp_path: Path, describe_dataset: Describe
) -> None:
    describe_dataset(tmp_path, "a", [(10, 14), (10, 34)], [1.0] * 10 + [4.0] * 10)
    describe_dataset(tmp_path, "b", [(500, 14)])
    config = run(tmp_path, "data.trajectories=15")
    splits = training_splits(config)
    assert splits is not None
    assert (splits["a"].trajectories, splits["b"].trajectories) == (15, 15)
    assert splits["a"].windows == 10 * 10 + 5 * 30
    assert splits["a"].solve_seconds == pytest.approx(2.0)
    assert distinct_windows(config, splits) == 250 + 150
    splits = training_splits(run(tmp_path, "data.trajectories={a: 4}"))
    assert splits is not None
    assert (splits["a"].trajectories, splits["b"].trajectories) == (4, 500)
