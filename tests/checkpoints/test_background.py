"""A save in the background: training goes on with another state, and hears what went wrong."""

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from test_kills import WORLD, Engine

from dpot_scale.checkpoints import store as store_module
from dpot_scale.checkpoints.background import Background
from dpot_scale.checkpoints.checkpoint import TrainState, committed
from dpot_scale.checkpoints.store import CheckpointStore
from dpot_scale.config.run import CheckpointConfig
from dpot_scale.engine.state import WEIGHT, Part, Snapshot
from dpot_scale.errors import DiskError


class Training(Engine):
    """Changes its weights in place, as optimizers do."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = torch.zeros(5)

    def snapshot(self) -> Snapshot:
        parts = [Part(name, WEIGHT, 0, self.weights) for name in "ab"]
        return Snapshot({"a": (5,), "b": (5,)}, parts, {})


class Slow:
    """Writes when it may."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.may_write = threading.Event()
        self.error: OSError | None = None
        self._write = store_module.write_shard
        monkeypatch.setattr(store_module, "write_shard", self.write)

    def write(self, path: Path, snapshot: Snapshot) -> None:
        assert self.may_write.wait(20)
        if self.error is not None:
            raise self.error
        self._write(path, snapshot)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Slow]:
    slow = Slow(monkeypatch)
    yield slow
    slow.may_write.set()


def store_in(directory: Path, copy_gib: float = 1e-3) -> CheckpointStore:
    config = CheckpointConfig(copy_gib=copy_gib)
    return CheckpointStore(directory, config=config, identity="hash", world=WORLD)


def values(directory: Path) -> list[float]:
    """What the checkpoints hold, the newest first."""
    opened = (store_module.open_state(one.folder) for one in committed(directory))
    return [stored.whole("a")[0].item() for stored in opened]


def test_it_holds_what_was_there_when_it_was_asked_for(tmp_path: Path, slow: Slow) -> None:
    engine, store = Training(), store_in(tmp_path)
    store.save(engine, TrainState(step=1))
    engine.weights += 1
    assert values(tmp_path) == [], "training goes on before anything is written"
    slow.may_write.set()
    store.save(engine, TrainState(step=2))  # waits for the first one: there is one copy at a time
    assert values(tmp_path)[-1] == 0
    engine.weights += 1
    store.finish()
    assert values(tmp_path) == [1, 0]


def test_a_state_larger_than_the_copy_may_be_is_written_at_once(tmp_path: Path, slow: Slow) -> None:
    slow.may_write.set()
    for step, copy_gib in ((1, 0.0), (2, 1e-9)):
        store_in(tmp_path, copy_gib).save(Training(), TrainState(step=step))
        assert committed(tmp_path)[0].state.step == step


def test_what_went_wrong_is_heard_with_the_next_save_or_at_the_end(
    tmp_path: Path, slow: Slow
) -> None:
    engine, store = Training(), store_in(tmp_path)
    slow.error = OSError(28, "No space left on device")
    slow.may_write.set()
    store.save(engine, TrainState(step=1))
    with pytest.raises(DiskError, match="step_000001: No space left on device"):
        store.save(engine, TrainState(step=2))
    store.save(engine, TrainState(step=2))
    with pytest.raises(DiskError, match="step_000002"):
        store.finish()
    assert (store.newest, store.has_failed) == (0, False)
    slow.error = None
    store.save(engine, TrainState(step=3))
    store.close()
    assert store.newest == 3
    assert [path.name for path in tmp_path.iterdir()] == ["step_000003"]


def test_it_is_known_that_it_failed_before_anybody_waits(tmp_path: Path, slow: Slow) -> None:
    store = store_in(tmp_path)
    slow.error = OSError(28, "No space left on device")
    store.save(Training(), TrainState(step=1))
    assert not store.has_failed
    slow.may_write.set()
    until = time.monotonic() + 20
    while not store.has_failed and time.monotonic() < until:
        time.sleep(0.01)
    assert store.has_failed


def test_to_go_back_waits_for_it(tmp_path: Path, slow: Slow) -> None:
    store = store_in(tmp_path)
    engine = Engine(7)
    store.save(engine, TrainState(step=7))
    slow.may_write.set()
    assert store.restore(engine) == TrainState(step=7)


def test_any_error_belongs_to_whoever_waits() -> None:
    def fail() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Background(fail).finish()
