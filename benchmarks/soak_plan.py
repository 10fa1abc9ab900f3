"""Which faults benchmarks/soak.py causes in a round, and when: its seed decides."""

import random
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from soak_faults import FAULTS, OF_A_LAUNCHER, OF_RAY, Planned

LAUNCHERS = ("deepspeed", "torchrun")
FAULTS_IN_A_ROUND = 3
RAY_EVERY = 4  # rounds, of which one is a trial of a sweep


class Round(NamedTuple):
    """A training, with the faults that disturb it."""

    number: int
    launcher: str  # deepspeed, torchrun or ray
    faults: tuple[Planned, ...]


class Deck:
    """Draws names: each comes once, in an order that a seed draws, before one comes again."""

    def __init__(self, seed: int, names: Sequence[str]) -> None:
        self._random, self._names = random.Random(f"{seed} {names[0]}"), names
        self._waiting: list[str] = []

    def draw(self, count: int) -> list[str]:
        """Return the next names, all of which differ."""
        drawn: list[str] = []
        while len(drawn) < count:
            name = next((one for one in self._waiting if one not in drawn), None)
            if name is None:
                self._waiting += self._random.sample(self._names, len(self._names))
            else:
                self._waiting.remove(name)
                drawn.append(name)
        return drawn

    def put_back(self, names: Iterable[str]) -> None:
        """Let some come first in the next draw."""
        self._waiting = [*names, *self._waiting]


class Plan:
    """The rounds of a soak, one after the other.

    Args:
        seed: Of the soak.
        steps: At which faults may come.
    """

    def __init__(self, seed: int, steps: range) -> None:
        self._seed, self._steps, self._number = seed, steps, 0
        self._on_ray, self._others = Deck(seed, list(OF_RAY)), Deck(seed, list(OF_A_LAUNCHER))

    def next_round(self) -> Round:
        """Return the next round."""
        number, on_ray = self._number, self._number % RAY_EVERY == 0
        self._number += 1
        names = (self._on_ray if on_ray else self._others).draw(FAULTS_IN_A_ROUND)
        draw = random.Random(f"{self._seed} {number}")
        at = sorted(draw.sample(self._steps, FAULTS_IN_A_ROUND))
        faults = tuple(
            Planned(name, step, draw.randrange(2), round(draw.uniform(1, 6), 1))
            for name, step in zip(names, at, strict=True)
        )
        return Round(number, "ray" if on_ray else draw.choice(LAUNCHERS), faults)

    def put_back(self, faults: Iterable[Planned]) -> None:
        """Let faults that were not caused come in the next round that can cause them."""
        names = [one.fault for one in faults]
        self._on_ray.put_back(name for name in names if name in OF_RAY)
        self._others.put_back(name for name in names if name in OF_A_LAUNCHER)


def is_due(planned: Planned, step: int, seconds: float) -> bool:
    """Return whether a fault comes now.

    Args:
        planned: The fault.
        step: That this attempt has recorded; -1 if it has none yet.
        seconds: Since its start.
    """
    if FAULTS[planned.fault].while_starting:
        return step < 0 and seconds >= planned.seconds
    return step >= planned.step
