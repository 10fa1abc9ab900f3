"""Shows how far the solving of a dataset is: with a bar on a terminal, with lines elsewhere."""

import time
from collections.abc import Callable
from contextlib import ExitStack

from dpot_scale.terminal import Bars, duration, under_way

SECONDS_BETWEEN_LINES = 30.0  # and before the first


class SolvingProgress:
    """Shows how many trajectories are solved, and the time that is left.

    Args:
        name: Of the dataset.
        total: Trajectories of the dataset.
        kept: How many of them an interrupted generation left behind.
        say: Takes one line of text for the user, where there is no terminal.
    """

    def __init__(self, name: str, total: int, kept: int, say: Callable[[str], None]) -> None:
        self._name, self._total, self._kept, self._say = name, total, kept, say
        self._solved = 0
        self._started = time.monotonic()
        self._next_line = self._started + SECONDS_BETWEEN_LINES
        self._bars = Bars(stay=False)
        self._open = ExitStack()
        if not self._bars.are_drawn:
            self._open.enter_context(under_way(f"solving {name}"))
        if kept:
            say(f"{name}: {kept} of {total} trajectories are solved already")

    def add(self, number: int) -> None:
        """Count some more trajectories as solved."""
        self._solved += number
        if self._bars.are_drawn:
            self._bars.show(self._name, self._solved, self._total - self._kept, "trajectories")
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + SECONDS_BETWEEN_LINES
            self._say(self._line())

    def close(self) -> None:
        """Leave the terminal as it was found."""
        self._open.close()
        self._bars.close()

    def _line(self) -> str:
        done = self._kept + self._solved
        left = (time.monotonic() - self._started) / self._solved * (self._total - done)
        return f"{self._name}: {done} of {self._total} trajectories, {duration(left)} left"
