"""A signal is remembered, a second Ctrl-C ends the process, and what one rank finds all learn."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dpot_scale.engine.runtime import World, start_world
from dpot_scale.training.watch import WARNINGS, Findings, Stop, Watch, sigterm_interrupts


@pytest.fixture(scope="module")
def world() -> World:
    return start_world()


@pytest.fixture
def watch(world: World) -> Iterator[Watch]:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # `nohup` has these tests ignore it
    made = Watch(world)
    yield made
    made.close()
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, *WARNINGS])
def test_a_signal_is_remembered(number: signal.Signals, watch: Watch) -> None:
    assert watch.vote().stop is Stop.NO
    os.kill(os.getpid(), number)
    assert watch.vote().stop.name == number.name
    assert watch.vote().stop.name == number.name, "and not forgotten"
    assert watch.vote().stop.tag() == "signal"


def test_warnings_end_nothing_and_sigterm_after_them_is_the_first(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slurm sends SIGTERM minutes after SIGUSR1, and SIGXCPU comes each second."""
    monkeypatch.setattr("dpot_scale.training.watch.ECHO_SECONDS", 0.0)
    for number in (*WARNINGS, *WARNINGS, signal.SIGTERM, *WARNINGS):
        os.kill(os.getpid(), number)
    assert watch.vote().stop is Stop.SIGTERM


def test_a_hangup_that_is_ignored_is_left_so(world: World) -> None:
    """As `nohup` starts a process."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with closing(Watch(world)) as watch:
            os.kill(os.getpid(), signal.SIGHUP)
            assert watch.vote().stop is Stop.NO
    finally:
        signal.signal(signal.SIGHUP, before)


def test_handlers_are_given_back(world: World) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    watch = Watch(world)
    assert signal.getsignal(signal.SIGTERM) != before[1]
    os.kill(os.getpid(), signal.SIGTERM)
    watch.close()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_second_sigterm_is_the_launchers(watch: Watch) -> None:
    for _ in range(3):
        os.kill(os.getpid(), signal.SIGTERM)
    assert watch.vote().stop is Stop.SIGTERM


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_another_signal_after_a_while_ends_the_process(
    first: signal.Signals, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As whoever handled it before does: here pytest, by an exception."""
    monkeypatch.setattr("dpot_scale.training.watch.ECHO_SECONDS", 0.0)
    monkeypatch.setitem(watch._signals._previous, first, signal.default_int_handler)
    os.kill(os.getpid(), first)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), first)
    monkeypatch.undo()


def test_where_no_steps_are_made_sigterm_interrupts_once(world: World) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with sigterm_interrupts("it was stopped"):
        with closing(Watch(world)) as watch:
            os.kill(os.getpid(), signal.SIGTERM)
            assert watch.vote().stop is Stop.SIGTERM
        with pytest.raises(KeyboardInterrupt, match="it was stopped"):
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # the launcher's: ignored while the rank ends
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    signal.signal(signal.SIGTERM, before)
    with sigterm_interrupts("it was stopped"):
        pass
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_preemption_and_the_clock_stop_a_run(world: World) -> None:
    now = time.monotonic()
    for told, preempted, ends, expected in (
        (False, False, now + 3600, Stop.NO),
        (False, False, now, Stop.WALL_CLOCK),
        (True, False, now, Stop.WALL_CLOCK),
        (True, True, now, Stop.PREEMPTED),
    ):
        with closing(Watch(world, partial(bool, told), partial(bool, preempted), ends)) as watch:
            assert watch.vote().stop is expected


def test_a_second_interrupt_ends_the_process(watch: Watch) -> None:
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_outside_the_main_thread_signals_are_left_alone(world: World) -> None:
    before = signal.getsignal(signal.SIGTERM)
    found: list[object] = []

    def in_thread() -> None:
        watch = Watch(world)
        found.extend([signal.getsignal(signal.SIGTERM), watch.vote().stop])
        watch.close()

    thread = threading.Thread(target=in_thread)
    thread.start()
    thread.join()
    assert found == [before, Stop.NO]


def findings(world: World) -> dict[str, list[Findings]]:
    """What the watch of rank 0 says, step by step, where rank 1 has something to say."""
    said: dict[str, list[Findings]] = {}
    is_other = world.rank == 1
    with closing(Watch(world)) as watch:
        # A wish for a checkpoint, in the second step alone.
        wishes = [is_other and step == 1 for step in range(4)]
        said["late"] = [watch.vote(save_due=wish) for wish in wishes]
        said["settled"] = [watch.vote(save_due=is_other, settle=True)]
    with closing(Watch(world)) as watch:
        ends = [None, 1 if is_other else None, 1 if is_other else 2]
        said["data"] = [watch.vote(unreadable_since=since) for since in ends]
    with closing(Watch(world, lambda: is_other)) as watch:
        said["told"] = [watch.vote(), watch.vote()]
    return said


@pytest.mark.distributed
def test_what_one_rank_finds_all_know_a_step_later_or_at_once_where_it_matters(ranks: Any) -> None:
    said = ranks.run(Path(__file__), "findings")
    nothing, save = Findings(), Findings(save_due=True)
    assert said["late"] == [nothing, nothing, save, nothing]
    assert said["settled"] == [save]
    assert said["data"] == [nothing, nothing, Findings(unreadable_since=1)]
    assert said["told"] == [nothing, Findings(stop=Stop.TOLD)]
