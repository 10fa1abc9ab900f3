"""How trials are packed, branched, cancelled and remembered, on workers that train nothing."""

import itertools
import json
import multiprocessing
import threading
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dpot_scale.checkpoints.checkpoint import checkpoint_name, examine, newest_intact
from dpot_scale.config.identity import identity
from dpot_scale.config.load import load_sweep
from dpot_scale.config.places import CHECKPOINTS, MARKER, resolve_sweep_paths
from dpot_scale.config.sweep import ResourcesConfig
from dpot_scale.errors import ConfigError
from dpot_scale.scaling import elastic
from dpot_scale.scaling import launcher as launcher_module
from dpot_scale.scaling.branching import begin_at_trunk
from dpot_scale.scaling.cluster import Cluster
from dpot_scale.scaling.controller import Controller
from dpot_scale.scaling.endings import (
    AttemptFailedError,
    Ended,
    TrialCancelledError,
    TrialInterruptedError,
)
from dpot_scale.scaling.fitting import MARGIN, Node
from dpot_scale.scaling.journal import Journal
from dpot_scale.scaling.plan import Trial, plan
from dpot_scale.scaling.progress import TrialProgress
from dpot_scale.scaling.speeds import SPEEDS
from dpot_scale.scaling.stopping import CANCEL_FILE, cancel, listen
from dpot_scale.tracking.mlflow_run import MlflowRun
from tests.results import finish
from tests.scaling.idle_workers import NO_SERVICES, FakeLauncher, control, designed


@pytest.fixture
def controller(tmp_path: Path) -> Controller:
    sweep = resolve_sweep_paths(load_sweep("quickstart", NO_SERVICES), tmp_path)
    sweep.directory.mkdir(parents=True)
    trials = plan(sweep)[:3]
    for trial in trials:
        trial.run.directory.mkdir(parents=True)
    mlflow_run = MlflowRun(sweep.directory, sweep, sweep.run.tracking, name=sweep.name)
    launcher = FakeLauncher(1, lambda *_: True)
    return Controller(
        sweep=sweep, trials=trials, parent_run=mlflow_run, launcher=launcher, say=print
    )


def events(controller: Controller, number: int = 0) -> list[str]:
    trial = controller.trials[number].id
    entries = Journal(controller.sweep.directory).entries()
    return [entry.event for entry in entries if entry.trial == trial]


def test_what_an_interrupt_breaks_has_not_failed(
    controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted_while_it_trains(*_: object) -> bool:
        controller._recorder.interrupt(controller.trials)
        raise AttemptFailedError("the cluster was shut down", is_final=False)

    monkeypatch.setattr(controller, "_fit", interrupted_while_it_trains)
    with pytest.raises(TrialInterruptedError):
        controller._attempt_until_done(controller.trials[0])
    assert events(controller) == ["started", "interrupted"]


def test_what_ends_with_the_interrupt_is_finished(
    controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted_at_the_end(*_: object) -> bool:
        controller._recorder.interrupt(controller.trials)
        return True

    monkeypatch.setattr(controller, "_fit", interrupted_at_the_end)
    controller._attempt_until_done(controller.trials[0])
    assert events(controller) == ["started", "interrupted", "finished"]


def test_a_trial_that_was_told_to_stop_is_interrupted(
    controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controller, "_fit", lambda *_: False)
    with pytest.raises(TrialInterruptedError, match="saved"):
        controller._attempt_until_done(controller.trials[0])
    assert events(controller) == ["started", "interrupted"]


def test_an_attempt_that_fails_while_all_stop_is_interrupted_and_not_repeated(
    controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    def signalled_as_the_driver_is(*_: object) -> bool:
        controller._stopping.set()
        raise AttemptFailedError("a worker died", is_final=False)

    monkeypatch.setattr(controller, "_fit", signalled_as_the_driver_is)
    with pytest.raises(TrialInterruptedError):
        controller._attempt_until_done(controller.trials[0])
    assert events(controller) == ["started", "interrupted"]


def test_an_attempt_whose_directory_is_held_is_repeated_after_a_while(
    controller: Controller, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    began = []

    def held_once(*_: object) -> bool:
        began.append(time.monotonic())
        if len(began) == 1:
            raise AttemptFailedError("another process trains", is_final=False, pause=0.6)
        return True

    monkeypatch.setattr(controller, "_fit", held_once)
    controller._attempt_until_done(controller.trials[0])
    assert events(controller) == ["started", "failed", "started", "finished"]
    assert began[1] - began[0] >= 0.6
    assert "(another process trains); trying again in 1 s" in capsys.readouterr().out


def test_a_trial_that_is_cancelled_before_it_is_repeated_is_not_waited_for(
    controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = controller.trials[0]

    def held(*_: object) -> bool:
        cancel(trial.run.directory)
        raise AttemptFailedError("another process trains", is_final=False, pause=600)

    monkeypatch.setattr(controller, "_fit", held)
    with pytest.raises(TrialCancelledError):
        controller._attempt_until_done(trial)
    assert events(controller) == ["started", "failed", "cancelled"]


def test_the_plan_is_shown_anew_where_the_cluster_has_gpus(
    controller: Controller, capsys: pytest.CaptureFixture[str]
) -> None:
    """That of the trials that run."""
    controller._settle(ResourcesConfig(gpus_per_worker=1))
    shown = capsys.readouterr().out
    assert "3 trials of 2 GPU workers each" in shown
    assert all(trial.id in shown for trial in controller.trials)


def test_nothing_starts_once_all_stop(controller: Controller) -> None:
    controller._stopping.set()
    with pytest.raises(TrialInterruptedError):
        controller._attempt_until_done(controller.trials[0])
    assert events(controller) == []


def test_a_bug_is_raised_when_the_others_have_ended(
    controller: Controller, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mistake = ConfigError("a mistake of the user")

    def fit(trial: Any, *_: object) -> bool:
        if trial is controller.trials[2]:
            raise AssertionError
        if trial is controller.trials[1]:
            raise mistake
        return True

    monkeypatch.setattr(controller, "_fit", fit)
    with pytest.raises(AssertionError):
        controller._run_all(controller.trials, 1, Ended())
    lines = capsys.readouterr().out.splitlines()
    endings = [line.split(": ", 1)[1] for line in lines]
    assert endings == ["failed: AssertionError", "failed: a mistake of the user", "finished"]
    assert events(controller, 0) == ["started", "finished"]


HUNDREDS = (
    {"grid": {"run.optim.lr": [1e-3, 2e-3, 3e-3, 4e-3, 5e-3]}},
    {"windows": [800, 1600]},
    {"seeds": [0, 1, 2, 3, 4]},
)


def test_hundreds_of_trials_are_packed_the_largest_first(tmp_path: Path) -> None:
    together = threading.Barrier(8)

    def train(trial: Trial, _: int) -> bool:
        if len(launcher.begun) <= 8:
            together.wait(60)
        return finish(trial)

    controller, launcher = control(designed(tmp_path, *HUNDREDS), 8, train)
    assert len(controller.trials) == 200
    assert controller.run() == {}
    assert launcher.most == 8
    assert sorted(launcher.begun) == sorted(trial.id for trial in controller.trials)
    seconds = {trial.id: trial.seconds for trial in controller.trials}
    largest_first = sorted(seconds.values(), reverse=True)
    # Threads that begin at the same moment may do so in any order.
    latest = largest_first[8:] + 8 * [0.0]
    assert all(seconds[trial] >= least for trial, least in zip(launcher.begun, latest, strict=True))
    ends = [e.trial for e in Journal(controller.sweep.directory).entries() if e.event != "started"]
    assert sorted(ends) == sorted(launcher.begun)


def test_trials_that_the_nodes_cannot_hold_together_take_turns(tmp_path: Path) -> None:
    """Cores alone would let all of them begin, and the system would kill some."""
    sweep = designed(tmp_path, {"seeds": [0, 1, 2, 3, 4, 5]}, SMALL)
    controller, launcher = control(sweep, 6, lambda trial, _: time.sleep(0.1) or finish(trial))
    gib = 2 * sum(trial.worker_gib for trial in controller.trials[:2]) / MARGIN + 0.01
    node = Node(cpus=64, gpus=0, gib=gib, gpu_gib=None)
    launcher.cluster = replace(launcher.cluster, nodes=[node])
    assert controller.run() == {}
    assert launcher.most == 2
    assert len(launcher.begun) == 6


def test_a_speed_that_cannot_be_noted_fails_no_trial(tmp_path: Path) -> None:
    controller, _ = control(designed(tmp_path, SMALL), 1, lambda trial, _: finish(trial))
    (controller.sweep.run.output / SPEEDS).mkdir()
    assert controller.run() == {}


def test_a_killed_controller_is_continued_where_it_was(tmp_path: Path) -> None:
    """By the next one, which trains nothing twice and counts the attempts of both."""

    def train(trial: Trial, _: int) -> bool:
        time.sleep(0.02)
        return finish(trial)

    sweep = designed(tmp_path, *HUNDREDS)
    first, _ = control(sweep, 4, train)
    driver = multiprocessing.get_context("fork").Process(target=first.run)
    driver.start()
    results = sweep.directory / "trials"
    while len(list(results.glob("*/result.json"))) < 40:
        time.sleep(0.01)
    driver.kill()
    driver.join()
    done = {path.parent.name for path in results.glob("*/result.json")}
    assert 40 <= len(done) < 200

    second, launcher = control(sweep, 4, train)
    assert second.run() == {}
    assert not done & set(launcher.begun)
    entries = Journal(sweep.directory).entries()
    cut = {e.trial for e in entries if e.event == "started"} - done - set(launcher.begun)
    assert cut == set()
    attempts = {e.trial: e.attempt for e in entries if e.event == "finished"}
    assert len(attempts.keys() | done) == 200
    assert set(attempts.values()) <= {1, 2}


COOLDOWN = {"cooldown": {"trunk": 800, "at": [320, 480]}}
SMALL = {"ladder": {"a": {"width": 32}}}


def commit(trial: Trial, step: int) -> None:
    """Leave a checkpoint of a step, as far as a branch looks at it."""
    folder = trial.run.directory / "checkpoints" / f"step_{step:06d}"
    folder.mkdir(parents=True)
    (folder / "shard").write_bytes(b"weights")
    marker = {
        "format": 3,
        "step": step,
        "world_size": 2,
        "identity": identity(trial.run, trial.contents),
        "files": {"shard": examine(folder / "shard").model_dump()},
    }
    (folder / "COMMITTED.json").write_text(json.dumps(marker))


def test_a_branch_begins_when_its_trunk_has_committed_its_step(tmp_path: Path) -> None:
    begun = {number: threading.Event() for number in (320, 480)}

    def train(trial: Trial, _: int) -> bool:
        if trial.after is None:
            for windows, event in begun.items():
                assert not event.is_set()
                (step,) = [t.after.step for t in trials if t.after and t.run.windows == windows]
                commit(trial, step)
                assert event.wait(30), "it begins while the trunk trains"
            return finish(trial)
        newest = newest_intact(trial.run.directory / "checkpoints")
        assert newest is not None
        assert newest.state.step == trial.after.step
        assert newest.marker.identity == identity(trial.run, trial.contents)
        begun[trial.run.windows].set()
        return finish(trial)

    controller, launcher = control(designed(tmp_path, SMALL, COOLDOWN), 3, train)
    trials = controller.trials
    assert controller.run() == {}
    order = {trial.id: trial.run.windows for trial in trials}
    assert [order[trial] for trial in launcher.begun] == [800, 320, 480]


def test_a_branch_has_the_curve_of_its_trunk_but_not_what_that_reached(tmp_path: Path) -> None:
    sweep = designed(tmp_path, SMALL, COOLDOWN)
    trials = plan(sweep)
    trunk = next(trial for trial in trials if trial.after is None)
    branch = next(trial for trial in trials if trial.after is not None)
    assert branch.after is not None
    commit(trunk, branch.after.step)
    recorded = [
        {"step": 0, "time": 1.0, "model/params": 7.0},
        {"step": 1, "time": 2.0, "train/loss": 0.5},
        {"step": trunk.run.steps, "time": 3.0, "train/loss": 0.25},
        {"step": 0, "time": 4.0, "final/rel_l2": 0.125, "time/seconds": 9.0},  # at its end
    ]
    spool = "".join(f"{json.dumps(record)}\n" for record in recorded)
    (trunk.run.directory / "metrics.jsonl").write_text(spool)
    begin_at_trunk(branch, ResourcesConfig(workers=2, gpus_per_worker=0), lambda _: None)
    taken = (branch.run.directory / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in taken] == recorded[:2]


def test_a_branch_is_alone_where_its_trunk_has_no_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The trunk was trained before the branch was thought of."""
    controller, launcher = control(
        designed(tmp_path, SMALL, COOLDOWN), 1, lambda trial, _: finish(trial)
    )
    assert controller.run() == {}
    assert len(launcher.begun) == 3
    assert capsys.readouterr().out.count("has no checkpoint to begin at; begins at step 0") == 2


def test_a_branch_that_cannot_take_a_checkpoint_has_failed_with_that_reason(tmp_path: Path) -> None:
    def train(trial: Trial, _: int) -> bool:
        if trial.after is None:
            commit(trial, 60)
            (marker,) = (trial.run.directory / "checkpoints").glob("*/COMMITTED.json")
            marker.write_text(marker.read_text().replace('"format": 3', '"format": 300'))
        return finish(trial)

    controller, launcher = control(designed(tmp_path, SMALL, COOLDOWN), 1, train)
    failures = controller.run()
    branches = [trial.id for trial in controller.trials if trial.after is not None]
    assert sorted(failures) == sorted(branches)
    assert not set(branches) & set(launcher.begun)
    for branch in branches:
        last = Journal(controller.sweep.directory).last(branch)
        assert last is not None
        assert (last.event, last.reason) == ("failed", failures[branch])


def test_the_branches_of_a_trunk_that_failed_are_left_out_with_the_reason(tmp_path: Path) -> None:
    def train(*_: object) -> bool:
        raise AttemptFailedError("the loss is not finite", is_final=True)

    controller, launcher = control(designed(tmp_path, SMALL, COOLDOWN), 2, train)
    failures = controller.run()
    (trunk,) = [trial for trial in controller.trials if trial.after is None]
    assert launcher.begun == [trunk.id]
    assert failures[trunk.id] == "the loss is not finite"
    for trial in controller.trials:
        if trial is not trunk:
            assert failures[trial.id] == f"its trunk {trunk.id} failed: the loss is not finite"
            last = Journal(controller.sweep.directory).last(trial.id)
            assert last is not None
            assert (last.event, last.reason) == ("failed", failures[trial.id])


def test_the_branches_of_a_trunk_that_was_cancelled_are_left_out_by_later_submissions_too(
    tmp_path: Path,
) -> None:
    sweep = designed(tmp_path, SMALL, COOLDOWN)
    (trunk,) = [trial for trial in plan(sweep) if trial.after is None]
    trunk.run.directory.mkdir(parents=True)
    cancel(trunk.run.directory)
    for _ in range(2):
        controller, launcher = control(sweep, 2, lambda trial, _: finish(trial))
        reason = f"its trunk {trunk.id} was cancelled"
        assert set(controller.run().values()) == {reason}
        assert launcher.begun == []
    for branch in controller.trials[:2]:
        last = Journal(sweep.directory).last(branch.id)
        assert last is not None
        assert last.reason == reason


def test_cancelled_trials_save_or_do_not_begin(tmp_path: Path) -> None:
    def train(trial: Trial, _: int) -> bool:
        assert trial is largest
        for other in (trial, waiting):
            cancel(other.run.directory)
        told_to_stop = listen(trial.run.directory)
        while not told_to_stop():
            time.sleep(0.01)
        return False

    sweep = designed(tmp_path, {"windows": [800, 1600]}, SMALL)
    controller, launcher = control(sweep, 1, train)
    waiting, largest = controller.trials
    assert controller.run() == {}
    assert launcher.begun == [largest.id]
    assert events(controller, 1) == ["started", "cancelled"]
    assert events(controller, 0) == ["cancelled"]
    again, launcher = control(sweep, 1, train)
    assert again.run() == {}
    assert launcher.begun == []
    for trial in controller.trials:
        (trial.run.directory / CANCEL_FILE).unlink()
    taken_back, launcher = control(sweep, 1, lambda trial, _: finish(trial))
    assert taken_back.run() == {}
    assert launcher.begun == [largest.id, waiting.id]


def test_a_trial_that_waits_for_room_can_be_cancelled(tmp_path: Path) -> None:
    """It has not begun, so it costs no attempt, and the others go on."""

    class Full(FakeLauncher):
        def wait_for_room(self, sizes: Sequence[int], *asked: Any) -> int | None:
            if len(self.begun) == 0:
                cancel(largest.run.directory)
            return super().wait_for_room(sizes, *asked)

    sweep = designed(tmp_path, {"windows": [800, 1600]}, SMALL)
    controller, _ = control(sweep, 1, lambda trial, _: finish(trial))
    smaller, largest = controller.trials
    launcher = Full(1, lambda trial, _: finish(trial))
    controller.launcher = launcher
    assert controller.run() == {}
    assert launcher.begun == [smaller.id]
    assert events(controller, 1) == ["cancelled"]
    assert Journal(sweep.directory).attempts(largest.id) == 0


def test_a_trial_goes_on_with_fewer_workers_and_then_with_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither is a failure, nor counts among the preemptions, as it gets on in between."""
    monkeypatch.setattr(elastic, "STEADY_SECONDS", 0.0)
    monkeypatch.setattr(elastic, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(TrialProgress, "seconds_left", lambda *_: 3600.0)
    steps = itertools.count()
    monkeypatch.setattr(TrialProgress, "step", lambda *_: next(steps))
    settings = ["max_preemptions=0", "resources={workers: [1, 2], gpus_per_worker: 0}"]
    sweep = designed(tmp_path, SMALL, settings=settings)

    class Shrinking(FakeLauncher):
        def wait_for_room(self, sizes: Sequence[int], *_: object) -> int | None:
            assert sizes == (2, 1)
            return 1 if len(self.begun) == 1 else 2

    def train(trial: Trial, attempt: int) -> bool:
        if attempt == 1:
            saved = trial.run.directory / CHECKPOINTS / checkpoint_name(1)
            saved.mkdir(parents=True)
            (saved / MARKER).touch()
            raise AttemptFailedError("a node is gone", is_final=False, is_preemption=True)
        if attempt == 2:
            launcher.free = 1
            told_to_stop = listen(trial.run.directory)
            while not told_to_stop():
                time.sleep(0.01)
            return False
        return finish(trial)

    launcher = Shrinking(1, train)
    launcher.cluster = replace(launcher.cluster, resources=sweep.resources)
    mlflow_run = MlflowRun(sweep.directory, sweep, sweep.run.tracking, name=sweep.name)
    controller = Controller(
        sweep=sweep, trials=plan(sweep), parent_run=mlflow_run, launcher=launcher, say=print
    )
    assert controller.run() == {}
    assert launcher.workers == [2, 1, 2]
    more = "there is room for 2 workers"
    assert [
        (entry.event, entry.workers, entry.reason) for entry in Journal(sweep.directory).entries()
    ] == [
        ("started", 2, ""),
        ("resized", None, "a node is gone"),
        ("started", 1, "a node is gone"),
        ("resized", None, more),
        ("started", 2, more),
        ("finished", None, ""),
    ]
    said = capsys.readouterr().out
    assert "starting 1 of 1-2 workers" in said
    assert f"{more}; it has saved, and begins again with them" in said
    assert "failed" not in said


def test_what_a_killed_driver_left_of_ray_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = designed(tmp_path, SMALL)
    cluster = Cluster(resources=ResourcesConfig(gpus_per_worker=0), trials=1)
    monkeypatch.setattr(launcher_module, "join_cluster", lambda _: nullcontext(cluster))
    left = sweep.directory / "ray" / "trial_1_123"
    left.mkdir(parents=True)
    with launcher_module.ray_launcher(sweep):
        assert not left.exists()
        left.mkdir(parents=True)
    assert not (sweep.directory / "ray").exists()
    assert sweep.directory.exists()
