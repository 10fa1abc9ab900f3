"""MLflow is waited for as long as it answers."""

import threading
import time

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
    def wait(_: Beat) -> None:
        threading.Event().wait(60)

    begun = time.monotonic()
    assert str(in_time(SERVER, wait)) == "it does not answer"
    assert time.monotonic() - begun < 2


def test_answers_make_it_longer_but_not_for_ever(impatient: None) -> None:
    def answer(beat: Beat, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            beat()
            time.sleep(0.05)

    assert in_time(SERVER, lambda beat: answer(beat, 0.8)) is None
    begun = time.monotonic()
    assert in_time(SERVER, lambda beat: answer(beat, 60)) is not None
    assert 1 < time.monotonic() - begun < 10
