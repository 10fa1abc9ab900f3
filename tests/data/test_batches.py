"""Batches: the right windows, resized and padded, for any number of ranks and from any step."""

import itertools
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch.nn import functional

from dpot_scale.config.schema import BatchConfig
from dpot_scale.data.batches import (
    Batch,
    BatchStream,
    assemble,
    positions,
    training_windows,
    windows_per_trajectory,
)
from dpot_scale.data.catalog import label_of
from dpot_scale.data.mixture import Mixture
from dpot_scale.data.store import DatasetStore
from dpot_scale.errors import ConfigError, DataError

CPU = torch.device("cpu")
FRAMES = 3
SEED = 5

MakeStore = Callable[..., DatasetStore]


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
) -> Iterator[Iterator[Batch]]:
    weights = dict(zip(stores, (1.0, 2.0), strict=False))
    stream = BatchStream(
        stores,
        Mixture(training_windows(stores, FRAMES), weights, SEED),
        batch=BatchConfig(global_batch=12, micro_batch=micro_batch),
        frames=FRAMES,
        grid=4,
        channels=3,
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
                frames = next(batches).frames_BTCxy
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
    mixture = Mixture(training_windows(stores, FRAMES), {"a": 1.0, "b": 2.0}, SEED)
    with stream_over(stores, micro_batch=12) as batches:
        batch = next(batches)
    for position in range(12):
        name, window = mixture.locate(position)
        trajectory, start = divmod(window, {"a": 4, "b": 3}[name])
        # The first point's value says which trajectory and frame it is; "a" is not resized.
        if name == "a":
            first = batch.frames_BTCxy[position, :, 0, 0, 0]
            expected = [1000 * trajectory + 10 * (start + frame) for frame in range(FRAMES)]
            assert first.tolist() == expected
        assert int(batch.labels_B[position]) == label_of(name)


def test_all_windows_of_all_training_trajectories_are_drawn(stores) -> None:
    assert training_windows(stores, FRAMES) == {"a": 16, "b": 9}
    seen = windows_at({"a": stores["a"]}, range(2), world_size=1, micro_batch=12)
    codes = {float(window[0, 0, 0, 0]) for window in list(seen.values())[:16]}
    assert codes == {1000 * n + 10 * t for n in range(4) for t in range(4)}, "no test trajectory"


def test_a_trajectory_that_is_too_short_is_refused() -> None:
    assert windows_per_trajectory(11, 11, "a") == 1
    with pytest.raises(DataError, match=r"dataset a stores 10 frames, but .* = 11"):
        windows_per_trajectory(10, 11, "a")


def test_resizing_a_window_equals_cutting_a_resized_trajectory(make_store, coded) -> None:
    store = make_store("a", channels=("u", "v"), grid=6, frames=8)
    trajectory = torch.from_numpy(coded(0, 1, 8, 2, 6)[0])
    resized = functional.interpolate(
        trajectory, size=(9, 9), mode="bilinear", align_corners=False, antialias=False
    )
    batch = assemble([store.read("train", 0, 2, 3)], [store.info], grid=9, channels=2, device=CPU)
    torch.testing.assert_close(batch.frames_BTCxy[0], resized[2:5])
    same = assemble([store.read("train", 0, 2, 3)], [store.info], grid=6, channels=2, device=CPU)
    assert torch.equal(same.frames_BTCxy[0], trajectory[2:5])


def test_missing_channels_are_ones_and_are_not_scored(stores) -> None:
    windows = [stores[name].read("train", 0, 0, FRAMES) for name in ("b", "a", "b")]
    infos = [stores[name].info for name in ("b", "a", "b")]
    batch = assemble(windows, infos, grid=4, channels=4, device=CPU)
    assert batch.frames_BTCxy.shape == (3, FRAMES, 4, 4, 4)
    both, one = [True, True, False, False], [True, False, False, False]
    assert batch.scored_BC.tolist() == [both, one, both]
    assert bool((batch.frames_BTCxy[1, :, 1:] == 1).all())
    assert bool((batch.frames_BTCxy[0, :, 2:] == 1).all())
    np.testing.assert_array_equal(batch.frames_BTCxy[1, :, :1], windows[1])
    assert torch.equal(batch.frames_BTCxy[0], batch.frames_BTCxy[2])


def test_three_space_dimensions(describe) -> None:
    info = describe("cube")
    object.__setattr__(info, "grid", (4, 4, 4))
    windows = [np.random.default_rng(0).random((2, 1, 4, 4, 4), dtype=np.float32)]
    batch = assemble(windows, [info], grid=8, channels=2, device=CPU)
    assert batch.frames_BTCxy.shape == (1, 2, 2, 8, 8, 8)
    assert float(batch.frames_BTCxy[:, :, 0].mean()) == pytest.approx(windows[0].mean(), abs=0.02)


def test_too_few_model_channels_are_refused(stores) -> None:
    window = stores["b"].read("train", 0, 0, FRAMES)
    with pytest.raises(ConfigError, match=r"dataset b has 2 channels; model\.channels=1"):
        assemble([window], [stores["b"].info], grid=4, channels=1, device=CPU)


def test_an_error_of_the_reader_reaches_the_consumer(stores) -> None:
    for shard in (store.folder / store.shards["train"][0].file for store in stores.values()):
        shard.write_bytes(shard.read_bytes()[:100])
    with stream_over(stores) as batches, pytest.raises(DataError, match="prepare verify"):
        next(batches)


def test_an_error_comes_after_the_batches_before_it(make_store) -> None:
    """A broken shard stops the stream at its first window, not earlier and not later."""
    store = make_store("c", train=30, frames=FRAMES, shard_bytes=1)
    mixture = Mixture({"c": 30}, {"c": 1.0}, SEED)
    position = 29  # in the first epoch every trajectory comes once
    shard = store.shards["train"][mixture.locate(position)[1]]
    (store.folder / shard.file).write_bytes(b"")
    with stream_over({"c": store}) as batches:
        for _ in range(position // 2):
            next(batches)
        with pytest.raises(DataError, match=f"cannot read .*{shard.file}"):
            next(batches)


def test_closing_ends_the_reader(stores) -> None:
    with stream_over(stores) as batches:
        next(batches)
        assert "window reader" in {thread.name for thread in threading.enumerate()}
    assert "window reader" not in {thread.name for thread in threading.enumerate()}
