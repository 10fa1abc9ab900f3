"""The stream: the right windows, for any number of ranks and from any step."""

import itertools
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest
import torch

from dpot_scale.config.batch import BatchConfig
from dpot_scale.config.data import DataConfig
from dpot_scale.data.store.dataset import DatasetStore, open_store
from dpot_scale.data.store.writer import StoreWriter
from dpot_scale.data.stream.assembly import Assembler, Batch
from dpot_scale.data.stream.groups import open_groups
from dpot_scale.data.stream.mixture import WeightedMixture, Windows
from dpot_scale.data.stream.reader import (
    PREFETCHED_BATCHES,
    BatchStream,
    Share,
    training_windows,
)
from dpot_scale.errors import DataError
from dpot_scale.models.dpot.config import DPOTConfig

CPU = torch.device("cpu")
FRAMES = 3
SEED = 5


@contextmanager
def stream_over(
    stores: Mapping[str, DatasetStore],
    *,
    rank: int = 0,
    world_size: int = 1,
    first_step: int = 0,
    micro_batch: int = 2,
    strides: tuple[int, ...] = (1,),
) -> Iterator[Iterator[Batch]]:
    weights = dict(zip(stores, (1.0, 2.0), strict=False))
    stream = BatchStream(
        stores,
        WeightedMixture(training_windows(stores, FRAMES, strides), weights, SEED),
        Share(BatchConfig(global_batch=12, micro_batch=micro_batch), rank, world_size),
        Assembler(DPOTConfig(grid=4, channels=3), DataConfig(weights=weights), CPU),
        FRAMES,
    )
    try:
        yield stream.start(first_step)
    finally:
        stream.close()


def windows_at(
    stores: Mapping[str, DatasetStore], steps: range, *, world_size: int, micro_batch: int
) -> dict[int, torch.Tensor]:
    """Return the window at each position of some steps, gathered from all ranks."""
    batch = BatchConfig(global_batch=12, micro_batch=micro_batch)
    micro_steps = range(batch.accumulation_steps(world_size))
    found = {}
    for rank in range(world_size):
        options = {"rank": rank, "world_size": world_size, "micro_batch": micro_batch}
        with stream_over(stores, first_step=steps.start, **options) as batches:
            for _ in itertools.product(steps, micro_steps):
                made = next(batches)
                found |= dict(zip(made.positions, made.frames_BTCxy.clone(), strict=True))
    return found


@pytest.mark.parametrize(("world_size", "micro_batch"), [(1, 12), (2, 2), (3, 4), (6, 1)])
def test_any_number_of_ranks_sees_the_same_stream(stores, world_size, micro_batch) -> None:
    expected = windows_at(stores, range(3), world_size=1, micro_batch=2)
    assert sorted(expected) == list(range(36))
    found = windows_at(stores, range(3), world_size=world_size, micro_batch=micro_batch)
    assert sorted(found) == list(range(36))
    for position, window in expected.items():
        assert torch.equal(found[position], window), position


def test_the_stream_from_a_step_is_the_tail_of_the_stream(stores) -> None:
    whole = windows_at(stores, range(5), world_size=2, micro_batch=3)
    tail = windows_at(stores, range(3, 5), world_size=1, micro_batch=4)
    assert sorted(tail) == list(range(36, 60))
    assert all(torch.equal(window, whole[position]) for position, window in tail.items())


def test_every_window_is_the_one_the_mixture_says(stores) -> None:
    strides, steps, seen = (1, 2), 4, set()
    windows = training_windows(stores, FRAMES, strides)
    mixture = WeightedMixture(windows, {"a": 1.0, "b": 2.0}, SEED)
    with stream_over(stores, micro_batch=12, strides=strides) as batches:
        for step in range(steps):
            batch = next(batches)
            for row in range(12):
                name, (trajectory, start, stride) = mixture.locate(12 * step + row)
                assert batch.scored_BC[row].sum() == len(stores[name].info.channels)
                if name == "a":  # which is not resized: a value says where it is from
                    seen.add(stride)
                    stored = range(start, start + FRAMES * stride, stride)
                    expected = [1000 * trajectory + 10 * frame for frame in stored]
                    assert batch.frames_BTCxy[row, :, 0, 0, 0].tolist() == expected
    assert seen == {1, 2}


def test_all_windows_of_all_training_trajectories_are_drawn(stores) -> None:
    windows = training_windows(stores, FRAMES)
    assert {name: len(of_one) for name, of_one in windows.items()} == {"a": 16, "b": 9}
    seen = windows_at({"a": stores["a"]}, range(2), world_size=1, micro_batch=12)
    codes = {float(window[0, 0, 0, 0]) for window in list(seen.values())[:16]}
    assert codes == {1000 * n + 10 * t for n in range(4) for t in range(4)}, "no test trajectory"


def test_a_trajectory_that_is_too_short_is_refused(stores) -> None:
    assert training_windows(stores, 5)["b"].starts == {1: 1}
    with pytest.raises(DataError, match=r"dataset b stores 5 frames, but .* needs 6"):
        training_windows(stores, 6)
    with pytest.raises(DataError, match=r"= 4 frames with a stride of 2 needs 7"):
        training_windows(stores, 4, strides=(3, 2))


def test_a_stride_is_left_out_where_trajectories_are_too_short(stores) -> None:
    windows = training_windows(stores, FRAMES, strides=(1, 2, 3))
    assert windows["a"].starts == {1: 4, 2: 2, 3: 0}
    assert {windows["a"][i].stride for i in range(len(windows["a"]))} == {1, 2}


def test_windows_are_cut_where_they_fit(tmp_path, describe, coded) -> None:
    """Of trajectories of 2, 5 and 3 frames: none, three and one of three frames."""
    with StoreWriter(tmp_path, describe("c")) as writer:
        for first, trajectories, frames in ((0, 2, 2), (2, 1, 5), (3, 2, 3)):
            writer.append("train", coded(first, trajectories, frames, 1, 4))
    stores = {"c": open_store(tmp_path, "c")}
    assert len(training_windows(stores, FRAMES)["c"]) == 3 + 2
    seen = windows_at(stores, range(1), world_size=1, micro_batch=12)
    codes = {tuple(window[:, 0, 0, 0].tolist()) for window in seen.values()}
    starts = [2000, 2010, 2020, 3000, 4000]
    assert codes == {(start, start + 10, start + 20) for start in starts}
    with pytest.raises(DataError, match=r"dataset c stores 5 frames, but .* needs 6"):
        training_windows(stores, 6)


@pytest.mark.parametrize(
    ("trajectories", "expected"),
    [(None, {"a": 16, "b": 9}), (1, {"a": 4, "b": 3}), ({"a": 3}, {"a": 12, "b": 9}), (99, None)],
)
def test_the_first_trajectories_alone_are_trained_on(
    stores, trajectories: int | dict | None, expected: dict | None
) -> None:
    config = DataConfig.model_validate(
        {"weights": dict.fromkeys(stores, 1), "trajectories": trajectories}
    )
    windows = training_windows(stores, FRAMES, (1,), config.most_trajectories)
    assert {name: len(of_one) for name, of_one in windows.items()} == (
        expected or {"a": 16, "b": 9}
    )
    used = {windows["a"][number].trajectory for number in range(len(windows["a"]))}
    assert used == set(range(len(windows["a"]) // 4))


def test_of_trajectories_of_unequal_length_the_first_ones_count(tmp_path, describe, coded) -> None:
    with StoreWriter(tmp_path, describe("c")) as writer:
        for first, trajectories, frames in ((0, 2, 2), (2, 1, 5), (3, 2, 3)):
            writer.append("train", coded(first, trajectories, frames, 1, 4))
    stores = {"c": open_store(tmp_path, "c")}
    assert [
        len(training_windows(stores, FRAMES, (1,), lambda _, most=most: most)["c"])
        for most in (3, 4, 5)
    ] == [3, 4, 5]
    with pytest.raises(DataError, match=r"dataset c stores 2 frames, but .* needs 3"):
        training_windows(stores, FRAMES, (1,), lambda _: 2)


def test_an_error_of_the_reader_reaches_the_consumer(stores) -> None:
    for shard in (store.folder / store.shards["train"][0].file for store in stores.values()):
        shard.write_bytes(shard.read_bytes()[:100])
    with stream_over(stores) as batches, pytest.raises(DataError, match="prepare verify"):
        next(batches)


def test_a_broken_shard_costs_its_own_window(make_store) -> None:
    """Another one is seen in its place, not earlier and not later."""
    store = make_store("c", train=30, frames=FRAMES, shard_bytes=1)
    mixture = WeightedMixture({"c": Windows(30, {1: 1})}, {"c": 1.0}, SEED)
    position = 29  # in the first epoch every trajectory comes once
    shard = store.shards["train"][mixture.locate(position)[1].trajectory]
    (store.folder / shard.file).write_bytes(b"")
    with stream_over({"c": store}) as batches:
        for _ in range(position // 2):
            assert not next(batches).quarantined
        (found,) = next(batches).quarantined
    assert found.position == position
    assert re.match(f"cannot read .*{shard.file}", found.reason)


def test_closing_ends_the_reader(stores) -> None:
    with stream_over(stores) as batches:
        next(batches)
        assert "window reader" in {thread.name for thread in threading.enumerate()}
    assert "window reader" not in {thread.name for thread in threading.enumerate()}


def test_a_closed_stream_can_be_left_half_way(stores) -> None:
    """The reader waits for room when nobody takes batches; closing must not wait for it."""
    with stream_over(stores, micro_batch=1) as batches:
        next(batches)
        time.sleep(0.05)
    assert "window reader" not in {thread.name for thread in threading.enumerate()}


def test_frames_live_until_the_next_batch_is_asked_for(stores) -> None:
    """Buffers are used again, and never one that the consumer still has."""
    with stream_over(stores, micro_batch=1) as batches:
        kept = [next(batches).frames_BTCxy for _ in range(20)]
        assert len({frames.data_ptr() for frames in kept}) == 1 + PREFETCHED_BATCHES
        last = kept[-1].clone()
        time.sleep(0.05)  # for the reader to do what it can
        assert torch.equal(kept[-1], last)


@pytest.mark.parametrize(("world_size", "micro_batch"), [(1, 12), (2, 3), (3, 1)])
def test_datasets_on_their_own_grids_come_one_grid_a_step(stores, world_size, micro_batch) -> None:
    """The same windows for any number of ranks, from any step, on the grid as it is stored."""
    data = DataConfig.model_validate({"weights": {"a": 1, "b": 2}, "shapes": "native"})
    assembler = Assembler(DPOTConfig(grid=4, channels=3), data, CPU)
    windows = training_windows(stores, FRAMES)
    grids = {name: assembler.space_of(store) for name, store in stores.items()}
    assert grids == {"a": (4, 4), "b": (6, 6)}
    mixture = open_groups(windows, grids, data, global_batch=12, seed=SEED)
    steps, first, seen = 6, 2, {}
    for rank in range(world_size):
        share = Share(BatchConfig(global_batch=12, micro_batch=micro_batch), rank, world_size)
        stream = BatchStream(stores, mixture, share, assembler, FRAMES)
        batches = stream.start(first)
        assert stream.void_batch().frames_BTCxy.shape == (micro_batch, FRAMES, 3, 4, 4)
        for _ in range(steps * 12 // (micro_batch * world_size)):
            batch = next(batches)
            for position, frames_TCxy in zip(batch.positions, batch.frames_BTCxy, strict=True):
                seen[position] = frames_TCxy.clone()
        stream.close()
    assert sorted(seen) == list(range(12 * first, 12 * (first + steps)))
    for position, frames_TCxy in seen.items():
        name, cut = mixture.locate(position)
        stored = stores[name].read("train", cut.trajectory, cut.start, FRAMES)
        assert torch.equal(frames_TCxy[:, : stored.shape[1]], torch.from_numpy(stored))
    grid_of_step = [{seen[12 * step + n].shape for n in range(12)} for step in range(2, 8)]
    assert all(len(shapes) == 1 for shapes in grid_of_step)
    assert len(set.union(*grid_of_step)) == 2
