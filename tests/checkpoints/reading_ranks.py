"""What test_checkpoint.py asks of two ranks: one of them cannot read its share of a checkpoint."""

import os
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

from torch import distributed as dist

sys.path.insert(0, str(Path(__file__).parent))

from killed_ranks import Share

from dpot_scale.checkpoints import checkpoint as module
from dpot_scale.checkpoints.checkpoint import TrainState
from dpot_scale.checkpoints.store import CheckpointStore
from dpot_scale.config.run import CheckpointConfig
from dpot_scale.engine.collectives import gathered
from dpot_scale.engine.runtime import World
from dpot_scale.errors import CheckpointError

FAILING = 1  # the rank whose file is not read


def restored(world: World, directory: str, number: int, times: int) -> list[str]:
    """Save twice and restore while the system fails so often; say what each rank found."""
    config = CheckpointConfig()
    store = CheckpointStore(Path(directory), config=config, identity="hash", world=world)
    for step in (1, 2):
        store.save(Share(world.rank, step), TrainState(step=step))
    dist.barrier()  # until all is removed that is replaced
    examine, left = module.examine, iter(range(times if world.rank == FAILING else 0))

    def examined(path: Path) -> Any:
        if next(left, None) is not None:
            raise OSError(number, os.strerror(number), str(path))
        return examine(path)

    engine = Share(world.rank)
    with patch.object(module, "examine", examined), patch.object(module, "PAUSE_SECONDS", 0.0):
        try:
            found = str(store.restore(engine))
        except CheckpointError as error:
            found = str(error)
    return gathered(f"{engine.value:g} {found}", world)
