"""Two ranks save together, and one of them is killed at one of its operations on files.

Usage: python killed_ranks.py FOLDER COPY_GIB. It writes a JSON object: `operations` of each rank,
and `cases`, one for each of these at which the rank that makes it was killed. Every case has a
pair of ranks of its own, forked from this process, which has no threads.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist

sys.path.insert(0, str(Path(__file__).parent))

from test_kills import LOST_PEER, Engine, operations

from dpot_scale.checkpoints.checkpoint import TrainState, committed, verify
from dpot_scale.checkpoints.store import CheckpointStore
from dpot_scale.config.run import CheckpointConfig
from dpot_scale.engine.peers import lost_peers_named
from dpot_scale.engine.runtime import World
from dpot_scale.engine.state import Snapshot
from dpot_scale.errors import LostPeerError

RANKS = 2
PATIENCE = timedelta(seconds=60)

Act = Callable[[CheckpointStore, int], object]


class Share(Engine):
    """Of the numbers of an engine, those that a rank keeps."""

    def __init__(self, rank: int, value: float = 0, ranks: int = RANKS) -> None:
        super().__init__(value)
        self.rank, self.ranks = rank, ranks

    def snapshot(self) -> Snapshot:
        whole = super().snapshot()
        size = -(-5 // self.ranks)
        start = self.rank * size
        parts = [
            part._replace(start=start, values=part.values[start : start + size])
            for part in whole.parts
        ]
        return Snapshot(whole.shapes, parts, whole.numbers)


def save(store: CheckpointStore, rank: int, step: int) -> None:
    store.save(Share(rank, step), TrainState(step=step))
    assert (store._background is not None) == (store.config.copy_gib > 0)
    store.finish()


def go_on(store: CheckpointStore, rank: int, expected: int, step: int) -> None:
    """Continue from the step that is expected, and save another one."""
    engine = Share(rank)
    assert store.restore(engine) == TrainState(step=expected)
    assert engine.value == expected
    save(store, rank, step)


def on_ranks(directory: Path, copy_gib: float, act: Act) -> list[int]:
    """Let two new ranks do something with a store; return their exit codes."""
    meeting = directory.with_suffix(".meeting")
    meeting.unlink(missing_ok=True)
    children = []
    for rank in range(RANKS):
        child = os.fork()
        if child == 0:
            os._exit(on_rank(rank, meeting, directory, copy_gib, act))
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def on_rank(rank: int, meeting: Path, directory: Path, copy_gib: float, act: Act) -> int:
    store = dist.FileStore(str(meeting), RANKS)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=RANKS, timeout=PATIENCE)
    world = World(
        rank=rank, local_rank=rank, world_size=RANKS, device=torch.device("cpu"), patience=PATIENCE
    )
    config = CheckpointConfig(copy_gib=copy_gib)
    try:
        with lost_peers_named(PATIENCE):
            opened = CheckpointStore(directory, config=config, identity="hash", world=world)
            act(opened, rank)
    except LostPeerError:
        return LOST_PEER
    except BaseException as error:
        sys.stderr.write(f"rank {rank}: {error!r}\n")
        return 1
    return 0


def main(folder: Path, copy_gib: float) -> dict[str, Any]:
    run = partial(on_ranks, copy_gib=copy_gib)
    saved = folder / "saved"
    for step in (1, 2):
        assert run(saved, act=partial(save, step=step)) == [0] * RANKS

    def listed(store: CheckpointStore, rank: int) -> None:
        (folder / f"{rank}.json").write_text(json.dumps(operations(lambda: save(store, rank, 3))))

    assert run(shutil.copytree(saved, folder / "whole"), act=listed) == [0] * RANKS
    table = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(RANKS)]
    cases = []
    for killed in range(RANKS):
        for at, operation in enumerate(table[killed]):
            directory = shutil.copytree(saved, folder / f"{killed}_{at}")

            def killed_while_it_saves(
                store: CheckpointStore, rank: int, killed: int = killed, at: int = at
            ) -> None:
                operations(lambda: save(store, rank, 3), killed_at=at if rank == killed else -1)

            codes = run(directory, act=killed_while_it_saves)
            found = committed(directory)
            newest = found[0].state.step
            cases.append(
                {
                    "killed": killed,
                    "operation": operation,
                    "codes": codes,
                    "newest": newest,
                    "damaged": [str(one) for one in found if verify(one)],
                    "goes_on": run(directory, act=partial(go_on, expected=newest, step=4)),
                    "left": sorted(path.name for path in directory.iterdir()),
                }
            )
    return {"operations": table, "cases": cases}


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.stdout.write(json.dumps(main(Path(sys.argv[1]), float(sys.argv[2]))))
