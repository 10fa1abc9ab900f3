"""Uploads go on while training does: how long they took, and what is said of the last one."""

import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from archives import archive_of, save, store_in
from test_kills import Engine

from dpot_scale.checkpoints import uploads
from dpot_scale.checkpoints.archive import Archive, Sent
from dpot_scale.checkpoints.checkpoint import TrainState, committed
from dpot_scale.checkpoints.store import CheckpointStore
from dpot_scale.checkpoints.uploads import Uploads
from dpot_scale.config.places import METRICS
from dpot_scale.runs.run import _save
from dpot_scale.tracking.names import UPLOAD_SECONDS

FILE_SECONDS = 7.0  # that copying a file takes by the clock of these tests


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that moves while a file of a checkpoint is copied, and at no other time."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(uploads, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    made = Archive.__init__

    def make(archive: Archive, *words: Any) -> None:
        made(archive, *words)
        put_file = archive._files.put_file

        def slow(*args: Any, **kwargs: Any) -> None:
            put_file(*args, **kwargs)
            clock.now += FILE_SECONDS

        # Instances of file systems are shared, so what is set on one would be set again.
        archive._files = SimpleNamespace(
            **{name: getattr(archive._files, name) for name in USED}, put_file=slow
        )

    monkeypatch.setattr(Archive, "__init__", make)
    return clock


USED = ("ls", "exists", "cat_file", "rm_file", "rm", "makedirs", "pipe_file", "invalidate_cache")


def recorded(store: CheckpointStore, step: int) -> dict[str, float]:
    return dict(_save(store, Engine(step), TrainState(step=step), must=False).metrics)  # type: ignore[arg-type]


def test_the_seconds_are_those_of_an_upload_that_copied_something(
    tmp_path: Path, clock: SimpleNamespace
) -> None:
    url, here = f"file://{tmp_path}/archive", tmp_path / "run" / "checkpoints"
    store = store_in(here, url)
    store.save(Engine(1), TrainState(step=1))
    store.close()
    files = len(committed(here)[0].marker.files)
    assert files
    assert archive_of(url).steps() == {1}
    assert recorded(store, 2) == {UPLOAD_SECONDS: files * FILE_SECONDS}
    assert recorded(store, 3) == {}, "each upload once"


def test_an_upload_that_finds_all_there_has_no_seconds(
    tmp_path: Path, clock: SimpleNamespace
) -> None:
    url, here = f"file://{tmp_path}/archive", tmp_path / "run" / "checkpoints"
    save(here, url, 1)
    store = store_in(here, url)
    (here.parent / METRICS).write_text("it sends this, and no checkpoint")
    store.close()
    assert recorded(store, 2) == {}


def test_what_is_committed_while_another_is_copied_is_copied_too() -> None:
    begun, may_end, synced = threading.Event(), threading.Event(), []

    def sync() -> Sent:
        begun.set()
        may_end.wait(10)
        synced.append(1)
        return Sent([len(synced)], 0)

    uploads = Uploads(sync)
    uploads.wake()
    assert begun.wait(10)
    uploads.wake()
    may_end.set()
    uploads.close()
    assert len(synced) == 2


def test_the_last_warning_says_what_is_missing_and_what_to_do(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, here = f"file://{tmp_path}/archive", tmp_path / "run" / "checkpoints"
    save(here, url, 1, keep=4)
    store = store_in(here, url, keep=4)
    put = Archive._put

    def fails(*_: object) -> None:
        raise ConnectionError("it is gone")

    monkeypatch.setattr(Archive, "_put", fails)
    for step in (2, 3, 4):
        store.save(Engine(step), TrainState(step=step))
    store.close()
    reason = f"checkpoint.archive={url} is not up to date: it is gone; "
    assert caplog.messages[-1] == (
        f"{reason}it lacks step_000002, step_000003, step_000004 of this run, as far as it has "
        "answered: start the run again when it does, finished or not, which sends what is missing"
    )
    store = store_in(here, url, keep=4)
    monkeypatch.setattr(Archive, "_put", put)
    monkeypatch.setattr(Archive, "_remove", fails)
    store.close()
    assert "is gone; it lacks only the newest records of this run" in caplog.messages[-1]
