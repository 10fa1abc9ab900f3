"""The workers that solve the parts of datasets."""

from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dpot_scale.config.data import GeneratedDataset, SuiteConfig
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

    workers = Workers(start, 2, lambda _: 1)
    taken = []
    for seeds in workers.solve_all(Part(RECIPE, range(n, n + 1)) for n in range(9)):
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
    np.testing.assert_array_equal(np.concatenate(parts), whole)
