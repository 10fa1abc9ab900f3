"""The workers that solve the parts of datasets."""

import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dpot_scale.config.data import GeneratedDataset, SuiteConfig
from dpot_scale.data.generation import workers
from dpot_scale.data.generation.suite import generate_suite
from dpot_scale.data.generation.workers import Part, Workers, pieces, solve

RECIPE = GeneratedDataset(
    equation="reaction_diffusion", train=4, test=2, grid=8, frames=3, frame_interval=0.2
)


def test_parts_are_taken_in_order_and_few_of_them_wait() -> None:
    waiting = most = 0

    def start(part: Part) -> Future[Any]:
        nonlocal waiting, most
        waiting += 1
        most = max(most, waiting)
        future: Future[Any] = Future()
        future.set_result(np.array(part.seeds))
        return future

    two = Workers(start, 2, lambda _: 1)
    taken = []
    for seeds in two.solve_all(Part(RECIPE, range(n, n + 1)) for n in range(9)):
        waiting -= 1
        taken.append(seeds.item())
    assert taken == list(range(9))
    assert most == 3, "two at work, one that has just been taken"


def test_threads_leave_torch_as_it_was(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    suite = SuiteConfig(name="small", datasets={"dr": RECIPE})
    generate_suite(suite, tmp_path, progress=lambda _: None)
    assert torch.get_num_threads() == before


def test_pieces_cover_all_seeds_once() -> None:
    assert [list(piece) for piece in pieces(range(3, 10), 3)] == [[3, 4, 5], [6, 7, 8], [9]]
    assert list(pieces(range(3, 3), 3)) == []


@pytest.mark.parametrize("part_size", [1, 3, 4])
def test_trajectories_do_not_depend_on_their_parts(part_size: int) -> None:
    whole = solve(Part(RECIPE, range(4)))
    parts = [solve(Part(RECIPE, seeds)) for seeds in pieces(range(4), part_size)]
    np.testing.assert_array_equal(np.concatenate([part.fields for part in parts]), whole.fields)


def test_the_cost_of_a_part_is_shared_by_its_trajectories(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "VALUES_TOGETHER", 3 * 2 * 8**2)
    started = time.perf_counter()
    a, b, c, d = solve(Part(RECIPE, range(4))).seconds
    elapsed = time.perf_counter() - started
    assert 0 < a == b == c
    assert 0 < a + b + c + d < elapsed
