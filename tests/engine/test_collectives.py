"""What ranks do together."""

import torch

from dpot_scale.engine.collectives import mean_over_ranks
from dpot_scale.engine.runtime import World

ALONE = World(rank=0, local_rank=0, world_size=1, device=torch.device("cpu"))


def test_a_reduced_tensor_is_a_copy() -> None:
    values = torch.ones(2)
    mean_over_ranks(values, ALONE).add_(1)
    assert values.tolist() == [1.0, 1.0]
