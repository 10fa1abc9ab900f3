"""Finds steps whose loss or gradient is out of all proportion to those before."""

import math
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from dpot_scale.tracking import names
from dpot_scale.tracking.spool import STEP, complete_records, values_of
from dpot_scale.training.meter import Measured

# Of so many steps the largest value counts. A mixture makes losses differ from step to step by
# more than their deviation says, so the largest is a better guide than a mean.
REMEMBERED = 200
SETTLED_AFTER = 20  # steps, in which a fresh model may do anything
RECORDS = 20  # of a spool, in place of the steps before a resume


class Spike(NamedTuple):
    """A step that is out of proportion."""

    offset: int  # of the step among those that were judged
    what: str  # the loss or the gradient norm, in words
    value: float
    largest: float  # of the steps before


class Spikes:
    """Judges the steps of a run, one after the other; the same on every rank.

    Args:
        factor: How many times the largest value before makes a spike; None: none is one.
        past: What is known of the steps before the first that will be judged.
    """

    def __init__(self, factor: float | None, past: Iterable[Measured] = ()) -> None:
        self._factor = factor
        self._past = deque(past, maxlen=REMEMBERED)

    def find(self, first_step: int, steps: Sequence[Measured]) -> Spike | None:
        """Return the first spike among steps, if there is one, and remember the steps before it.

        Args:
            first_step: The steps that the run had made before these.
            steps: They. Those that are not finite are left out: they changed nothing.
        """
        for offset, step in enumerate(steps):
            if not all(map(math.isfinite, step)):
                continue
            if first_step + offset >= SETTLED_AFTER and (found := self._judge(offset, step)):
                return found
            self._past.append(step)
        return None

    def _judge(self, offset: int, step: Measured) -> Spike | None:
        if self._factor is None or not self._past:
            return None
        largest = [max(values) for values in zip(*self._past, strict=True)]
        for what, value, most in zip(("loss", "gradient norm"), step, largest, strict=True):
            if value > self._factor * most:
                return Spike(offset, what, value, most)
        return None


def recorded_steps(spool: Path, step: int) -> list[Measured]:
    """Return what a spool says of the steps up to a step, as means of its newest intervals.

    Records that a rollback has undone are left out.
    """
    kept: list[tuple[int, Measured]] = []
    for record in complete_records(spool, 0)[0]:
        values = values_of(record)
        if names.LOSS not in values or record[STEP] > step:
            continue
        while kept and kept[-1][0] >= record[STEP]:
            kept.pop()
        kept.append((record[STEP], Measured(values[names.LOSS], values[names.GRADIENT_NORM])))
    return [measured for _, measured in kept[-RECORDS:]]
