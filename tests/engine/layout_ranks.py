"""What test_zero_state.py asks of one, two and three ranks: parts of a training, and the whole."""

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import distributed as dist

sys.path.insert(0, str(Path(__file__).parent))

import zero_ranks

from dpot_scale.checkpoints.checkpoint import TrainState, committed
from dpot_scale.checkpoints.shards import open_state
from dpot_scale.checkpoints.store import CheckpointStore
from dpot_scale.config.run import CheckpointConfig
from dpot_scale.engine.engine import Engine
from dpot_scale.engine.runtime import World
from dpot_scale.engine.start import start_engine

DIVIDES = 6  # windows per step, for one to three ranks with one window at a time
MUON = zero_ranks.OPTIM.model_copy(update={"kind": "muon"})
STARTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "parts": zero_ranks.PARTS,
    "adapter": zero_ranks.ADAPTER,
    "parts_of_matrices": {"components": {"blocks": {"lr": 0.5}, "head": "freeze"}},
}


def with_global_batch() -> AbstractContextManager[Any]:
    return patch.object(zero_ranks, "GLOBAL_BATCH", DIVIDES)


def engine_of(world: World, strategy: str, optimizer: str, start: str, seed: int) -> Engine:
    optim = MUON if optimizer == "muon" else zero_ranks.OPTIM
    config = zero_ranks.config(strategy, optim=optim, micro_batch=1, seed=seed, start=STARTS[start])
    return start_engine(config, world)


def store_in(folder: Path, world: World) -> CheckpointStore:
    return CheckpointStore(folder, config=CheckpointConfig(), identity="hash", world=world)


def train_on(
    world: World,
    folder: str,
    strategy: str,
    optimizer: str,
    start: str,
    until: int,
) -> dict[str, Any]:
    """Continue a training up to a step, or begin it; save twice what was loaded, and the end."""
    place = Path(folder)
    with with_global_batch():
        store = store_in(place / "checkpoints", world)
        begun = committed(store.directory)
        engine = engine_of(world, strategy, optimizer, start, seed=len(begun))
        state = store.restore(engine) or TrainState()
        result: dict[str, Any] = {"from": state.step}
        if begun:
            again = store_in(place / f"again_{world.world_size}", world)
            again.save(engine, state)
            saved = committed(again.directory)[0].folder
            if world.is_main:
                result["differs"] = differing(begun[0].folder, saved)
        result |= zero_ranks.train(engine, world, steps=range(state.step, until))
        store.save(engine, TrainState(step=until))
        result["weights"] = zero_ranks.whole_weights(engine)
        return result


def straight(world: World, strategy: str, optimizer: str, start: str) -> dict[str, Any]:
    """Train without a stop."""
    with with_global_batch():
        engine = engine_of(world, strategy, optimizer, start, seed=0)
        trained = zero_ranks.train(engine, world)
        return {**trained, "weights": zero_ranks.whole_weights(engine)}


def in_background(world: World, folder: str, strategy: str, optimizer: str) -> dict[str, Any]:
    """Train on while every step is saved in the background; restore the last but one."""
    with with_global_batch():
        config = CheckpointConfig(copy_gib=1, keep_every=1)
        store = CheckpointStore(Path(folder), config=config, identity="hash", world=world)
        engine = engine_of(world, strategy, optimizer, "plain", seed=0)
        found: dict[str, Any] = {"losses": [], "norms": []}
        for step in range(zero_ranks.STEPS):
            store.save(engine, TrainState(step=step))
            part = zero_ranks.train(engine, world, steps=[step])
            found = {key: found[key] + part[key] for key in found}
        store.finish()
        again = engine_of(world, strategy, optimizer, "plain", seed=1)
        state = store.restore(again)
        assert state is not None
        resumed = zero_ranks.train(again, world, steps=range(state.step, zero_ranks.STEPS))
        return {**found, "steps": len(committed(Path(folder))), "resumed": resumed["losses"]}


def older(world: World, folder: str, strategy: str, optimizer: str, start: str) -> list[str]:
    """Save in today's files and in DeepSpeed's, as earlier versions did; say how they differ."""
    place = Path(folder)
    with with_global_batch():
        engine = engine_of(world, strategy, optimizer, start, seed=0)
        zero_ranks.train(engine, world, steps=range(2))
        store = store_in(place, world)
        store.save(engine, TrainState(step=2))
        engine.save_shards(place / "older")
        dist.barrier()
        return differing(committed(place)[0].folder, place / "older")


def differing(one: Path, other: Path) -> list[str]:
    """What two checkpoints of the same state do not agree in, to the bit."""
    states = [open_state(folder) for folder in (one, other)]
    if states[0].shapes != states[1].shapes or states[0].numbers != states[1].numbers:
        return ["shapes or numbers"]
    names: Sequence[set[tuple[str, str]]] = [
        {(kind, name) for kind, of_kind in state.kinds.items() for name in of_kind}
        for state in states
    ]
    if names[0] != names[1] or not any(states[0].numbers):
        return ["kinds"]
    return [
        f"{kind} of {name}"
        for kind, name in sorted(names[0])
        if not torch.equal(*(state.read(kind, name) for state in states))
    ]
