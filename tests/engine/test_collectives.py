"""What ranks do together."""

from pathlib import Path
from typing import Any

import pytest
import torch

from dpot_scale.engine.collectives import mean_over_ranks, raise_on_all
from dpot_scale.engine.runtime import World, any_rank, any_ranks
from dpot_scale.errors import DataError, MachineError, SharedMachineError

HERE = Path(__file__)
ALONE = World(rank=0, local_rank=0, world_size=1, device=torch.device("cpu"))


def test_a_reduced_tensor_is_a_copy() -> None:
    values = torch.ones(2)
    mean_over_ranks(values, ALONE).add_(1)
    assert values.tolist() == [1.0, 1.0]


def votes(world: World) -> list[bool]:
    return [any_rank(vote, world) for vote in (False, world.rank == 1, True)]


def several_votes(world: World) -> list[bool]:
    return any_ranks([world.rank == 0, False, world.rank == 1], world)


@pytest.mark.distributed
def test_a_vote_of_one_rank_is_that_of_all(ranks: Any) -> None:
    assert ranks.run(HERE, "votes") == [False, True, True]
    assert ranks.run(HERE, "several_votes") == [True, False, True]


def error_of_one_rank(world: World) -> tuple[str, str]:
    """What rank 0 raises where rank 1 has an error: the kind and the sentence."""
    raise_on_all(None, world)
    try:
        raise_on_all(DataError("a bad shard") if world.rank == 1 else None, world)
    except DataError as error:
        return type(error).__name__, str(error)
    raise AssertionError("nothing was raised")


def test_what_a_machine_lacks_stays_that() -> None:
    with pytest.raises(SharedMachineError, match="few open files"):
        raise_on_all(MachineError("few open files"), ALONE)


@pytest.mark.distributed
def test_the_error_of_one_rank_is_that_of_all(ranks: Any) -> None:
    assert ranks.run(HERE, "error_of_one_rank") == ("SharedDataError", "a bad shard")
