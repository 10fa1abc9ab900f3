"""A sweep on a disk that is full, or that takes nothing more."""

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dpot_scale.config.places import JOURNAL
from dpot_scale.errors import DiskError
from dpot_scale.runs.result import read_result
from dpot_scale.scaling import stopping
from dpot_scale.scaling.endings import AttemptFailedError
from dpot_scale.scaling.journal import Journal
from dpot_scale.scaling.plan import Trial
from dpot_scale.scaling.stopping import STOP_FILE, ask_to_stop, let_run, listen
from tests.results import finish
from tests.scaling.idle_workers import control, designed

BLOCK = 4096
FULL = "No space left on device; "
TWO = ({"ladder": {"a": {"width": 32}}}, {"seeds": [0, 1]})


def fill(disk: Path) -> None:
    """Leave no room at all, and none behind the end of a journal, which takes whole blocks."""
    for journal in disk.rglob(JOURNAL):
        with journal.open("a") as file:
            file.write("\n" * (BLOCK - journal.stat().st_size % BLOCK))
    with (disk / "rest").open("ab", buffering=0) as rest:
        while free := shutil.disk_usage(disk).free:
            rest.write(bytes(free))


def events(folder: Path) -> list[str]:
    return [entry.event for entry in Journal(folder).entries()]


def test_a_trial_that_is_finished_has_not_failed_because_a_full_disk_takes_no_entry(
    small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(trial: Trial, _: int) -> bool:
        finish(trial)
        fill(small_disk)
        return True

    controller, _ = control(designed(small_disk, TWO[0]), 1, train)
    (trial,) = controller.trials
    assert controller.run() == {}
    assert read_result(trial.run.directory) is not None
    assert events(controller.sweep.directory) == ["started"]
    said = f"{trial.id}: finished, which is not recorded: cannot write "
    (line,) = [one for one in capsys.readouterr().out.splitlines() if one.startswith(said)]
    assert FULL in line
    assert controller.run() == {}, "submitted again"


def test_a_trial_that_fails_on_a_full_disk_says_why_it_failed(small_disk: Path) -> None:
    def train(*_: object) -> bool:
        fill(small_disk)
        raise AttemptFailedError("the reason", is_final=True)

    controller, _ = control(designed(small_disk, TWO[0]), 1, train)
    assert list(controller.run().values()) == ["the reason"]
    assert events(controller.sweep.directory) == ["started"]


def test_what_begins_on_a_full_disk_fails_with_one_sentence_and_is_begun_again(
    small_disk: Path,
) -> None:
    begun: list[str] = []

    def train(trial: Trial, _: int) -> bool:
        begun.append(trial.id)
        finish(trial)
        if len(begun) == 1:
            fill(small_disk)
        return True

    sweep = designed(small_disk, *TWO)
    first, _ = control(sweep, 1, train)
    failures = first.run()
    assert len(begun) == 1
    ((failed, sentence),) = failures.items()
    assert sentence.startswith(f"cannot write {first.sweep.directory}")
    assert FULL in sentence
    (small_disk / "rest").unlink()
    second, _ = control(sweep, 1, train)
    assert second.run() == {}
    assert begun[1:] == [failed]


def test_a_trial_is_not_begun_where_it_cannot_be_stopped(small_disk: Path) -> None:
    fill(small_disk)
    with pytest.raises(DiskError, match=FULL):
        let_run(small_disk)


def test_a_full_disk_lets_a_trial_be_asked_to_save(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "LOOK_SECONDS", 0.0)
    let_run(small_disk)
    fill(small_disk)
    asked = listen(small_disk)
    assert not asked()
    ask_to_stop(small_disk)
    assert asked()


def take_no_more(disk: Path) -> None:
    """Let a disk be read alone, as one that had an error."""
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)


def wait_until(is_so: Callable[[], bool]) -> None:
    ends = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < ends
        time.sleep(0.01)


def test_a_trial_that_cannot_be_asked_to_save_keeps_no_other_from_it(
    small_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both, saved = threading.Barrier(2), threading.Event()
    sweep = designed(tmp_path, *TWO)

    def train(trial: Trial, _: int) -> bool:
        both.wait(60)
        if trial is deaf:
            take_no_more(small_disk)
            os.kill(os.getpid(), signal.SIGINT)
            assert saved.wait(60)
        else:
            wait_until(listen(trial.run.directory))
            saved.set()
        return False

    controller, _ = control(sweep, 2, train)
    deaf, _ = controller.trials
    deaf.run.directory.parent.mkdir(parents=True)
    deaf.run.directory.symlink_to(small_disk, target_is_directory=True)
    with pytest.raises(KeyboardInterrupt):
        controller.run()
    assert events(sweep.directory) == ["started"] * 2 + ["interrupted"] * 2
    said = f"{deaf.id} cannot be asked to save: cannot write {deaf.run.directory / STOP_FILE}: "
    assert f"{said}Read-only file system\n" in capsys.readouterr().out


def test_an_interrupt_ends_the_workers_also_where_it_cannot_be_recorded(
    small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(trial: Trial, _: int) -> bool:
        os.kill(os.getpid(), signal.SIGINT)
        wait_until(listen(trial.run.directory))
        take_no_more(small_disk)
        os.kill(os.getpid(), signal.SIGINT)
        assert launcher.abandoned.wait(60)
        raise AttemptFailedError("the cluster was shut down", is_final=False)

    controller, launcher = control(designed(small_disk, TWO[0]), 1, train)
    with pytest.raises(KeyboardInterrupt):
        controller.run()
    (trial,) = controller.trials
    assert events(controller.sweep.directory) == ["started"]
    assert f"{trial.id}: interrupted, which is not recorded: " in capsys.readouterr().out
