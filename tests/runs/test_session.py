"""A run that goes wrong goes back to its last commit and skips the windows of it, or says which.

One window is made to give a gradient a million times too large, in a real training in this process.
"""

import json
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

from dpot_scale.checkpoints.store import CheckpointStore
from dpot_scale.config.load import load_run
from dpot_scale.config.places import ROLLBACKS, WEIGHTS
from dpot_scale.data.stream.assembly import Batch
from dpot_scale.engine.runtime import World, start_world
from dpot_scale.errors import DiskError
from dpot_scale.runs import run
from dpot_scale.runs.endings import TrainingDivergedError
from dpot_scale.runs.resolved import identify
from dpot_scale.runs.rollbacks import read_rollbacks
from dpot_scale.runs.run import run_training
from dpot_scale.tracking.spool import SPOOL, read_metrics
from dpot_scale.training import loop

BATCH, LENGTH, BAD_STEP, LOG_EVERY = 4, 36, 26, 3
BAD_WINDOW = BAD_STEP * BATCH + 1
SECOND_STEP = 33
# That step, and the other one until the next log.
SKIPPED = {"first": BAD_STEP * BATCH, "end": (BAD_STEP + 1) * BATCH}
# So many steps, seen at once where each is logged.
BROKEN = {"first": 7 * BATCH, "end": (7 + loop.MAX_SKIPPED_IN_A_ROW) * BATCH}
NO_COMMITS = ["checkpoint.every=0", "checkpoint.minutes=0"]

pytestmark = pytest.mark.timeout(900)
Train = Callable[..., Path]


@pytest.fixture(scope="module")
def train(tiny_yaml: Path) -> Train:
    """Train a run in this process; return its folder."""

    def train(name: str, *overrides: str) -> Path:
        short = [f"windows={LENGTH * BATCH}", f"tracking.log_every={LOG_EVERY}"]
        short += ["evaluation.every=0", "engine.deepspeed=zero1_bf16", "checkpoint.every=5"]
        config = load_run(str(tiny_yaml), [f"name={name}", *short, *overrides])
        run_training(identify(config))
        return config.directory

    return train


def spoil_windows(patched: pytest.MonkeyPatch, *windows: int) -> None:
    """Make the gradient of some windows a million times too large; their loss stays as it is."""
    training_loss = loop.training_loss

    def disturbed(engine: Any, batch: Batch, *rest: Any) -> Tensor:
        loss = training_loss(engine, batch, *rest)
        if not set(windows).isdisjoint(batch.positions):
            loss = loss + 1e6 * (loss - loss.detach())
        return loss

    patched.setattr(loop, "training_loss", disturbed)


@pytest.fixture
def bad_window(monkeypatch: pytest.MonkeyPatch) -> None:
    spoil_windows(monkeypatch, BAD_WINDOW)


def losses(folder: Path) -> dict[int, float]:
    return read_metrics(folder / SPOOL)["train/loss"]


def weights(folder: Path) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in load_file(folder / WEIGHTS).items()}


@pytest.fixture
def broken_stretch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no loss of a stretch be finite."""
    training_loss = loop.training_loss

    def disturbed(engine: Any, batch: Batch, *rest: Any) -> Tensor:
        loss = training_loss(engine, batch, *rest)
        is_broken = any(BROKEN["first"] <= one < BROKEN["end"] for one in batch.positions)
        return loss * float("nan") if is_broken else loss

    monkeypatch.setattr(loop, "training_loss", disturbed)


def skipping(train: Train, tiny_yaml: Path, name: str, skipped: dict[str, int]) -> Path:
    """Train a run that skips a stretch from the beginning."""
    folder = tiny_yaml.parent / "runs" / name
    folder.mkdir(parents=True)
    record = {"step": BAD_STEP + 1, **skipped, "reason": "known before"}
    (folder / ROLLBACKS).write_text(json.dumps({"format": 1, "rollbacks": [record]}))
    return train(name)


@pytest.fixture(scope="module")
def undisturbed(train: Train, tiny_yaml: Path) -> dict[str, bytes]:
    """The weights of a run that skips the bad stretch from the beginning."""
    return weights(skipping(train, tiny_yaml, "undisturbed", SKIPPED))


@pytest.mark.parametrize(("name", "commits"), [("from_commit", []), ("from_the_start", NO_COMMITS)])
def test_a_bad_window_is_as_good_as_never_seen(
    name: str,
    commits: list[str],
    train: Train,
    undisturbed: dict[str, bytes],
    bad_window: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = train(name, *commits)
    (rollback,) = read_rollbacks(folder)
    assert {"first": rollback.first, "end": rollback.end} == SKIPPED
    assert weights(folder) == undisturbed
    back = 0 if commits else 25
    said = f"went back from step {BAD_STEP + 1} to step {back}: the gradient norm of step "
    assert f"{said}{BAD_STEP + 1} was " in capsys.readouterr().out


def test_a_run_goes_back_behind_a_save_that_failed(
    train: Train,
    undisturbed: dict[str, bytes],
    bad_window: None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A thread still made it when the run diverged."""
    save, failed = CheckpointStore._save, list[int]()

    def fails_once(
        store: CheckpointStore, engine: Any, copy: Any, state: Any, world: World
    ) -> None:
        if state.step == 25 and not failed:
            failed.append(state.step)
            raise DiskError("no space left")
        save(store, engine, copy, state, world)

    monkeypatch.setattr(CheckpointStore, "_save", fails_once)
    folder = train("after_a_failed_save", "checkpoint.copy_gib=1")
    assert weights(folder) == undisturbed
    assert f"went back from step {BAD_STEP + 1} to step 20: " in capsys.readouterr().out


def test_a_stretch_that_is_not_finite_is_as_good_as_never_seen(
    train: Train, tiny_yaml: Path, broken_stretch: None, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = train("broken", "tracking.log_every=1")
    (rollback,) = read_rollbacks(folder)
    assert {"first": rollback.first, "end": rollback.end} == BROKEN
    assert "went back from step 27 to step 5: in each of its last 20 steps the loss or the " in (
        capsys.readouterr().out
    )
    assert weights(folder) == weights(skipping(train, tiny_yaml, "never_seen", BROKEN))


def test_a_run_that_may_not_go_back_fails_and_names_the_windows(
    train: Train, tiny_yaml: Path, bad_window: None
) -> None:
    with pytest.raises(TrainingDivergedError) as found:
        train("no_more", "limits.rollbacks=0")
    assert f"run no_more diverged at step {BAD_STEP + 1} of {LENGTH}: " in str(found.value)
    assert f"in windows {SKIPPED['first']} to {SKIPPED['end'] - 1} (" in str(found.value)
    assert max(losses(tiny_yaml.parent / "runs" / "no_more")) == BAD_STEP + 1


def test_a_run_that_went_back_as_often_as_it_may_fails_and_names_the_next_windows(
    train: Train, tiny_yaml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_windows(monkeypatch, BAD_WINDOW, SECOND_STEP * BATCH)
    with pytest.raises(TrainingDivergedError) as found:
        train("twice", "limits.rollbacks=1")
    (rollback,) = read_rollbacks(tiny_yaml.parent / "runs" / "twice")
    assert {"first": rollback.first, "end": rollback.end} == SKIPPED
    # The skipped windows were of no step, so the second bad ones are met a step earlier.
    assert re.fullmatch(
        rf"run twice diverged at step {SECOND_STEP} of {LENGTH}: the gradient norm of step "
        rf"{SECOND_STEP} was [\d.e+]+, more than limits.spike=30 times the largest before it, "
        rf"[\d.]+, in windows {SECOND_STEP * BATCH} to {(SECOND_STEP + 1) * BATCH - 1} \(.*\) "
        rf"\(it had gone back once and skipped windows {SKIPPED['first']} to "
        rf"{SKIPPED['end'] - 1} \(.*\)\); start another `name` with what may help: a lower "
        r"optim.lr, a lower optim.gradient_clipping, or an engine.deepspeed of another precision",
        str(found.value),
    ), str(found.value)


def test_ranks_wait_for_each_other_as_long_as_the_config_says(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    patience: list[timedelta] = []

    def start(seed: int, limit: timedelta) -> World:
        patience.append(limit)
        return start_world(seed, limit)

    monkeypatch.setattr(run, "start_world", start)
    train("patient", "limits.collective=7.5")
    assert patience == [timedelta(minutes=7.5)]


def test_what_is_no_spike_is_left_alone(train: Train, bad_window: None) -> None:
    assert read_rollbacks(train("tolerant", "limits.spike=null")) == []


IN_FP32 = ["engine.deepspeed=zero0_fp32", f"windows={LENGTH * BATCH}", "evaluation.every=0"]
IN_FP32 += ["checkpoint.every=5", f"tracking.log_every={LOG_EVERY}", "batch.micro_batch=1"]


def disturbed_run(_: World | None, yaml: str, name: str) -> Path:
    """Train a run one of whose windows is bad; return its folder."""
    config = load_run(yaml, [f"name={name}", *IN_FP32])
    with pytest.MonkeyPatch.context() as patched:
        spoil_windows(patched, BAD_WINDOW)
        run_training(identify(config))
    return config.directory


@pytest.mark.distributed
def test_two_ranks_go_back_and_skip_as_one_does(tiny_yaml: Path, ranks: Any) -> None:
    """Only one of them sees the bad window."""
    alone = disturbed_run(None, str(tiny_yaml), "spoiled_alone")
    together = ranks.run(Path(__file__), "disturbed_run", str(tiny_yaml), "spoiled_together")
    (rollback,) = read_rollbacks(together)
    assert {"first": rollback.first, "end": rollback.end} == SKIPPED
    (expected,) = read_rollbacks(alone)
    assert rollback.step == expected.step
    assert losses(together) == pytest.approx(losses(alone), rel=1e-5)
