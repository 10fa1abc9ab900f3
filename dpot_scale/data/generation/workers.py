"""A dataset is solved in parts, by threads of this process or by tasks on other machines.

A part depends only on its recipe and its seeds, so parts may run anywhere and in any order.
"""

import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from dpot_scale.config.data import GeneratedDataset
from dpot_scale.data.generation.equations import solver_of

# Values in a frame of all the trajectories that are solved at once. On a core: enough to outweigh
# the cost of starting an operation, few enough for its cache. On a GPU: enough to fill it.
VALUES_TOGETHER = 16 * 64**2
VALUES_TOGETHER_ON_GPU = 256 * 128**2


@dataclass(frozen=True, slots=True)
class Part:
    """Some trajectories of a dataset."""

    recipe: GeneratedDataset
    seeds: range


class Solved(NamedTuple):
    """The trajectories of a part, and what they cost."""

    fields: NDArray[np.float32]  # (N, T, C, *space)
    seconds: tuple[float, ...]  # of each; those that were solved together cost the same


def solve(part: Part) -> Solved:
    """Return the trajectories of a part, solved on a GPU if there is one."""
    recipe = part.recipe
    solver = solver_of(recipe)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    solved: list[torch.Tensor] = []
    seconds: list[float] = []
    for some in pieces(part.seeds, solved_together(recipe)):
        started = time.perf_counter()
        fields_NTC = solver.solve(
            some,
            grid=recipe.grid,
            frames=recipe.frames,
            frame_interval=recipe.frame_interval,
            device=device,
        )
        solved.append(fields_NTC.cpu())
        seconds += [(time.perf_counter() - started) / len(some)] * len(some)
    return Solved(torch.cat(solved).numpy(), tuple(seconds))


def solved_together(recipe: GeneratedDataset) -> int:
    """Return how many trajectories are solved at once."""
    values = VALUES_TOGETHER_ON_GPU if torch.cuda.is_available() else VALUES_TOGETHER
    return max(1, values // frame_values(recipe))


def frame_values(recipe: GeneratedDataset) -> int:
    """Return how many numbers a frame of one trajectory holds."""
    solver = solver_of(recipe)
    return len(solver.channels) * math.prod(recipe.grid for _ in solver.domain_length)


def pieces(seeds: range, size: int) -> Iterator[range]:
    """Cut seeds into pieces of a size; the last may be smaller."""
    return (seeds[first : first + size] for first in range(0, len(seeds), size))


@dataclass(frozen=True)
class Workers:
    """The workers that solve the parts of datasets.

    Args:
        start: Starts to solve a part.
        number: How many parts are solved at the same time.
        part_size: How many trajectories a part has.
    """

    start: Callable[[Part], Future[Solved]]
    number: int
    part_size: Callable[[GeneratedDataset], int]

    def solve_all(self, parts: Iterable[Part]) -> Iterator[Solved]:
        """Yield the trajectories of each part, in order. Few finished parts are kept in memory."""
        started: deque[Future[Solved]] = deque()
        for part in parts:
            started.append(self.start(part))
            if len(started) > self.number:
                yield started.popleft().result()
        while started:
            yield started.popleft().result()


@contextmanager
def threads() -> Iterator[Workers]:
    """Solve in this process: on the GPU, or with one thread per core.

    Torch releases the interpreter's lock, and its own threads gain nothing on so small fields.
    """
    number = 1 if torch.cuda.is_available() else len(os.sched_getaffinity(0))
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(number, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield Workers(lambda part: pool.submit(solve, part), number, solved_together)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)  # a thread sets this for itself and for threads to come
