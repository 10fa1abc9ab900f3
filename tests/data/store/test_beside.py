"""Numbers beside the frames: of a trajectory, and of each of its frames, copied or linked."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from dpot_scale.data.store.dataset import LINKED, DatasetStore, open_store
from dpot_scale.data.store.shards import View, ViewedArray
from dpot_scale.data.store.verify import verify_dataset
from dpot_scale.data.store.writer import StoreWriter
from dpot_scale.errors import DataError

# Of each block of equally long trajectories: how many, and how many frames.
BLOCKS = [(2, 3), (1, 5), (3, 2)]


def times_of(trajectory: int, frames: int) -> np.ndarray:
    return (np.arange(frames) + 1.0) ** 2 + trajectory


@pytest.fixture(params=["copied", "linked"])
def store(request: pytest.FixtureRequest, tmp_path: Path, coded, describe) -> DatasetStore:
    """Trajectories of three lengths, each with a seed and the times of its frames."""
    with StoreWriter(tmp_path, describe("a"), shard_bytes=200) as writer:
        first = 0
        for trajectories, frames in BLOCKS:
            rows = range(first, first + trajectories)
            fields = coded(first, trajectories, frames, 1, 4)
            beside = {"seed": np.array(rows)}, {"time": [times_of(row, frames) for row in rows]}
            if request.param == "linked":
                path = tmp_path / f"{first}.h5"
                with h5py.File(path, "w") as file:
                    file["h"] = fields[:, :, 0]
                view = View(
                    file=str(path),
                    arrays=(ViewedArray("h", ("trajectory", "time", "x", "y")),),
                    spatial_axes=("x", "y"),
                    trajectories=trajectories,
                    frames=frames,
                )
                writer.link("train", view, "0" * 64, ((0, one) for one in fields), *beside)
            else:
                writer.append("train", fields, *beside)
            first += trajectories
    return open_store(tmp_path, "a")


def test_every_trajectory_keeps_its_own(store: DatasetStore, coded) -> None:
    assert store.lengths("train") == BLOCKS
    assert list(store.parameters("train")["seed"]) == [0, 1, 2, 3, 4, 5]
    lengths = [frames for trajectories, frames in BLOCKS for _ in range(trajectories)]
    for row, frames in enumerate(lengths):
        np.testing.assert_array_equal(store.times("train", row), times_of(row, frames))
        np.testing.assert_array_equal(
            store.read("train", row, 0, frames), coded(row, 1, frames, 1, 4)[0]
        )


def test_verify_reads_trajectories_of_every_length(store: DatasetStore) -> None:
    found = verify_dataset(store)
    assert found.trajectories == 6
    assert [problem for problem in found.problems if "sha256" not in problem] == [
        "the test split is empty"
    ]


def test_a_series_that_is_too_short_is_one_sentence(store: DatasetStore) -> None:
    path, group = store.folder / store.shards["train"][-1].file, "series"
    if store.shards["train"][0].view is not None:
        path, group = store.folder / LINKED, "train/series"
    with h5py.File(path, "r+") as file:
        values = file[f"{group}/time"][:-1]
        del file[f"{group}/time"]
        file[f"{group}/time"] = values
    with pytest.raises(DataError, match=rf"cannot read {path} \(it holds float64 \(1,\)"):
        store.times("train", 5)


@pytest.mark.parametrize("intervals", [None, [0.25, 2.0]])
def test_evenly_spaced_frames_need_no_times(
    intervals: list[float] | None, tmp_path: Path, coded, describe
) -> None:
    parameters = {} if intervals is None else {"frame_interval": np.array(intervals)}
    with StoreWriter(tmp_path, describe("a")) as writer:
        writer.append("test", coded(0, 2, 3, 1, 4), parameters)
    expected = [0.5, 0.5] if intervals is None else intervals
    for row, interval in enumerate(expected):
        times = open_store(tmp_path, "a").times("test", row)
        assert times.tolist() == [0, interval, 2 * interval]
