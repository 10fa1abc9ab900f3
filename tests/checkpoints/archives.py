"""Saves into an archive and restores from it."""

from pathlib import Path

from test_kills import WORLD, Engine

from dpot_scale.checkpoints.archive import Archive
from dpot_scale.checkpoints.checkpoint import TrainState
from dpot_scale.checkpoints.store import CheckpointStore
from dpot_scale.config.run import CheckpointConfig


def store_in(
    directory: Path, url: str, identity: str = "hash", **config: object
) -> CheckpointStore:
    kept = CheckpointConfig.model_validate({"archive": url, **config})
    return CheckpointStore(directory, config=kept, identity=identity, world=WORLD)


def archive_of(url: str) -> Archive:
    return Archive(url, "run", "hash")


def save(directory: Path, url: str, *steps: int, identity: str = "hash", **config: object) -> None:
    store = store_in(directory, url, identity, **config)
    for step in steps:
        store.save(Engine(step), TrainState(step=step))
    store.close()


def assert_restores(directory: Path, url: str, step: int) -> None:
    engine, store = Engine(), store_in(directory, url)
    store.catch_up()
    assert store.restore(engine) == TrainState(step=step)
    assert engine.value == step
    store.close()
