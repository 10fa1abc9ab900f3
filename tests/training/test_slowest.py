"""Which rank the others wait for, and by how much."""

import math
from pathlib import Path

import pytest
import torch

from dpot_scale.engine.engine import Update
from dpot_scale.engine.runtime import World
from dpot_scale.training.meter import Meter
from dpot_scale.training.slowest import FEWEST, LOOKS, Waits, slowest
from tests.conftest import Ranks


def test_the_share_is_of_the_newest_looks() -> None:
    waits = Waits()
    for _ in range(FEWEST - 1):
        waits.note(True)
    assert math.isnan(waits.share())
    waits.note(True)
    assert waits.share() == 1.0
    for look in range(LOOKS):
        waits.note(look % 4 == 0)
    assert waits.share() == 0.25


def test_what_the_main_rank_may_do_alone_is_not_counted() -> None:
    waits = Waits()
    for _ in range(FEWEST):
        waits.note(False)
    with waits.paused():
        for _ in range(LOOKS):
            waits.note(True)
    assert waits.share() == 0.0


@pytest.mark.parametrize(
    ("waits", "rank", "spread"),
    [
        ([0.5, 0.0], 1, 0.5),
        ([0.0, 0.0, 0.0], 0, 0.0),
        ([0.6, 0.2, 0.4, 0.2], 1, 0.5),
        ([1.0, 1.0], 0, 0.0),
    ],
)
def test_the_rank_that_waits_least_is_the_slowest(
    waits: list[float], rank: int, spread: float
) -> None:
    found = slowest(waits)
    assert found["time/slowest_rank"] == rank
    assert found["time/rank_spread"] == pytest.approx(spread)


@pytest.mark.parametrize("waits", [[0.5], [0.5, math.nan], []])
def test_without_two_known_shares_there_is_none(waits: list[float]) -> None:
    assert slowest(waits) == {}


def reduced(world: World, shares: list[float]) -> dict[str, float]:
    waits = Waits()
    for look in range(LOOKS):
        waits.note(look < LOOKS * shares[world.rank])
    meter = Meter(world, lambda: 0.0, waits)
    norm = torch.ones(())
    meter.add(torch.ones(()), Update(norm, norm.isfinite()), windows=8, lr=1e-3)
    return meter.reduce(1.0)


@pytest.mark.distributed
def test_all_ranks_learn_it_with_the_losses(ranks: Ranks) -> None:
    found = ranks.run(Path(__file__), "reduced", [0.8, 0.0])
    assert found["time/slowest_rank"] == 1
    assert found["time/rank_spread"] == pytest.approx(0.8)
    assert found["train/loss"] == 1.0
