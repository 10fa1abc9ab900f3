"""Calls to a store that may never answer."""

import threading
from typing import Any

import pytest

from dpot_scale.checkpoints import answers


def test_a_transfer_that_moves_on_is_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part comes in time, all of it does not."""
    monkeypatch.setattr(answers, "ANSWER_SECONDS", 2.0)
    done = []

    def move(source: str, target: str, callback: Any) -> None:
        for _ in range(6):
            threading.Event().wait(0.5)
            callback.relative_update(1)
        done.append((source, target))

    answers.Answers().transfer(move, "here", "there", size=6)
    assert done == [("here", "there")]


def test_nothing_is_asked_while_what_was_given_up_may_still_write(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(answers, "ANSWER_SECONDS", 0.1)
    may_end, asked, calls = threading.Event(), [], answers.Answers()
    with pytest.raises(TimeoutError):
        calls.of(may_end.wait)
    with pytest.raises(TimeoutError):
        calls.of(asked.append, 1)
    assert not asked
    may_end.set()
    monkeypatch.setattr(answers, "ANSWER_SECONDS", 60.0)
    calls.of(asked.append, 2)
    assert asked == [2]
