"""Records what happens to the trials of a sweep, from the threads that run them."""

import threading
from collections.abc import Callable, Sequence

from dpot_scale.errors import DiskError, UserError
from dpot_scale.files import going_on
from dpot_scale.runs.result import read_result
from dpot_scale.scaling.endings import TrialInterruptedError
from dpot_scale.scaling.journal import Event, Journal
from dpot_scale.scaling.plan import Trial


class Recorder:
    """The journal of a sweep while it runs.

    Attempts are counted by it, so none begins that it lacks. Whatever else it lacks because a disk
    is full is said and ends nothing: what a trial has done is read from its directory.

    Args:
        journal: The journal.
        stopping: Is set once nothing more is to start.
        say: Takes one line of text for the user at a time.
    """

    def __init__(
        self, journal: Journal, stopping: threading.Event, say: Callable[[str], None]
    ) -> None:
        self._journal = journal
        self._stopping = stopping
        self._say = say
        # Held where a thread records an event, so that an interrupt stays the last one.
        self._recording = threading.Lock()
        self._interrupted = False  # what still runs is lost

    def attempts(self, trial: Trial) -> int:
        """Return how often a trial has been started."""
        return self._journal.attempts(trial.id)

    def start(self, trial: Trial, attempt: int, reason: str, workers: int) -> None:
        """Record that an attempt begins.

        Raises:
            TrialInterruptedError: all stop.
            DiskError: it cannot be recorded.
        """
        with self._recording:
            if self._stopping.is_set():
                raise TrialInterruptedError("not begun")
            self._journal.record(
                trial.id, "started", attempt=attempt, reason=reason, workers=workers
            )

    def record(self, trial: Trial, event: Event, attempt: int, reason: str = "") -> None:
        """Record how an attempt ended, or that there is none.

        Raises:
            TrialInterruptedError: it only follows from the user's interrupt.
        """
        with self._recording:
            if self._interrupted and event != "finished":
                raise TrialInterruptedError("not saved")
            self._append(trial, event, attempt, reason)

    def record_obstacle(self, trial: Trial, error: BaseException) -> None:
        """Record what kept a trial from its attempts, so that the report can say it, too."""
        if isinstance(error, UserError) and read_result(trial.run.directory) is None:
            self.record(trial, "failed", self.attempts(trial), str(error))

    def interrupt(self, trials: Sequence[Trial]) -> None:
        """Record that trials that run are cut off; what they still say follows from that."""
        with self._recording:
            self._interrupted = True
            for trial in trials:
                last = self._journal.last(trial.id)
                if last is not None and last.event == "started":
                    self._append(trial, "interrupted", last.attempt)

    def _append(self, trial: Trial, event: Event, attempt: int, reason: str = "") -> None:
        try:
            self._journal.record(trial.id, event, attempt=attempt, reason=reason)
        except DiskError as error:
            self._say(f"{trial.id}: {event}, which is not recorded: {going_on(error)}")
