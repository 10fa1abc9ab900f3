"""Batches: the right windows, resized and padded, for any number of ranks and from any step."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch.nn import functional

from dpot_scale.config.schema import BatchConfig, DataConfig, ModelConfig
from dpot_scale.data.catalog import label_of
from dpot_scale.data.store.dataset import DatasetStore, open_store
from dpot_scale.data.store.writer import StoreWriter
from dpot_scale.data.stream.assembly import Assembler, Batch, Window
from dpot_scale.data.stream.mixture import Cut, WeightedMixture, Windows
from dpot_scale.data.stream.reader import (
    PREFETCHED_BATCHES,
    BatchStream,
    positions,
    training_windows,
)
from dpot_scale.errors import DataError

CPU = torch.device("cpu")
FRAMES = 3
SEED = 5

MakeStore = Callable[..., DatasetStore]


def assembled(
    *windows: tuple[DatasetStore, Cut],
    grid: int,
    channels: int,
    frames: int = FRAMES,
    space_dims: int = 2,
    **data: object,
) -> Batch:
    """Return training windows as a batch of a model of that shape."""
    model = ModelConfig.model_validate(
        {"grid": grid, "channels": channels, "space_dims": space_dims}
    )
    config = DataConfig.model_validate({"weights": {"any": 1}, **data})
    assembler = Assembler(model, config, CPU)
    room = assembler.empty(len(windows), frames)
    return assembler.batch([Window(store, "train", cut) for store, cut in windows], room)


@pytest.fixture
def stores(make_store: MakeStore) -> Mapping[str, DatasetStore]:
    return {
        "a": make_store("a", train=4, frames=6),
        "b": make_store("b", train=3, frames=5, channels=("u", "v"), grid=6),
    }


@contextmanager
def stream_over(
    stores: Mapping[str, DatasetStore],
    *,
    rank: int = 0,
    world_size: int = 1,
    windows_seen: int = 0,
    micro_batch: int = 2,
    strides: tuple[int, ...] = (1,),
) -> Iterator[Iterator[Batch]]:
    weights = dict(zip(stores, (1.0, 2.0), strict=False))
    stream = BatchStream(
        stores,
        WeightedMixture(training_windows(stores, FRAMES, strides), weights, SEED),
        model=ModelConfig(grid=4, channels=3),
        data=DataConfig(weights=weights),
        batch=BatchConfig(global_batch=12, micro_batch=micro_batch),
        frames=FRAMES,
        rank=rank,
        world_size=world_size,
        device=CPU,
    )
    try:
        yield stream.start(windows_seen)
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
        with stream_over(stores, windows_seen=12 * steps.start, **options) as batches:
            for step, micro_step in itertools.product(steps, micro_steps):
                covered = positions(batch, world_size, rank, step, micro_step)
                frames = next(batches).frames_BTCxy.clone()
                found |= dict(zip(covered, frames, strict=True))
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
                assert int(batch.labels_B[row]) == label_of(name)
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


def test_resizing_a_window_equals_cutting_a_resized_trajectory(make_store, coded) -> None:
    store = make_store("a", channels=("u", "v"), grid=6, frames=8)
    trajectory = torch.from_numpy(coded(0, 1, 8, 2, 6)[0])
    resized = functional.interpolate(
        trajectory, size=(9, 9), mode="bilinear", align_corners=False, antialias=False
    )
    window = (store, Cut(0, 2, 1))
    torch.testing.assert_close(assembled(window, grid=9, channels=2).frames_BTCxy[0], resized[2:5])
    assert torch.equal(assembled(window, grid=6, channels=2).frames_BTCxy[0], trajectory[2:5])


def test_missing_channels_are_ones_and_are_not_scored(stores) -> None:
    windows = [(stores[name], Cut(0, 0, 1)) for name in ("b", "a", "b")]
    batch = assembled(*windows, grid=4, channels=4)
    assert batch.frames_BTCxy.shape == (3, FRAMES, 4, 4, 4)
    both, one = [True, True, False, False], [True, False, False, False]
    assert batch.scored_BC.tolist() == [both, one, both]
    assert bool((batch.frames_BTCxy[1, :, 1:] == 1).all())
    assert bool((batch.frames_BTCxy[0, :, 2:] == 1).all())
    stored = stores["a"].read("train", 0, 0, FRAMES)
    np.testing.assert_array_equal(batch.frames_BTCxy[1, :, :1], stored)
    assert torch.equal(batch.frames_BTCxy[0], batch.frames_BTCxy[2])


def test_three_space_dimensions(describe, tmp_path: Path) -> None:
    info = replace(
        describe("cube"),
        spatial_axes=("x", "y", "z"),
        grid=(4, 4, 4),
        domain_length=(1.0, 1.0, 1.0),
    )
    fields = np.random.default_rng(0).random((1, FRAMES, 1, 4, 4, 4), dtype=np.float32)
    with StoreWriter(tmp_path, info) as writer:
        writer.append("train", fields)
    window = (open_store(tmp_path, "cube"), Cut(0, 0, 1))
    batch = assembled(window, grid=8, channels=2, space_dims=3)
    assert batch.frames_BTCxy.shape == (1, FRAMES, 2, 8, 8, 8)
    assert float(batch.frames_BTCxy[:, :, 0].mean()) == pytest.approx(fields.mean(), abs=0.02)


@pytest.fixture
def obstacle(describe, tmp_path: Path) -> DatasetStore:
    """One trajectory of a field and a mask that is 0 in a corner; v is the same everywhere."""
    info = replace(describe("obstacle", ("u", "v", "mask")), scored=(True, True, False))
    fields = np.random.default_rng(0).random((2, FRAMES, 3, 4, 4), dtype=np.float32)
    fields[:, :, 1] = 7
    fields[:, :, 2] = 1
    fields[:, :, 2, :2, :2] = 0
    with StoreWriter(tmp_path, info) as writer:
        writer.append("train", fields)
    return open_store(tmp_path, "obstacle")


def test_a_mask_is_given_and_not_scored(obstacle) -> None:
    batch = assembled((obstacle, Cut(0, 0, 1)), grid=4, channels=4)
    assert batch.scored_BC.tolist() == [[True, True, False, False]]
    assert bool((batch.frames_BTCxy[0, :, 2, :2, :2] == 0).all())
    assert float(batch.frames_BTCxy[0, :, 2].sum()) == FRAMES * 12
    assert batch.counted_Bxy is None


def test_points_inside_obstacles_do_not_count_where_asked(obstacle, stores) -> None:
    windows = ((obstacle, Cut(1, 0, 1)), (stores["a"], Cut(0, 0, 1)))
    counted = assembled(*windows, grid=4, channels=4, mask_points=True).counted_Bxy
    assert counted is not None
    inside = torch.zeros(4, 4, dtype=torch.bool)
    inside[:2, :2] = True
    assert torch.equal(counted[0], ~inside)
    assert bool(counted[1].all()), "a dataset without a mask"
    finer = assembled(*windows, grid=8, channels=4, mask_points=True).counted_Bxy
    assert finer is not None
    assert finer[0].sum() == 64 - 9, "a point with some fluid in its interpolation counts"


def test_statistics_of_each_dataset_come_with_its_windows(obstacle, stores) -> None:
    windows = ((obstacle, Cut(0, 0, 1)), (stores["a"], Cut(0, 0, 1)))
    assert assembled(*windows, grid=4, channels=4).scale is None
    scale = assembled(*windows, grid=4, channels=4, normalize="dataset").scale
    assert scale is not None
    found, other = obstacle.statistics, stores["a"].statistics
    means = [[found.mean[0], 7, 0, 0], [other.mean[0], 0, 0, 0]]
    stds = [[found.std[0], 1, 1, 1], [other.std[0], 1, 1, 1]]
    torch.testing.assert_close(scale.mean_BC, torch.tensor(means))
    torch.testing.assert_close(scale.std_BC, torch.tensor(stds))


def test_an_error_of_the_reader_reaches_the_consumer(stores) -> None:
    for shard in (store.folder / store.shards["train"][0].file for store in stores.values()):
        shard.write_bytes(shard.read_bytes()[:100])
    with stream_over(stores) as batches, pytest.raises(DataError, match="prepare verify"):
        next(batches)


def test_an_error_comes_after_the_batches_before_it(make_store) -> None:
    """A broken shard stops the stream at its first window, not earlier and not later."""
    store = make_store("c", train=30, frames=FRAMES, shard_bytes=1)
    mixture = WeightedMixture({"c": Windows(30, {1: 1})}, {"c": 1.0}, SEED)
    position = 29  # in the first epoch every trajectory comes once
    shard = store.shards["train"][mixture.locate(position)[1].trajectory]
    (store.folder / shard.file).write_bytes(b"")
    with stream_over({"c": store}) as batches:
        for _ in range(position // 2):
            next(batches)
        with pytest.raises(DataError, match=f"cannot read .*{shard.file}"):
            next(batches)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["a", "b"])
def test_values_that_are_not_finite_never_become_a_batch(name: str, value: float, stores) -> None:
    """Named by file, trajectory and frame; a window that does not touch them is fine."""
    store = stores[name]
    with h5py.File(store.folder / store.shards["train"][0].file, "r+") as file:
        file["fields"][2, 3, -1, 1, 2] = value
    assembled((store, Cut(2, 0, 1)), grid=4, channels=2)
    sentence = r"train/shard-00000.h5 holds NaN or infinite values, in train trajectory 2 \(row 2 "
    with pytest.raises(DataError, match=sentence + r"of the file\), first in frame 3 "):
        assembled((store, Cut(2, 1, 1)), grid=4, channels=2)


def test_large_values_are_finite(stores) -> None:
    """Although their sum is not."""
    with h5py.File(stores["a"].folder / stores["a"].shards["train"][0].file, "r+") as file:
        file["fields"][0] = 3e38
    assert bool((assembled((stores["a"], Cut(0, 0, 1)), grid=4, channels=1).frames_BTCxy > 0).all())


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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_on_a_gpu_equal_those_of_the_cpu(obstacle, stores) -> None:
    config = DataConfig.model_validate(
        {"weights": {"any": 1}, "normalize": "dataset", "mask_points": True}
    )
    windows = [
        Window(obstacle, "train", Cut(1, 0, 1)),
        Window(stores["b"], "train", Cut(2, 0, 2)),
    ]
    found = {}
    for name in ("cpu", "cuda"):
        assembler = Assembler(ModelConfig(grid=8, channels=4), config, torch.device(name))
        found[name] = assembler.batch(windows, assembler.empty(2, FRAMES))
    on_cpu, on_gpu = found["cpu"], found["cuda"]
    torch.testing.assert_close(on_gpu.frames_BTCxy.cpu(), on_cpu.frames_BTCxy)
    assert torch.equal(on_gpu.counted_Bxy.cpu(), on_cpu.counted_Bxy)
    assert torch.equal(on_gpu.scale.std_BC.cpu(), on_cpu.scale.std_BC)
