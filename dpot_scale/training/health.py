"""Why a run stops: the ranks find out together."""

import enum
import signal
import threading
from collections.abc import Callable
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
    save_due: bool  # the time between two checkpoints is over by its clock


def never() -> bool:
    """Tell nobody to stop."""
    return False


class Signals:
    """Remembers that Ctrl-C or SIGTERM asked this process to stop, until it is closed.

    A second Ctrl-C ends the process at once. A second SIGTERM does not: where a scheduler signals
    all processes, the deepspeed launcher passes its own on to the ranks.
    """

    def __init__(self) -> None:
        self.received = False
        # Only the main thread may set handlers.
        in_main_thread = threading.current_thread() is threading.main_thread()
        watched = (signal.SIGINT, signal.SIGTERM) if in_main_thread else ()
        self._previous = {number: signal.signal(number, self._remember) for number in watched}

    def close(self) -> None:
        """Give the signals back to whoever handled them before."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        self.received = True
        if number == signal.SIGINT:
            signal.signal(number, self._previous[signal.SIGINT])


class Health:
    """Watches for what ends a run; `vote` makes one rank's finding everybody's.

    A signal is only remembered: leaving the loop on one rank alone would leave the others waiting
    in a collective.

    Args:
        world: The ranks.
        told_to_stop: Whether somebody else wants this rank to stop. A worker of Ray needs it: it
            trains outside the main thread, where no signal arrives.
    """

    def __init__(self, world: World, told_to_stop: Callable[[], bool] = never) -> None:
        self.world = world
        self._told_to_stop = told_to_stop
        self._signals = Signals()

    def vote(self, *, unreadable: bool = False, save_due: bool = False) -> Vote:
        """Return what any rank has found. Collective: every rank must call it."""
        signalled = self._signals.received or self._told_to_stop()
        return Vote(*any_ranks([signalled, unreadable, save_due], self.world))

    def close(self) -> None:
        """Give the signals back to whoever handled them before."""
        self._signals.close()
