"""Whole matrices from the pieces of several ranks, each rank in a thread of its own."""

from collections.abc import Callable, Mapping, Sequence
from threading import Barrier, Thread, get_ident

import pytest
import torch
from torch import Tensor
from torch import distributed as dist

from dpot_scale.engine.matrices import TOGETHER, Layout, Piece
from dpot_scale.engine.runtime import World

SHAPES = {0: (3, 4), 1: (2, 2), 2: (5, 3)}
# Of three ranks: one matrix lies whole, one on two ranks, one on all.
PIECES = [
    [Piece(0, 0, 0, 12), Piece(1, 0, 13, 1), Piece(2, 0, 14, 4)],
    [Piece(2, 4, 1, 7)],
    [Piece(2, 11, 0, 4), Piece(1, 1, 6, 3)],
]
RANKS = range(3)


class Exchange:
    """Stands for `all_to_all_single` among threads."""

    def __init__(self, threads: Sequence[Thread]) -> None:
        self.threads = threads
        self.barrier = Barrier(len(threads), timeout=20)
        self.sent: list[Sequence[Tensor]] = [() for _ in threads]

    def __call__(self, here: Tensor, there: Tensor, _: list[int], sizes: list[int]) -> None:
        rank = [thread.ident for thread in self.threads].index(get_ident())
        self.sent[rank] = [part.clone() for part in torch.split(there, sizes)]
        self.barrier.wait()
        here.copy_(torch.cat([parts[rank] for parts in self.sent]))
        self.barrier.wait()


def world(rank: int, size: int = 3) -> World:
    return World(rank=rank, local_rank=rank, world_size=size, device=torch.device("cpu"))


def flats(matrices: Mapping[int, Tensor]) -> list[Tensor]:
    """The master of each rank: pieces of matrices, and other numbers between them."""
    found = [torch.full((20,), float(rank)) for rank in RANKS]
    for rank in RANKS:
        for number, start, place, size in PIECES[rank]:
            found[rank][place : place + size] = matrices[number].flatten()[start : start + size]
    return found


def on_threads(run: Callable[[int], None], monkeypatch: pytest.MonkeyPatch) -> None:
    threads = [Thread(target=run, args=(rank,)) for rank in RANKS]
    monkeypatch.setattr(dist, "all_to_all_single", Exchange(threads))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)


def test_every_rank_has_its_pieces_of_what_was_made_of_whole_matrices(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = torch.Generator().manual_seed(0)
    whole = {number: torch.randn(shape, generator=generator) for number, shape in SHAPES.items()}
    found, shapes = flats(whole), []

    def change(stack: Tensor) -> Tensor:
        shapes.append(tuple(stack.shape))
        return stack @ stack.mT @ stack

    def run(rank: int) -> None:
        Layout(shapes=SHAPES, pieces=PIECES, world=world(rank)).apply(change, found[rank])

    on_threads(run, monkeypatch)
    each_once = [(1, *shape) for shape in SHAPES.values()]
    assert sorted(shapes) == sorted(each_once), "each matrix is changed once"
    expected = flats({number: matrix @ matrix.T @ matrix for number, matrix in whole.items()})
    for flat, of_rank in zip(found, expected, strict=True):
        torch.testing.assert_close(flat, of_rank)


def test_matrices_of_one_shape_are_changed_together_where_that_is_faster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shapes: dict[int, tuple[int, ...]] = dict.fromkeys(range(5), (2, 3)) | {5: (4, 4)}
    starts = [0, 6, 12, 18, 24, 30]
    pieces = [Piece(n, 0, starts[n], 16 if n == 5 else 6) for n in shapes]
    layout = Layout(shapes=shapes, pieces=[pieces], world=world(0, size=1))
    flat = torch.randn(46, generator=torch.Generator().manual_seed(0))
    alone, together, seen = flat.clone(), flat.clone(), []

    def change(stack: Tensor) -> Tensor:
        seen.append(tuple(stack.shape))
        return stack @ stack.mT @ stack

    layout.apply(change, alone)
    assert len(seen) == len(shapes)
    seen.clear()
    monkeypatch.setitem(TOGETHER, "cpu", 13)  # two of the small ones, and less than the large one
    layout.apply(change, together)
    assert seen == [(2, 2, 3), (2, 2, 3), (1, 2, 3), (1, 4, 4)]
    torch.testing.assert_close(together, alone)


def test_split_matrices_are_shared_out_evenly() -> None:
    shapes = dict.fromkeys(range(6), (4, 4)) | {6: (8, 8)}
    sizes = {number: rows * columns // 2 for number, (rows, columns) in shapes.items()}
    pieces = [[Piece(n, rank * size, 0, size) for n, size in sizes.items()] for rank in (0, 1)]
    owners = Layout(shapes=shapes, pieces=pieces, world=world(0, size=2))._owners
    load = [sum(2 * sizes[n] for n, owner in owners.items() if owner == rank) for rank in (0, 1)]
    assert sorted(load) == [80, 80]
