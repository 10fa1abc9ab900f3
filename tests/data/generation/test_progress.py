"""What is said while a dataset is solved."""

import pytest

from dpot_scale.data.generation import progress as progress_module
from dpot_scale.data.generation.progress import SolvingProgress


def test_lines_say_how_many_are_solved_and_the_time_that_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now)
    lines: list[str] = []
    shown = SolvingProgress("smoke", 50, 10, lines.append)
    for _ in range(20):  # a trajectory in four seconds
        now += 4.0
        shown.add(1)
    shown.close()
    assert lines == [
        "smoke: 10 of 50 trajectories are solved already",
        "smoke: 18 of 50 trajectories, 2.1 min left",
        "smoke: 26 of 50 trajectories, 96 s left",
    ]


def test_what_is_short_is_silent() -> None:
    lines: list[str] = []
    shown = SolvingProgress("smoke", 3, 0, lines.append)
    shown.add(3)
    shown.close()
    assert lines == []
