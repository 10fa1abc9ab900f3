"""Both mixtures: weights honoured, nothing repeated early, a pure function of the position."""

from collections import Counter
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpot_scale.config.batch import BatchConfig
from dpot_scale.config.data import DataConfig
from dpot_scale.data.stream.mixture import (
    BLOCK,
    Cut,
    Mixture,
    RepeatMixture,
    UnequalWindows,
    WeightedMixture,
    Windows,
    open_mixture,
)
from dpot_scale.data.stream.reader import Share
from dpot_scale.errors import ConfigError

few = settings(max_examples=25, deadline=None)

mixtures = st.dictionaries(
    st.sampled_from("abcdef"),
    st.tuples(st.integers(1, 3000), st.floats(0.1, 20)),
    min_size=1,
    max_size=5,
)


# Trajectories, windows of each, repeats.
repeated = st.dictionaries(
    st.sampled_from("abcdef"),
    st.tuples(st.integers(1, 40), st.integers(1, 9), st.integers(1, 4)),
    min_size=1,
    max_size=4,
)


def mixture_of(sets: dict[str, tuple[int, float]], seed: int = 0) -> WeightedMixture:
    """Of datasets with so many windows, each the only one of its trajectory."""
    windows = {name: Windows(size, {1: 1}) for name, (size, _) in sets.items()}
    return WeightedMixture(windows, {name: weight for name, (_, weight) in sets.items()}, seed)


def repeat_mixture_of(sets: dict[str, tuple[int, int, int]], seed: int = 0) -> RepeatMixture:
    windows = {name: Windows(n, {1: starts}) for name, (n, starts, _) in sets.items()}
    return RepeatMixture(windows, {name: repeats for name, (*_, repeats) in sets.items()}, seed)


@few
@given(sets=mixtures, block=st.integers(0, 10**6), seed=st.integers(0, 2**31))
def test_every_block_honours_the_weights(
    sets: dict[str, tuple[int, float]], block: int, seed: int
) -> None:
    mixture = mixture_of(sets, seed)
    seen = Counter(mixture.locate(block * BLOCK + offset)[0] for offset in range(BLOCK))
    total = sum(weight for _, weight in sets.values())
    for name, (_, weight) in sets.items():
        assert abs(seen[name] - BLOCK * weight / total) <= 1


@few
@given(sets=mixtures, seed=st.integers(0, 2**31))
def test_no_window_repeats_before_all_of_its_dataset_were_seen(
    sets: dict[str, tuple[int, float]], seed: int
) -> None:
    mixture = mixture_of(sets, seed)
    draws: dict[str, list[int]] = {name: [] for name in sets}
    for position in range(2 * BLOCK):
        name, window = mixture.locate(position)
        draws[name].append(window.trajectory)
    for name, (size, _) in sets.items():
        for first in range(0, len(draws[name]), size):
            epoch = draws[name][first : first + size]
            assert len(set(epoch)) == len(epoch)
            assert set(epoch) <= set(range(size))


@few
@given(sets=mixtures, order=st.lists(st.integers(0, 5 * BLOCK), min_size=2, max_size=40))
def test_a_position_alone_decides(sets: dict[str, tuple[int, float]], order: list[int]) -> None:
    """Whatever was asked for before, in a new object or an old one, with names in any order."""
    asked_often = mixture_of(sets)
    answers = [asked_often.locate(position) for position in order]
    assert [asked_often.locate(position) for position in reversed(order)] == answers[::-1]
    reordered = dict(reversed(sets.items()))
    assert [mixture_of(reordered).locate(position) for position in order] == answers


@few
@given(sets=repeated, epoch=st.integers(0, 10**6), seed=st.integers(0, 2**31))
def test_an_epoch_has_each_trajectory_as_often_as_its_weight(
    sets: dict[str, tuple[int, int, int]], epoch: int, seed: int
) -> None:
    mixture = repeat_mixture_of(sets, seed)
    assert mixture.epoch_length == sum(n * repeats for n, _, repeats in sets.values())
    first = epoch * mixture.epoch_length
    seen = [mixture.locate(first + i) for i in range(mixture.epoch_length)]
    counts = Counter((name, cut.trajectory) for name, cut in seen)
    assert counts == {
        (name, trajectory): repeats
        for name, (n, _, repeats) in sets.items()
        for trajectory in range(n)
    }
    assert all(0 <= cut.start < sets[name][1] for name, cut in seen)


@few
@given(sets=repeated, order=st.lists(st.integers(0, 2000), min_size=2, max_size=40))
def test_a_position_alone_decides_where_trajectories_repeat(
    sets: dict[str, tuple[int, int, int]], order: list[int]
) -> None:
    asked_often = repeat_mixture_of(sets)
    answers = [asked_often.locate(position) for position in order]
    reordered = dict(reversed(sets.items()))
    assert [repeat_mixture_of(reordered).locate(position) for position in order] == answers


def test_a_repeated_trajectory_gives_any_of_its_windows() -> None:
    mixture = repeat_mixture_of({"a": (1, 10, 2000)})
    starts = Counter(mixture.locate(position)[1].start for position in range(2000))
    assert sorted(starts) == list(range(10))
    # 200 each on average; five standard deviations are 67.
    assert all(133 <= times <= 267 for times in starts.values())
    epochs = [[mixture.locate(first + i) for i in range(50)] for first in (0, 2000)]
    assert epochs[0] != epochs[1]


@given(
    trajectories=st.integers(1, 5),
    stored=st.integers(1, 30),
    frames=st.integers(1, 12),
    strides=st.lists(st.integers(1, 4), min_size=1, max_size=3, unique=True),
)
def test_the_windows_of_a_dataset_are_all_that_fit(
    trajectories: int, stored: int, frames: int, strides: list[int]
) -> None:
    windows = Windows.of(trajectories, stored, frames, tuple(strides))
    found = [windows[i] for i in range(len(windows))]
    assert len(set(found)) == len(found)
    assert set(found) == {
        Cut(trajectory, start, stride)
        for trajectory in range(trajectories)
        for stride in strides
        for start in range(stored)
        if start + (frames - 1) * stride < stored
    }


runs = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 12)), min_size=1, max_size=5)


def unequal(lengths: list[tuple[int, int]], frames: int, strides: list[int]) -> UnequalWindows:
    firsts = [0, *accumulate(trajectories for trajectories, _ in lengths)]
    return UnequalWindows(
        [
            Windows.of(trajectories, stored, frames, tuple(strides), first)
            for first, (trajectories, stored) in zip(firsts, lengths, strict=False)
        ]
    )


@given(
    lengths=runs,
    frames=st.integers(1, 6),
    strides=st.lists(st.integers(1, 4), min_size=1, max_size=3, unique=True),
)
def test_the_windows_of_trajectories_of_any_length_are_all_that_fit(
    lengths: list[tuple[int, int]], frames: int, strides: list[int]
) -> None:
    windows = unequal(lengths, frames, strides)
    found = [windows[i] for i in range(len(windows))]
    stored = [length for trajectories, length in lengths for _ in range(trajectories)]
    expected = {
        Cut(trajectory, start, stride)
        for trajectory, length in enumerate(stored)
        for stride in strides
        for start in range(length)
        if start + (frames - 1) * stride < length
    }
    assert len(found) == len(expected)
    assert set(found) == expected
    assert windows.trajectories == len({cut.trajectory for cut in expected})
    chances = [0.0, 0.3, 0.999]
    drawn = {windows.drawn(n, chance) for n in range(windows.trajectories) for chance in chances}
    assert drawn <= expected
    assert {cut.trajectory for cut in drawn} == {cut.trajectory for cut in expected}


@few
@given(lengths=runs, seed=st.integers(0, 2**31))
def test_equal_lengths_give_the_stream_of_equal_windows(
    lengths: list[tuple[int, int]], seed: int
) -> None:
    """However the trajectories lie in shards, under either law."""
    runs = [(trajectories, 9) for trajectories, _ in lengths]
    equal = {"a": Windows.of(sum(n for n, _ in runs), 9, 4, (1, 2))}
    for law in (WeightedMixture, RepeatMixture):
        one = law(equal, {"a": 2.0}, seed)
        other = law({"a": unequal(runs, 4, [1, 2])}, {"a": 2.0}, seed)
        assert [one.locate(i) for i in range(200)] == [other.locate(i) for i in range(200)]


@few
@given(lengths=runs, seed=st.integers(0, 2**31))
def test_a_trajectory_without_a_window_is_never_visited(
    lengths: list[tuple[int, int]], seed: int
) -> None:
    lengths = [*lengths, (2, 3), (1, 7)]
    mixture = RepeatMixture({"a": unequal(lengths, 4, [1])}, {"a": 3}, seed)
    stored = [length for trajectories, length in lengths for _ in range(trajectories)]
    seen = Counter(mixture.locate(i)[1].trajectory for i in range(mixture.epoch_length))
    assert seen == {n: 3 for n, length in enumerate(stored) if length >= 4}


@pytest.mark.parametrize(
    ("sampling", "kind"), [("weighted", WeightedMixture), ("repeat", RepeatMixture)]
)
def test_a_config_chooses_the_law(sampling: str, kind: type[Mixture]) -> None:
    config = DataConfig.model_validate({"weights": {"a": 2}, "sampling": sampling})
    mixture = open_mixture({"a": Windows(3, {1: 4})}, config, seed=1)
    assert isinstance(mixture, kind)
    assert mixture.locate(7) == kind({"a": Windows(3, {1: 4})}, {"a": 2}, 1).locate(7)  # type: ignore[call-arg]


@few
@given(
    micro_batch=st.integers(1, 5),
    world_size=st.integers(1, 6),
    accumulation=st.integers(1, 4),
    step=st.integers(0, 1000),
)
def test_ranks_and_micro_steps_partition_the_stream(
    micro_batch: int, world_size: int, accumulation: int, step: int
) -> None:
    global_batch = micro_batch * world_size * accumulation
    batch = BatchConfig(global_batch=global_batch, micro_batch=micro_batch)
    covered = [
        position
        for rank in range(world_size)
        for micro_step in range(accumulation)
        for position in Share(batch, rank, world_size).positions(step, micro_step)
    ]
    assert sorted(covered) == list(range(step * global_batch, (step + 1) * global_batch))


def test_seeds_epochs_and_blocks_differ() -> None:
    sets = {"a": (500, 1.0), "b": (500, 2.0)}
    streams = [
        tuple(mixture_of(sets, seed).locate(first + offset) for offset in range(BLOCK))
        for seed, first in ((0, 0), (1, 0), (0, BLOCK))
    ]
    assert len(set(streams)) == 3
    only = mixture_of({"a": (300, 1.0)})
    epochs = [
        [only.locate(300 * epoch + i)[1].trajectory for i in range(300)] for epoch in range(2)
    ]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(300))
    assert epochs[0] != epochs[1]


def test_a_further_dataset_leaves_the_order_of_the_others() -> None:
    def order_of_a(sets: dict[str, tuple[int, float]]) -> list[int]:
        located = (mixture_of(sets).locate(position) for position in range(BLOCK))
        return [window.trajectory for name, window in located if name == "a"]

    alone = order_of_a({"a": (400, 1.0)})
    among = order_of_a({"a": (400, 1.0), "0 sorts first": (300, 1.0)})
    assert among == alone[: len(among)]


def test_a_weight_too_small_for_a_block_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.weights\.b=1e-05 is less than 1/4096"):
        mixture_of({"a": (10, 1.0), "b": (10, 1e-5)})
