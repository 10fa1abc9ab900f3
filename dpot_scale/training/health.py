"""Why a run stops: the ranks find out together."""

import enum
import signal
import threading
from types import FrameType
from typing import NamedTuple

from dpot_scale.engine.runtime import World, any_ranks


class StopReason(enum.Enum):
    """How a call of `Trainer.fit` ended."""

    FINISHED = "finished"
    SIGNAL = "stopped by a signal"
    DIVERGED = "diverged"


class Vote(NamedTuple):
    """What any of the ranks has found."""

    signalled: bool  # it was told to stop
    unreadable: bool  # it cannot read its data


class Health:
    """Watches for signals; `vote` makes one rank's finding everybody's.

    A signal is only remembered: leaving the loop on one rank alone would leave the others waiting
    in a collective. A second Ctrl-C ends the process at once. A second SIGTERM does not: where a
    scheduler signals all processes, the deepspeed launcher passes its own on to the ranks.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self._signalled = False
        # Only the main thread may set handlers; Ray runs a worker's training in another one and
        # stops it by its own means.
        in_main_thread = threading.current_thread() is threading.main_thread()
        watched = (signal.SIGINT, signal.SIGTERM) if in_main_thread else ()
        self._previous = {number: signal.signal(number, self._remember) for number in watched}

    def vote(self, *, unreadable: bool = False) -> Vote:
        """Return what any rank has found. Collective: every rank must call it."""
        return Vote(*any_ranks([self._signalled, unreadable], self.world))

    def close(self) -> None:
        """Give the signals back to whoever handled them before."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        self._signalled = True
        if number == signal.SIGINT:
            signal.signal(number, self._previous[signal.SIGINT])
