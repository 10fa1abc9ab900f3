"""Which split is scored when, and what of it is tracked."""

import errno
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from dpot_scale.config.load import load_run
from dpot_scale.config.run import EvaluationConfig, RunConfig
from dpot_scale.data.datasets import open_datasets
from dpot_scale.data.info import DatasetInfo
from dpot_scale.data.store import open_files
from dpot_scale.data.store.dataset import DatasetStore, open_store
from dpot_scale.data.store.writer import StoreWriter
from dpot_scale.data.stream import patience
from dpot_scale.engine.runtime import World
from dpot_scale.errors import DataError, SharedDataError, SharedMachineError, UserError
from dpot_scale.evaluation.monitor import Monitor, eval_metrics, final_metrics
from dpot_scale.evaluation.scores import DatasetScore
from dpot_scale.models.forecaster import Forecast

Stores = dict[str, DatasetStore]


@pytest.fixture(scope="module")
def config(tiny_yaml: Path) -> RunConfig:
    return load_run(str(tiny_yaml))


@pytest.fixture(scope="module")
def stores(config: RunConfig) -> Stores:
    return open_datasets(config.data, config.model, progress=lambda _: None)


@pytest.fixture(scope="module")
def world() -> World:
    return World(rank=0, local_rank=0, world_size=1, device=torch.device("cpu"))


@pytest.fixture
def split(tmp_path: Path) -> DatasetStore:
    """A dataset whose persistence errors are 1/2 on the valid and 2/3 on the test split."""
    info = DatasetInfo(
        name="split",
        equation="none",
        channels=("u",),
        scored=(True,),
        spatial_axes=("x", "y"),
        grid=(16, 16),
        domain_length=(1.0, 1.0),
        frame_interval=1.0,
        boundary="periodic",
        origin="generated",
        source="a test",
    )
    with StoreWriter(tmp_path, info) as writer:
        for name, last in (("train", 1.0), ("valid", 2.0), ("test", 3.0)):
            fields = np.ones((2, 5, 1, 16, 16))
            fields[:, 4] = last
            writer.append(name, fields)
    return open_store(tmp_path, "split")


class Trained:
    """An engine as it is scored."""

    def __init__(self) -> None:
        self.modes: list[str] = []

    def __call__(self, history: Tensor) -> Forecast:
        assert not torch.is_grad_enabled()
        assert self.modes[-1] == "eval"
        return Forecast(frames=history[:, -1:], logits=torch.empty(0))

    def eval(self) -> None:
        self.modes.append("eval")

    def train(self) -> None:
        self.modes.append("train")


def monitor_of(
    engine: Trained, stores: Stores, config: RunConfig, world: World, **evaluation: int
) -> Monitor:
    options = EvaluationConfig(**evaluation)
    return Monitor(engine, stores, options, config.model, config.data, world)  # type: ignore[arg-type]


def test_the_test_is_scored_where_there_is_no_valid_split(
    stores: Stores, config: RunConfig, world: World
) -> None:
    engine = Trained()
    monitor = monitor_of(engine, stores, config, world)
    assert monitor.latest == {}
    metrics = monitor()
    assert engine.modes == ["eval", "train"]
    assert metrics == eval_metrics(monitor.latest)
    expected = np.mean([metrics[f"eval/{name}/rel_l2"] for name in stores])
    assert metrics["eval/mean/rel_l2"] == pytest.approx(expected)
    assert monitor.report() == {}, "all is scored already"
    assert engine.modes == ["eval", "train"]


def test_a_valid_split_is_scored_in_the_place_of_the_test_until_the_end(
    stores: Stores, split: DatasetStore, config: RunConfig, world: World
) -> None:
    both = {"split": split, "swe_coarse": stores["swe_coarse"]}
    monitor = monitor_of(Trained(), both, config, world)
    during = monitor()
    assert during["valid/split/rel_l2"] == during["valid/mean/rel_l2"] == pytest.approx(1 / 2)
    assert [key for key in during if key.endswith("/rel_l2") and key.startswith("eval/")] == [
        "eval/swe_coarse/rel_l2"
    ]
    at_end = monitor.report()
    assert at_end["eval/split/rel_l2"] == pytest.approx(2 / 3)
    coarse = during["eval/swe_coarse/rel_l2"]
    assert at_end["eval/mean/rel_l2"] == pytest.approx((2 / 3 + coarse) / 2)
    assert not [key for key in at_end if "valid" in key or "swe_coarse" in key]
    assert list(monitor.latest) == list(both)
    assert list(monitor.valid) == ["split"]


def test_at_the_end_of_a_run_that_scored_nothing_both_splits_are(
    split: DatasetStore, config: RunConfig, world: World
) -> None:
    monitor = monitor_of(Trained(), {"split": split}, config, world)
    found = monitor.report()
    assert found["valid/split/rel_l2"] == pytest.approx(1 / 2)
    assert found["eval/mean/rel_l2"] == found["eval/split/rel_l2"] == pytest.approx(2 / 3)
    assert monitor.valid["split"].score.rel_l2 == pytest.approx(1 / 2)


def test_what_is_watched_is_less_than_what_is_scored_at_the_end(
    stores: Stores, split: DatasetStore, config: RunConfig, world: World
) -> None:
    both = {"split": split, "dr_pdb_generated": stores["dr_pdb_generated"]}
    monitor = monitor_of(Trained(), both, config, world, trajectories=3, watched=1)
    whole = monitor_of(Trained(), both, config, world, trajectories=3)
    during, all_of_it = monitor(), whole()
    assert during.keys() == all_of_it.keys()
    assert during["eval/dr_pdb_generated/rel_l2"] != all_of_it["eval/dr_pdb_generated/rel_l2"]
    # The end of the run adds a point to the curves that had none: those of the test.
    at_end, expected = monitor.report(), whole.report()
    assert at_end.items() <= expected.items()
    assert set(expected) - set(at_end) == {"eval/mean/rel_l2"}
    assert {k: v.score for k, v in monitor.latest.items()} == {
        k: v.score for k, v in whole.latest.items()
    }
    assert {k: v.score for k, v in monitor.valid.items()} == {
        k: v.score for k, v in whole.valid.items()
    }
    alone = {"dr_pdb_generated": stores["dr_pdb_generated"]}
    unsplit = monitor_of(Trained(), alone, config, world, trajectories=3, watched=1)
    assert unsplit()
    assert unsplit.report() == {}
    assert unsplit.latest["dr_pdb_generated"].score.rel_l2 == pytest.approx(
        all_of_it["eval/dr_pdb_generated/rel_l2"]
    )


def test_the_scores_at_the_end_as_metrics() -> None:
    def score(error: float) -> DatasetScore:
        return DatasetScore(
            rel_l2=error,
            one_step_rel_l2=error / 4,
            persistence_rel_l2=0.5,
            persistence_one_step_rel_l2=0.25,
        )

    found = final_metrics({"a": score(0.125), "b": score(0.375)}, {"a": score(0.25)})
    assert found == {
        "final/rel_l2": 0.25,
        "final/one_step_rel_l2": 0.0625,
        "final/over_persistence": 0.5,
        "final/valid_rel_l2": 0.25,
        "final/a/rel_l2": 0.125,
        "final/a/one_step_rel_l2": 0.03125,
        "final/a/over_persistence": 0.25,
        "final/b/rel_l2": 0.375,
        "final/b/one_step_rel_l2": 0.09375,
        "final/b/over_persistence": 0.75,
    }


def test_too_few_frames_are_found_before_any_training(
    stores: Stores, split: DatasetStore, config: RunConfig, world: World
) -> None:
    with pytest.raises(DataError, match=r"stores 9 test frames, but model.history=4 plus .*=6"):
        monitor_of(Trained(), stores, config, world, rollout_frames=6)


def disturb(monkeypatch: pytest.MonkeyPatch, number: int, times: int) -> list[int]:
    """Let files fail to open so many times; return the list of these, which grows."""
    monkeypatch.setattr(patience, "WAITS", (0.0, 0.0, 0.0))
    open_hdf5, failed = open_files.open_hdf5, list[int]()

    def opened(path: str, mode: str = "r") -> h5py.File:
        if len(failed) < times:
            failed.append(number)
            raise OSError(number, os.strerror(number))
        return open_hdf5(path, mode)

    monkeypatch.setattr(open_files, "open_hdf5", opened)
    return failed


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EMFILE])
def test_held_out_data_that_are_away_are_waited_for(
    number: int,
    split: DatasetStore,
    config: RunConfig,
    world: World,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = monitor_of(Trained(), {"split": split}, config, world)()
    split.close()
    failed = disturb(monkeypatch, number, times=3)
    assert monitor_of(Trained(), {"split": split}, config, world)() == expected
    assert len(failed) == 3


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ESTALE, SharedDataError), (errno.EMFILE, SharedMachineError)]
)
def test_held_out_data_that_stay_away_are_one_sentence(
    number: int,
    kind: type[UserError],
    split: DatasetStore,
    config: RunConfig,
    world: World,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    disturb(monkeypatch, number, times=100)
    with pytest.raises(kind, match=os.strerror(number)):
        monitor_of(Trained(), {"split": split}, config, world)()


def test_a_held_out_file_that_was_replaced_is_read_anew(
    split: DatasetStore, config: RunConfig, world: World
) -> None:
    """It is open while it is cut, and its copy takes its place."""
    score = monitor_of(Trained(), {"split": split}, config, world)
    expected = score()
    shard = split.folder / split.shards["valid"][0].file
    whole = shard.read_bytes()
    with shard.open("r+b") as file:
        file.truncate(len(whole) // 2)
    with pytest.raises(SharedDataError):
        score()
    shard.unlink()
    shard.write_bytes(whole)
    assert score() == expected
