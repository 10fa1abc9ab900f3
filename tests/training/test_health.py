"""A signal is remembered; a second Ctrl-C ends the process."""

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from dpot_scale.engine.runtime import World, start_world
from dpot_scale.training.health import Health


@pytest.fixture(scope="module")
def world() -> World:
    return start_world()


@pytest.fixture
def health(world: World) -> Iterator[Health]:
    made = Health(world)
    yield made
    made.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_remembered(number: signal.Signals, health: Health) -> None:
    assert not health.vote().signalled
    os.kill(os.getpid(), number)
    assert health.vote().signalled
    assert health.vote().signalled, "and not forgotten"


def test_handlers_are_given_back(world: World) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    health = Health(world)
    assert signal.getsignal(signal.SIGTERM) != before[1]
    os.kill(os.getpid(), signal.SIGTERM)
    health.close()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_second_sigterm_is_the_launchers(health: Health) -> None:
    for _ in range(3):
        os.kill(os.getpid(), signal.SIGTERM)
    assert health.vote().signalled


def test_a_second_interrupt_ends_the_process(health: Health) -> None:
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_outside_the_main_thread_signals_are_left_alone(world: World) -> None:
    before = signal.getsignal(signal.SIGTERM)
    found: list[object] = []

    def in_thread() -> None:
        health = Health(world)
        found.extend([signal.getsignal(signal.SIGTERM), health.vote().signalled])
        health.close()

    thread = threading.Thread(target=in_thread)
    thread.start()
    thread.join()
    assert found == [before, False]
