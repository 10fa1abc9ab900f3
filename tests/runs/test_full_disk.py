"""The disk of a run is full for a while, or at its end: a real one, of a few megabytes."""

import contextlib
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from dpot_scale.checkpoints import store
from dpot_scale.checkpoints.checkpoint import TrainState, committed, verify
from dpot_scale.config.load import load_run
from dpot_scale.config.places import CHECKPOINTS, FIGURES, RESULT_FILE, WEIGHTS
from dpot_scale.config.run import CheckpointConfig, RunConfig
from dpot_scale.data.stream.assembly import Batch
from dpot_scale.engine.state import Snapshot
from dpot_scale.errors import DiskError
from dpot_scale.runs import outcome
from dpot_scale.runs import run as run_module
from dpot_scale.runs.resolved import identify
from dpot_scale.runs.run import run_training
from dpot_scale.tracking.mlflow_client import client
from dpot_scale.tracking.spool import SPOOL, read_metrics
from dpot_scale.train import main
from dpot_scale.training import loop
from tests.checkpoints.test_kills import WORLD, Engine
from tests.conftest import disk_of

BATCH, STEPS, EVERY = 4, 24, 3
FILLED, FREED = 8, 19  # by how many steps are made before
LAST = 6  # the newest checkpoint by then

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with disk_of(8, tmp_path / "disk") as disk:
        yield disk


@pytest.fixture
def config(tiny_yaml: Path, disk: Path) -> RunConfig:
    options = [f"windows={BATCH * STEPS}", f"checkpoint.every={EVERY}", "evaluation.every=0"]
    options += [f"output={disk}", "engine.deepspeed=zero1_bf16", "tracking.mlflow_uri=null"]
    return load_run(str(tiny_yaml), options)


def fill(disk: Path) -> None:
    with contextlib.suppress(OSError), (disk / "rest").open("wb", buffering=0) as rest:
        while True:
            rest.write(bytes(max(1, min(2**20, shutil.disk_usage(disk).free))))


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[int, Callable[[], None]]], None]:
    """Let something happen in some steps, before each of their losses is computed."""

    def let(events: dict[int, Callable[[], None]]) -> None:
        training_loss = loop.training_loss

        def disturbed(engine: Any, batch: Batch, *rest: Any) -> Tensor:
            event = events.pop(batch.positions[0] // BATCH, None)
            if event is not None:
                event()
            return training_loss(engine, batch, *rest)

        monkeypatch.setattr(loop, "training_loss", disturbed)

    return let


def steps_of(config: RunConfig) -> list[int]:
    found = committed(config.directory / CHECKPOINTS)
    assert not any(verify(checkpoint) for checkpoint in found)
    return [checkpoint.state.step for checkpoint in found]


@pytest.mark.parametrize("copy_gib", [0.0, 1.0])
def test_a_disk_that_is_full_for_a_while_costs_checkpoints_alone(
    copy_gib: float,
    config: RunConfig,
    disk: Path,
    at_step: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    kept: list[int] = []

    def free() -> None:
        kept.extend(steps_of(config))
        (disk / "rest").unlink()

    of_copies = config.checkpoint.model_copy(update={"copy_gib": copy_gib})
    config = config.model_copy(update={"checkpoint": of_copies})
    at_step({FILLED: lambda: fill(disk), FREED: free})
    result = run_training(identify(config))
    assert (result.steps, result.quarantined) == (STEPS, 0)
    assert kept[0] == LAST, "those before are intact"
    assert steps_of(config)[0] == STEPS
    losses = read_metrics(config.directory / SPOOL)["train/loss"]
    assert list(losses) == list(range(1, STEPS + 1)), "no point is lost"
    said = [message for message in caplog.messages if "next checkpoint is due" in message]
    assert len(said) == (FREED - FILLED) // EVERY + 1, "one for each that failed"
    for message in said:
        assert "No space left on device" in message
        assert message.endswith(f"until then a restart goes back to step {LAST}")


def test_a_disk_that_is_full_at_the_end_is_one_sentence_and_loses_nothing(
    config: RunConfig, disk: Path, at_step: Callable[..., None]
) -> None:
    at_step({STEPS - 2: lambda: fill(disk)})
    with pytest.raises(DiskError, match=r"No space left on device; .* make room there and start"):
        run_training(identify(config))
    assert steps_of(config)[0] == STEPS - EVERY
    (disk / "rest").unlink()
    assert run_training(identify(config)).steps == STEPS
    assert steps_of(config)[0] == STEPS


@pytest.mark.parametrize("copy_gib", [0, 1])
def test_a_stop_that_finds_no_room_says_so_and_a_restart_goes_on(
    copy_gib: int,
    config: RunConfig,
    tiny_yaml: Path,
    disk: Path,
    at_step: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stop() -> None:
        fill(disk)
        os.kill(os.getpid(), signal.SIGTERM)

    at_step({FILLED: stop})
    options = [f"output={disk}", f"windows={BATCH * STEPS}", f"checkpoint.every={EVERY}"]
    options += ["evaluation.every=0", "engine.deepspeed=zero1_bf16"]
    uri = f"sqlite:///{disk}.db"
    options += [f"checkpoint.copy_gib={copy_gib}", f"tracking.mlflow_uri={uri}"]
    assert main(["--config", str(tiny_yaml), *options]) == 2
    (said,) = (line for line in capsys.readouterr().err.splitlines() if "error:" in line)
    assert f"the run was stopped by SIGTERM at step {FILLED + 1} of {STEPS}" in said
    assert "No space left on device" in said
    assert steps_of(config)[0] == LAST
    (shown,) = client(uri).search_runs(["1"])
    assert (shown.info.status, shown.data.tags["stop"]) == ("FAILED", "disk")
    (disk / "rest").unlink()
    assert run_training(identify(config)).steps == STEPS


def test_what_a_thread_has_saved_already_is_not_saved_again(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the data end right after a checkpoint was begun: to replace it might lose it."""
    write_shard, saved, disk_is_full = store.write_shard, threading.Event(), False

    def write_late(*arguments: Any) -> None:
        assert saved.wait(60)
        if disk_is_full:
            fill(disk)  # whatever was removed from it before
        write_shard(*arguments)

    monkeypatch.setattr(store, "write_shard", write_late)
    checkpoints = store.CheckpointStore(
        disk / CHECKPOINTS, config=CheckpointConfig(copy_gib=1), identity="hash", world=WORLD
    )
    save = partial(run_module._save, checkpoints, Engine(1), TrainState(step=4))
    assert save(False).newest == 0, "it is only begun"
    saved.set()
    (thread,) = (one for one in threading.enumerate() if one.name == "save")
    thread.join()
    disk_is_full = True
    assert save(True).newest == 4
    (kept,) = committed(disk / CHECKPOINTS)
    assert verify(kept) == []


@pytest.mark.parametrize("copy_gib", [0.0, 1.0])
def test_the_last_save_is_tried_twice(
    copy_gib: float, config: RunConfig, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a thread would make it: what frees the disk meanwhile saves the last steps."""
    of_copies = config.checkpoint.model_copy(update={"copy_gib": copy_gib})
    config = config.model_copy(update={"checkpoint": of_copies})
    write_shard, tried = store.write_shard, []

    def on_a_disk_that_is_full_for_a_moment(path: Path, snapshot: Snapshot) -> None:
        if path.parts[-3] == f"step_{STEPS:06d}":
            tried.append(path)
        if len(tried) == 1:
            fill(disk)
        try:
            write_shard(path, snapshot)
        finally:
            (disk / "rest").unlink(missing_ok=True)

    monkeypatch.setattr(store, "write_shard", on_a_disk_that_is_full_for_a_moment)
    assert run_training(identify(config)).steps == STEPS
    assert len(tried) == 2
    assert steps_of(config)[0] == STEPS


def test_figures_are_worth_no_run(
    config: RunConfig,
    disk: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    save_figures = outcome.save_figures

    def on_a_full_disk(*arguments: Any) -> list[Path]:
        fill(disk)
        try:
            return save_figures(*arguments)
        finally:
            (disk / "rest").unlink()

    monkeypatch.setattr(outcome, "save_figures", on_a_full_disk)
    run_training(identify(config))
    assert (config.directory / WEIGHTS).is_file()
    assert (config.directory / RESULT_FILE).is_file()
    assert list((config.directory / FIGURES).glob("*")) == [], "no part of one"
    assert "the run ends without all of its figures" in caplog.text


def test_weights_that_find_no_room_are_one_sentence_and_come_with_the_next_start(
    config: RunConfig, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = outcome._export

    def to_full_disk(*args: Any) -> None:
        fill(disk)
        export(*args)

    with monkeypatch.context() as patched:
        patched.setattr(outcome, "_export", to_full_disk)
        with pytest.raises(DiskError) as raised:
            run_training(identify(config))
    assert str(raised.value).startswith(f"cannot write {config.directory / WEIGHTS}: No space left")
    assert raised.value.stop == "disk"
    assert steps_of(config)[0] == STEPS
    (disk / "rest").unlink()
    left = {path.name for path in config.directory.iterdir()}
    assert not {name for name in left if name.startswith(WEIGHTS) or name == RESULT_FILE}
    losses = read_metrics(config.directory / SPOOL)["train/loss"]
    assert run_training(identify(config)).steps == STEPS
    assert (config.directory / WEIGHTS).is_file()
    assert read_metrics(config.directory / SPOOL)["train/loss"] == losses
