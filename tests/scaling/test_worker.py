"""What a worker of a trial does with the task it is sent. With Ray itself: tests/end_to_end."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dpot_scale.config.load import load_run
from dpot_scale.config.run import RunConfig
from dpot_scale.errors import DataError
from dpot_scale.runs import run as run_module
from dpot_scale.runs.endings import TrainingPreemptedError, TrainingStoppedError
from dpot_scale.scaling import stopping, worker
from dpot_scale.scaling.stopping import ask_to_stop, let_run
from dpot_scale.scaling.worker import PREEMPTED, TrialTask, train_trial
from dpot_scale.training.watch import never

Trained = list[dict[str, Any]]


@pytest.fixture
def task(tmp_path: Path) -> TrialTask:
    run = load_run("quickstart", [f"output={tmp_path}", "data.suite=null", "data.weights={a: 1}"])
    run.directory.mkdir(parents=True)
    return {"run": run}


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Trained:
    """The keyword arguments of every training; none takes place."""
    trained: Trained = []

    def run_training(resolved: object, **options: Any) -> SimpleNamespace:
        trained.append(options)
        return SimpleNamespace(model_dump=lambda: {"steps": 3})

    monkeypatch.setattr(run_module, "run_training", run_training)
    monkeypatch.setattr("dpot_scale.runs.resolved.identify", lambda run: run)
    return trained


def on_rank(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    context = SimpleNamespace(get_world_rank=lambda: number)
    monkeypatch.setattr(worker, "get_context", lambda: context)
    monkeypatch.setattr(worker, "_preempted", lambda: never)


def test_the_result_is_returned_and_the_run_in_mlflow_is_the_drivers(
    task: TrialTask, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_rank(0, monkeypatch)
    assert train_trial(task) == {"steps": 3}
    assert trained[0]["opens_mlflow_run"] is False


@pytest.mark.parametrize(("rank", "hears"), [(0, True), (1, False)])
def test_one_rank_hears_that_the_trial_is_to_stop(
    rank: int,
    hears: bool,
    task: TrialTask,
    trained: Trained,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The others learn of it by the vote of all ranks."""
    monkeypatch.setattr(stopping, "LOOK_SECONDS", 0.0)
    on_rank(rank, monkeypatch)
    let_run(task["run"].directory)
    train_trial(task)
    told_to_stop: Callable[[], bool] = trained[0]["told_to_stop"]
    assert not told_to_stop()
    ask_to_stop(task["run"].directory)
    assert told_to_stop() is hears


def raising(error: Exception) -> Callable[..., None]:
    def run_training(run: RunConfig, **_: object) -> None:
        raise error

    return run_training


def test_a_trial_that_was_stopped_returns_nothing(
    task: TrialTask, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not raise: at the first error Ray would kill the ranks that still end."""
    on_rank(0, monkeypatch)
    stopped = raising(TrainingStoppedError("was stopped and saved"))
    monkeypatch.setattr(run_module, "run_training", stopped)
    assert train_trial(task) is None


def test_a_trial_that_loses_its_node_says_so(
    task: TrialTask, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_rank(0, monkeypatch)
    preempted = raising(TrainingPreemptedError("was stopped and saved"))
    monkeypatch.setattr(run_module, "run_training", preempted)
    assert train_trial(task) == PREEMPTED


def test_another_error_reaches_the_driver(
    task: TrialTask, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_rank(0, monkeypatch)
    monkeypatch.setattr(run_module, "run_training", raising(DataError("a bad shard")))
    with pytest.raises(DataError, match="a bad shard"):
        train_trial(task)
