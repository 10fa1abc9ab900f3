"""Collective calls: an error on one rank is raised on all of them, so that none waits for it."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from torch import Tensor
from torch import distributed as dist

from dpot_scale.engine.runtime import World, any_rank
from dpot_scale.errors import (
    DataError,
    MachineError,
    SharedDataError,
    SharedMachineError,
    UserError,
)
from dpot_scale.files import cannot_write

T = TypeVar("T")


def raise_on_all(error: UserError | None, world: World) -> None:
    """Raise on every rank the first error that a rank has; do nothing if none has one. Collective.

    Raises:
        UserError: of the kind of that error; a `DataError` becomes a `SharedDataError`, and a
            `MachineError` a `SharedMachineError`.
    """
    mine = None if error is None else (type(error), str(error))
    found: list[tuple[type[UserError], str] | None] = [mine]
    if world.world_size > 1 and any_rank(error is not None, world):
        found = [None] * world.world_size
        dist.all_gather_object(found, mine, group=world.group)
    if not any(found):
        return
    kind, sentence = next(one for one in found if one is not None)
    for of_one, shared in ((DataError, SharedDataError), (MachineError, SharedMachineError)):
        if issubclass(kind, of_one):
            kind = shared
    raise kind(sentence) from error


def on_every_rank(act: Callable[[], T], world: World, place: Path) -> T:
    """Call `act` on every rank and return its result. Collective.

    Args:
        act: The function. It must call no collective, which a rank could miss by failing.
        world: The ranks.
        place: The file or folder that it reads or writes, for the sentence.

    Raises:
        UserError: on all ranks, the error of the first rank that failed.
    """
    problem: UserError | None = None
    try:
        result = act()
    except UserError as error:
        problem = error
    except OSError as error:
        problem = cannot_write(place, error)
    try:
        raise_on_all(problem, world)
    finally:
        del problem  # else its traceback keeps this frame, which keeps it, and all that it works on
    return result


def on_main(act: Callable[[], object], world: World, place: Path) -> None:
    """Call `act` on the main rank; its error is raised on all ranks. Collective."""
    on_every_rank(lambda: act() if world.is_main else None, world, place)


def from_main(find: Callable[[], T], world: World, place: Path) -> T:
    """Call `find` on the main rank and return its result on every rank. Collective.

    On a shared disk, one rank may not see yet what another has written.
    """
    found = [on_every_rank(lambda: find() if world.is_main else None, world, place)]
    if world.world_size > 1:
        dist.broadcast_object_list(found, group=world.group)
    result: T = found[0]  # type: ignore[assignment]
    return result


def gathered(mine: T, world: World) -> list[T]:
    """Return what each rank has, by rank. Collective."""
    found = [mine] * world.world_size
    if world.world_size > 1:
        dist.all_gather_object(found, mine, group=world.group)
    return found


def mean_over_ranks(values: Tensor, world: World) -> Tensor:
    """Return the mean of a small tensor over all ranks, on the host. Collective."""
    return sum_over_ranks(values, world) / world.world_size


def sum_over_ranks(values: Tensor, world: World) -> Tensor:
    """Return the sum of a small tensor over all ranks, on the host. Collective."""
    total = values.to(world.device, copy=True)
    if world.world_size > 1:
        dist.all_reduce(total)
    return total.cpu()


def max_over_ranks(values: Tensor, world: World) -> Tensor:
    """Return each value of a small tensor, the largest of all ranks, on the host. Collective."""
    largest = values.to(world.device, copy=True)
    if world.world_size > 1:
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return largest.cpu()
