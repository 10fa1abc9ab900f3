"""Where whole matrices lie in the flat masters of ZeRO, and how split ones are put together.

A stage of ZeRO lays parameters end to end and cuts them into pieces without regard to their shape.
What needs whole matrices asks a `Layout`, which brings the pieces of each to one rank and back.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch import distributed as dist

from dpot_scale.engine.runtime import World

# Parameters of one shape are changed together up to so many numbers, by the type of device. A GPU
# would wait for the host to start the products of small matrices one by one. Elsewhere one at a
# time is as fast and takes less memory.
TOGETHER = {"cuda": 2**26}


class Piece(NamedTuple):
    """Consecutive numbers of a parameter in a master."""

    parameter: int
    start: int  # in the parameter
    place: int  # in the master
    size: int


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The pieces of parameters in one master of each rank."""

    shapes: Mapping[int, tuple[int, ...]]
    """Of the parameters, by their number."""
    pieces: Sequence[Sequence[Piece]]
    """For each rank."""
    world: World
    _owners: dict[int, int] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Choose for each split parameter one of the ranks that hold it: the least busy one."""
        holders: dict[int, list[int]] = {}
        for rank, of_rank in enumerate(self.pieces):
            for piece in of_rank:
                if not self._is_whole(piece):
                    holders.setdefault(piece.parameter, []).append(rank)
        load = [0] * len(self.pieces)
        for parameter in sorted(holders, key=lambda one: (-prod(self.shapes[one]), one)):
            owner = min(holders[parameter], key=load.__getitem__)
            load[owner] += prod(self.shapes[parameter])
            self._owners[parameter] = owner

    def apply(self, change: Callable[[Tensor], Tensor], flat: Tensor) -> None:
        """Replace each parameter by what `change` makes of it, in place.

        Collective if one is split.

        Args:
            change: From parameters of one shape, stacked on the device of this rank, to as many.
            flat: Numbers of all pieces of this rank, as they lie in the master.
        """
        whole = {
            piece.parameter: flat[piece.place :][: piece.size]
            for piece in self.pieces[self.world.rank]
            if self._is_whole(piece)
        }
        for numbers in self._together(whole):
            parts = [whole[number] for number in numbers]
            for part, changed in zip(parts, self._changed(change, numbers, parts), strict=True):
                part.copy_(changed.view(-1))
        if self._owners:
            self._apply_to_split(change, flat)

    def _together(self, numbers: Iterable[int]) -> Iterator[list[int]]:
        """Return parameters in lists of one shape, each of which is changed at once."""
        of_shape: dict[tuple[int, ...], list[int]] = {}
        for number in numbers:
            of_shape.setdefault(self.shapes[number], []).append(number)
        most = TOGETHER.get(self.world.device.type, 0)
        for shape, alike in of_shape.items():
            count = max(1, most // prod(shape))
            yield from (alike[first : first + count] for first in range(0, len(alike), count))

    def _changed(
        self, change: Callable[[Tensor], Tensor], numbers: Sequence[int], parts: Sequence[Tensor]
    ) -> Tensor:
        """Return what becomes of whole parameters of one shape, stacked."""
        shape = self.shapes[numbers[0]]
        wholes = [part.to(self.world.device).view(shape) for part in parts]
        return change(wholes[0][None] if len(wholes) == 1 else torch.stack(wholes))

    def _is_whole(self, piece: Piece) -> bool:
        return piece.size == prod(self.shapes[piece.parameter])

    def _apply_to_split(self, change: Callable[[Tensor], Tensor], flat: Tensor) -> None:
        rank, ranks = self.world.rank, range(len(self.pieces))
        sent = [self._on_the_way(rank, owner) for owner in ranks]
        received = [self._on_the_way(holder, rank) for holder in ranks]
        sent_sizes, received_sizes = (
            [sum(piece.size for piece in of_rank) for of_rank in pieces]
            for pieces in (sent, received)
        )
        mine = [flat[p.place :][: p.size] for of_owner in sent for p in of_owner]
        there = torch.cat([flat[:0], *mine]).to(self.world.device)
        here = there.new_empty(sum(received_sizes))
        dist.all_to_all_single(here, there, received_sizes, sent_sizes)
        self._change_owned(change, here, [p for of_holder in received for p in of_holder])
        dist.all_to_all_single(there, here, sent_sizes, received_sizes)
        for part, changed in zip(mine, torch.split(there, [len(p) for p in mine]), strict=True):
            part.copy_(changed)

    def _on_the_way(self, holder: int, owner: int) -> list[Piece]:
        """Return the pieces that a rank holds of the split parameters that another one owns."""
        return [p for p in self.pieces[holder] if self._owners.get(p.parameter) == owner]

    def _change_owned(
        self, change: Callable[[Tensor], Tensor], here: Tensor, pieces: Sequence[Piece]
    ) -> None:
        """Change the parameters that this rank owns, whose pieces lie end to end in `here`."""
        parts: dict[int, list[tuple[int, Tensor]]] = {}
        for piece, part in zip(pieces, torch.split(here, [p.size for p in pieces]), strict=True):
            parts.setdefault(piece.parameter, []).append((piece.start, part))
        for numbers in self._together(parts):
            wholes = [self._joined(number, parts[number], here) for number in numbers]
            changed = self._changed(change, numbers, wholes)
            for number, values in zip(numbers, changed, strict=True):
                for start, part in parts[number]:
                    part.copy_(values.view(-1)[start : start + len(part)])

    def _joined(self, number: int, parts: Iterable[tuple[int, Tensor]], like: Tensor) -> Tensor:
        """Return the numbers of a parameter, each part of which begins where it says."""
        whole = like.new_empty(prod(self.shapes[number]))
        for start, part in parts:
            whole[start : start + len(part)] = part
        return whole


def layouts(
    optimizer: Any,  # noqa: ANN401 - DeepSpeed is untyped
    groups: Mapping[int, Sequence[nn.Parameter]],
    stage: int,
    world: World,
) -> dict[Tensor, Layout]:
    """Return where parameters lie in each master that holds pieces of them. Collective.

    Args:
        optimizer: The optimizer of DeepSpeed's engine.
        groups: The parameters of some of its groups, by the numbers of the groups.
        stage: Of ZeRO.
        world: The ranks.
    """
    parameters = [parameter for group in groups.values() for parameter in group]
    shapes = {n: tuple(getattr(p, "ds_shape", p.shape)) for n, p in enumerate(parameters)}
    found = pieces_of(optimizer, groups, stage, world.rank)
    by_rank: list[Any] = [None] * world.world_size
    dist.all_gather_object(by_rank, list(found.values()))
    return {
        master: Layout(shapes=shapes, pieces=pieces, world=world)
        for master, pieces in zip(found, zip(*by_rank, strict=True), strict=True)
    }


Masters = dict[Tensor, list[Piece]]
Groups = Mapping[int, Sequence[nn.Parameter]]


def pieces_of(
    optimizer: Any,  # noqa: ANN401 - DeepSpeed is untyped
    groups: Groups,
    stage: int,
    rank: int,
) -> Masters:
    """Return what lies in each master of a rank that holds pieces of some parameters.

    Args:
        optimizer: The optimizer of DeepSpeed's engine.
        groups: The parameters of some of its groups, by the numbers of the groups; the parameters
            are numbered through all of them.
        stage: Of ZeRO.
        rank: This rank.
    """
    return _PIECES[stage](optimizer, groups, rank)


def _numbers(groups: Groups) -> dict[nn.Parameter, int]:
    """Return the number of each parameter: they are counted through all groups."""
    return {p: n for n, p in enumerate(chain.from_iterable(groups.values()))}


def _of_stage_0(_: Any, groups: Groups, rank: int) -> Masters:  # noqa: ANN401
    """Every rank updates all parameters themselves."""
    del rank
    return {p: [Piece(n, 0, 0, p.numel())] for p, n in _numbers(groups).items()}


def _of_stage_2(
    optimizer: Any,  # noqa: ANN401
    groups: Groups,
    rank: int,
) -> Masters:
    """Stages 1 and 2 have one master for a group: DeepSpeed notes at each parameter where."""
    del rank
    numbers, found = _numbers(groups), {}
    for group, parameters in groups.items():
        (master,) = optimizer.param_groups[group]["params"]
        pieces = []
        for parameter in parameters:
            mapping = parameter._hp_mapping  # type: ignore[attr-defined]
            if mapping is not None:
                start, place = mapping.lp_fragment_address.start, mapping.hp_fragment_address.start
                size = mapping.hp_fragment_address.numel
                pieces.append(Piece(numbers[parameter], start, place, size))
        found[master] = pieces
    return found


def _of_stage_3(
    optimizer: Any,  # noqa: ANN401
    groups: Groups,
    rank: int,
) -> Masters:
    """Stage 3 cuts each parameter into a part per rank, and a group into several masters."""
    numbers, found = _numbers(groups), dict[Tensor, list[Piece]]()
    for group, master in zip(
        optimizer.fp16_groups, optimizer.fp32_partitioned_groups_flat, strict=True
    ):
        if group[0] not in numbers:
            continue
        place, found[master] = 0, []
        for parameter in group:
            padded = parameter.partition_numel()
            size = min(padded, parameter.ds_numel - rank * padded)  # the last part is padded
            if size > 0:
                found[master].append(Piece(numbers[parameter], rank * padded, place, size))
            place += padded
    return found


_PIECES = (_of_stage_0, _of_stage_2, _of_stage_2, _of_stage_3)
