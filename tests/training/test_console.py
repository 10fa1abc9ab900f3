"""What a run prints where there is no terminal."""

import threading
import time
from contextlib import closing

import pytest

from dpot_scale.training import console as console_module
from dpot_scale.training.console import Console

TRAINING = {
    "train/loss": 0.123456,
    "train/lr": 1e-3,
    "train/grad_norm": 2.0,
    "train/skipped_steps": 0,
    "perf/windows_per_second": 30.25,
}
HELD_OUT = {
    "eval/swe/rel_l2": 0.25,
    "eval/swe/one_step_rel_l2": 0.125,
    "eval/mean/rel_l2": 0.25,
}


def speak(console: Console, first_step: int = 0) -> None:
    console.start("header", first_step=first_step)
    console.progress(TRAINING, step=7)
    console.progress(HELD_OUT, step=10)
    console.close()


def test_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    speak(Console(is_main=True, total_steps=10))
    assert capsys.readouterr().out.splitlines() == [
        "header",
        "step      7/10  loss 0.1235  lr 1.00e-03  grad 2.00  30.2 windows/s",
        "step     10/10  held-out rel_l2  swe 0.2500  mean 0.2500",
    ]


def test_a_rank_is_named_where_the_others_wait_much_for_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console = Console(is_main=True, total_steps=10)
    for spread in (0.2, 0.4):
        metrics = {"time/slowest_rank": 3.0, "time/rank_spread": spread}
        console.progress(TRAINING | metrics, step=7)
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith("windows/s")
    assert second.endswith("windows/s  waits for rank 3 (40%)")


def test_skipped_steps_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(is_main=True, total_steps=10)
    console.progress(TRAINING | {"train/skipped_steps": 2}, step=7)
    without_update = {key: TRAINING[key] for key in ("train/lr", "perf/windows_per_second")}
    console.progress(without_update | {"train/skipped_steps": 3}, step=10)
    assert capsys.readouterr().out.splitlines() == [
        "step      7/10  loss 0.1235  lr 1.00e-03  grad 2.00  30.2 windows/s  2 skipped",
        "step     10/10  lr 1.00e-03  30.2 windows/s  3 skipped",
    ]


def test_a_resumed_run_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    speak(Console(is_main=True, total_steps=10), first_step=6)
    assert capsys.readouterr().out.splitlines()[1] == "resuming at step 6"


def test_other_ranks_are_silent(capsys: pytest.CaptureFixture[str]) -> None:
    speak(Console(is_main=False, total_steps=10), first_step=6)
    assert capsys.readouterr().out == ""


def test_a_terminal_gets_a_bar_and_keeps_the_scores(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    speak(Console(is_main=True, total_steps=10))
    shown = capsys.readouterr().out
    assert "step     10/10  held-out rel_l2  swe 0.2500" in shown
    assert "loss 0.1235" in shown


def test_a_run_is_never_silent_for_long(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console_module, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(console_module, "SILENT_SECONDS", 0.02)
    with closing(Console(is_main=True, total_steps=10)) as console:
        console.start("header", first_step=6)
        time.sleep(0.2)
        console.at(7, "evaluates")
        time.sleep(0.2)
        console.at(7)
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "step      6/10  trains"
    assert "step      7/10  evaluates" in lines


def test_a_step_that_compiles_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console_module, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(console_module, "SILENT_SECONDS", 0.02)
    compiling = threading.Event()
    compiling.set()
    with closing(Console(is_main=True, total_steps=10, compiles=compiling.is_set)) as console:
        console.start("header", first_step=0)
        time.sleep(0.2)
        compiling.clear()
        time.sleep(0.2)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "step      0/10  compiles"
    assert lines[-1] == "step      0/10  trains"


def test_a_bar_says_what_is_no_training(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console_module, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with closing(Console(is_main=True, total_steps=10)) as console:
        console.start("header", first_step=6)
        console.at(8, "saves")
        time.sleep(0.3)
    assert "8/10" in (shown := capsys.readouterr().out)
    assert "saves" in shown
