"""A save in the background: training goes on with another state, and hears what went wrong."""

import errno
import gc
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
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
        self.copies: list[weakref.ref[torch.Tensor]] = []  # of which it wrote something
        self._write = store_module.write_shard
        monkeypatch.setattr(store_module, "write_shard", self.write)

    def write(self, path: Path, snapshot: Snapshot) -> None:
        assert self.may_write.wait(20)
        self.copies += [weakref.ref(part.values) for part in snapshot.parts]
        if self.error is not None:
            raise self.error
        self._write(path, snapshot)


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Whoever frees cycles comes late, or not at all."""
    gc.disable()
    yield
    gc.enable()


def wait_for_threads() -> None:
    for thread in threading.enumerate():
        if thread.name == "save":
            thread.join(20)


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


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def refused(path: Path, _: object) -> None:
    """What a whole file says that cannot be written."""
    try:
        full_disk()
    except OSError as error:
        raise DiskError(f"cannot write {path}: {error.strerror}") from error


@pytest.mark.parametrize(
    ("name", "fail"), [("", None), ("examine", full_disk), ("write_whole", refused)]
)
def test_a_copy_is_let_go_when_it_is_written_or_cannot_be(
    name: str,
    fail: Callable[..., None] | None,
    tmp_path: Path,
    slow: Slow,
    monkeypatch: pytest.MonkeyPatch,
    no_collector: None,
) -> None:
    """Before the next one is made, and before anybody hears of it: there is one at a time."""
    engine, store = Training(), store_in(tmp_path)
    slow.may_write.set()
    with monkeypatch.context() as patched:
        if fail is not None:
            patched.setattr(store_module, name, fail)
        store.save(engine, TrainState(step=1))
        wait_for_threads()
    assert store.has_failed == (fail is not None)
    assert [copy() for copy in slow.copies] == [None, None]
    if fail is not None:
        with pytest.raises(DiskError, match="No space left on device"):
            store.finish()
    store.save(engine, TrainState(step=2))
    store.finish()
    assert store.newest == 2


def test_what_went_wrong_is_let_go_once_it_was_heard(no_collector: None) -> None:
    """Its traceback keeps all that those who hear it have at hand."""
    error = DiskError("No space left on device")

    def fail() -> None:
        raise error

    background = Background(fail)
    with pytest.raises(DiskError, match="No space") as raised:
        background.finish()
    heard = weakref.ref(raised.value)
    del raised
    assert heard() is None
    assert not background.has_failed


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
