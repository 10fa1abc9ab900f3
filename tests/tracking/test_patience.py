"""MLflow is waited for as long as it answers."""

import itertools
import math
import threading

import pytest

from dpot_scale.tracking import patience
from dpot_scale.tracking.patience import Beat, in_time

SERVER = "http://127.0.0.1:9"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "SERVER_SECONDS", 0.3)
    monkeypatch.setattr(patience, "MOST_SECONDS", 2.0)


def test_what_is_done_or_fails_is_said() -> None:
    def fail(_: Beat) -> None:
        raise LookupError("no run")

    assert in_time(SERVER, lambda beat: beat()) is None
    assert isinstance(in_time(SERVER, fail), LookupError)


def test_silence_ends_the_wait(impatient: None) -> None:
    never = threading.Event()
    assert str(in_time(SERVER, lambda _: bool(never.wait()))) == "it does not answer"
    never.set()


def test_answers_make_it_longer_but_not_for_ever(impatient: None) -> None:
    over = threading.Event()

    def answer(beat: Beat, times: float = math.inf) -> None:
        for _ in itertools.takewhile(lambda made: made < times, itertools.count()):
            beat()
            if over.wait(0.05):
                return

    assert in_time(SERVER, lambda beat: answer(beat, 20)) is None
    assert str(in_time(SERVER, answer)) == "it does not answer"
    over.set()
