"""What ends a run or asks for a checkpoint: the ranks find out together, and never wait."""

import contextlib
import enum
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist

from dpot_scale.engine.runtime import World, host_group
from dpot_scale.training.launchers import Launchers

# So many steps after it was begun the result of a vote is read, unless it is needed at once. Until
# then the ranks have exchanged it, in the background.
LATE = 1
NEVER = 2**62  # later than any step
# Where a scheduler signals all processes, the deepspeed launcher passes its own signal on to the
# ranks: so soon after the first one, another SIGTERM is an echo of it.
ECHO_SECONDS = 5.0
# What comes ahead of SIGTERM, some of it again and again: a connection that broke, what `sbatch
# --signal` and others send before the time is over, and a limit of CPU seconds.
WARNINGS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)


class Verdict(enum.Enum):
    """Whether a run goes on after a step, and if not, why it ends."""

    CONTINUE = "continue"
    FINISHED = "finished"
    STOPPED = "stopped"
    DIVERGED = "diverged"  # whoever called the loop may go back to a checkpoint


class Stop(enum.IntEnum):
    """Why a run is to save and end. Of what several ranks have found, the largest counts."""

    NO = 0
    TOLD = 1
    WALL_CLOCK = 2
    PREEMPTED = 3
    ORPHANED = 4
    SIGHUP = 5
    SIGUSR1 = 6
    SIGUSR2 = 7
    SIGXCPU = 8
    SIGINT = 9
    SIGTERM = 10

    def words(self) -> str:
        """Return what stopped a run, behind "was stopped"."""
        return {
            Stop.NO: "",
            Stop.TOLD: "as it was told",
            Stop.WALL_CLOCK: "by limits.wall_clock",
            Stop.PREEMPTED: "because its node is about to be taken away",
            Stop.ORPHANED: "because its launcher was killed",
        }.get(self, f"by {self.name}")

    def tag(self) -> str:
        """Return in one word what stopped a run."""
        return "signal" if self >= Stop.SIGHUP else self.name.lower()


class Findings(NamedTuple):
    """What any of the ranks has found."""

    stop: Stop = Stop.NO
    save_due: bool = False  # the time between two checkpoints is over by its clock
    unreadable_since: int | None = None  # the steps that were made before its data ended


def never() -> bool:
    """Tell nobody to stop."""
    return False


@contextlib.contextmanager
def sigterm_interrupts(sentence: str) -> Iterator[None]:
    """Raise an interrupt where SIGTERM comes in the block, as Ctrl-C does; ignore further ones.

    So this rank says why it ends. While it trains, the loop has a handler of its own.

    Raises:
        KeyboardInterrupt: it came; with the sentence.
    """

    def interrupt(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)  # the launcher passes its own on
        raise KeyboardInterrupt(sentence)

    if threading.current_thread() is not threading.main_thread():  # as a worker of Ray
        yield
        return
    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is interrupt:  # else it is to be ignored until the end
            signal.signal(signal.SIGTERM, previous)


class Signals:
    """Remembers that Ctrl-C, SIGTERM or a warning asked this process to stop, until it is closed.

    A second Ctrl-C ends the process at once, and so does SIGTERM or Ctrl-C that comes more than
    `ECHO_SECONDS` after the first of these. Warnings end nothing. They are left alone where
    somebody else takes or ignores them, as `nohup` does.

    Attributes:
        received: The first signal, if there was one; after a warning, the first other one.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._since = 0.0
        # Only the main thread may set handlers.
        in_main_thread = threading.current_thread() is threading.main_thread()
        free = [number for number in WARNINGS if signal.getsignal(number) == signal.SIG_DFL]
        watched = (signal.SIGINT, signal.SIGTERM, *free) if in_main_thread else ()
        self._previous = {number: signal.signal(number, self._remember) for number in watched}

    def close(self) -> None:
        """Give signals back to whoever handled them before; leave those that others took since."""
        for number, handler in self._previous.items():
            if signal.getsignal(number) == self._remember:
                signal.signal(number, handler)

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        is_warning = number in WARNINGS
        if self.received is None or (self.received in WARNINGS and not is_warning):
            self.received, self._since = signal.Signals(number), now
        if is_warning:
            return
        is_another = now - self._since > ECHO_SECONDS
        if is_another or number == signal.SIGINT:
            signal.signal(number, self._previous[signal.Signals(number)])
        if is_another:
            signal.raise_signal(number)


class Watch:
    """Makes one rank's finding everybody's.

    A signal is only remembered: leaving the loop on one rank alone would leave the others waiting
    in a collective. Votes travel through a process group of their own, on the host: they neither
    wait for the device nor come between the collectives of a step.

    Args:
        world: The ranks.
        told_to_stop: Whether somebody else wants this rank to stop. A worker of Ray needs it: it
            trains outside the main thread, where no signal arrives.
        preempted: Whether the machine of this rank, or of another one, is about to be taken away.
        ends: When the attempt has to end, by `time.monotonic`; None: it need not.
    """

    def __init__(
        self,
        world: World,
        told_to_stop: Callable[[], bool] = never,
        preempted: Callable[[], bool] = never,
        ends: float | None = None,
    ) -> None:
        self._told_to_stop = told_to_stop
        self._preempted = preempted
        self._ends = ends
        self._signals = Signals()
        self._launchers = Launchers()
        self._group = host_group(world)
        self._votes: deque[tuple[dist.Work, Tensor]] = deque()  # begun and not read

    def vote(
        self, *, save_due: bool = False, unreadable_since: int | None = None, settle: bool = False
    ) -> Findings:
        """Vote after a step; return what was found `LATE` steps ago. Collective.

        Args:
            save_due: Whether this rank wants a checkpoint.
            unreadable_since: How many steps were made before this rank could not read its data.
            settle: Whether to wait for what is found now; the same on every rank. It is waited for
                as well where the older vote found something.
        """
        found = Findings(self._reason(), save_due, unreadable_since)
        if self._group is None:
            return found
        self._begin(found, self._group)
        found = Findings()
        while len(self._votes) > (0 if settle or found != Findings() else LATE):
            found = self._read(found)
        return found

    def close(self) -> None:
        """Give the signals back to whoever handled them before."""
        self._signals.close()
        if self._group is not None and not self._votes:
            dist.destroy_process_group(self._group)

    def _reason(self) -> Stop:
        """Return why this rank wants to stop."""
        if self._signals.received is not None:
            return Stop[self._signals.received.name]
        if self._launchers.are_gone():
            return Stop.ORPHANED
        if self._preempted():
            return Stop.PREEMPTED
        if self._ends is not None and time.monotonic() >= self._ends:
            return Stop.WALL_CLOCK
        return Stop.TOLD if self._told_to_stop() else Stop.NO

    def _begin(self, found: Findings, group: dist.ProcessGroup) -> None:
        since = NEVER if found.unreadable_since is None else found.unreadable_since
        largest = torch.tensor([int(found.stop), int(found.save_due), NEVER - since])
        work = dist.all_reduce(largest, dist.ReduceOp.MAX, group=group, async_op=True)
        assert work is not None
        self._votes.append((work, largest))

    def _read(self, older: Findings) -> Findings:
        """Return the findings of the oldest vote that is not read, together with those before."""
        work, largest = self._votes.popleft()
        work.wait()
        stop, save_due, before_never = largest.tolist()
        since = older.unreadable_since
        if since is None and before_never:
            since = NEVER - before_never
        return Findings(max(older.stop, Stop(stop)), older.save_due or save_due > 0, since)
