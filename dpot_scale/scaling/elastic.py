"""Trials whose number of workers may change: which numbers do, and when a trial gets more.

A trial gets fewer workers when it loses some: it begins again with what is left. It gets more when
the cluster has room for them: it is asked to save and end, and begins again. Ray's own elastic
training is not used. It takes any number of workers, also one that the batch does not divide
among, ends them without a save when it adds some, and tries a mistake of the user again, too.
"""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from dpot_scale.config.batch import BatchConfig
from dpot_scale.config.sweep import ResourcesConfig
from dpot_scale.scaling.plan import TRIAL_OVERHEAD_SECONDS, Trial

# A trial trains so long before it gets more workers, for which it has to start them all again.
STEADY_SECONDS = 60.0
LOOK_SECONDS = 5.0  # between two looks at what is free; it counts if two in a row find it


def sizes(resources: ResourcesConfig, batch: BatchConfig) -> tuple[int, ...]:
    """Return the numbers of workers among which a batch divides, the largest first."""
    numbers = range(resources.most_workers, resources.least_workers - 1, -1)
    return tuple(number for number in numbers if batch.is_shared_by(number))


class Progress(Protocol):
    """How far trials are."""

    def step(self, trial: Trial) -> int | None:
        """Return the newest step of a trial."""

    def seconds_left(self, trial: Trial) -> float | None:
        """Return how long a trial still takes, as far as that is known."""


@dataclass
class _Attempt:
    """An attempt that was started."""

    workers: int
    begun_at: int | None = None  # the newest step at the first look
    was_seen: bool = False
    since: float | None = None  # when it had made a step: before, its own workers may not be there
    found: int = 0  # the larger number for which the last look found room
    granted: int = 0  # with which it is to begin again


@dataclass
class Growth:
    """Decides which of the trials that train are to begin again with more workers.

    Args:
        resources: The workers of a trial, their kind settled.
        free: Returns how many workers the cluster has free resources for.
    """

    resources: ResourcesConfig
    free: Callable[[], int]
    _attempts: dict[str, _Attempt] = field(default_factory=dict)
    _last_look: float = 0.0
    # Held while a trial is asked to end, so that its next attempt is not asked in its place.
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begins(self, trial: Trial, workers: int) -> None:
        """Note that a trial is about to train with so many workers."""
        with self._lock:
            self._attempts[trial.id] = _Attempt(workers)

    def ends(self, trial: Trial) -> int:
        """Note that an attempt ended; return the workers for which it was to end, 0 for none."""
        with self._lock:
            return self._attempts.pop(trial.id).granted

    def share(self, trial: Trial) -> str:
        """Return the workers of a trial as `1/4`, if they may change and it has some."""
        attempt = self._attempts.get(trial.id) if self.resources.is_elastic else None
        return f"{attempt.workers}/{self.resources.most_workers}" if attempt is not None else ""

    def look(
        self,
        running: Iterable[Trial],
        progress: Progress,
        ask: Callable[[Trial], None],
    ) -> None:
        """Ask a trial to save and end, in order to begin again with more workers, if one may.

        That is one at a time, and none while another one waits for room: it comes first.

        Args:
            running: All trials that were begun, those among them that wait for room.
            progress: How far they are.
            ask: Asks a trial.
        """
        now = time.monotonic()
        if not self.resources.is_elastic or now - self._last_look < LOOK_SECONDS:
            return
        self._last_look = now
        with self._lock:
            attempts = [(trial, self._attempts.get(trial.id)) for trial in running]
            if any(attempt is None or attempt.granted for _, attempt in attempts):
                return
            small = [
                (trial, attempt)
                for trial, attempt in attempts
                if attempt is not None
                and self._is_steady(attempt, now, progress.step(trial))
                and self._may_gain(attempt, progress.seconds_left(trial))
            ]
            free = self.free() if small else 0
            for trial, attempt in small:
                before, attempt.found = attempt.found, self._larger(trial, attempt.workers, free)
                if attempt.found and attempt.found == before:
                    attempt.granted = attempt.found
                    ask(trial)
                    return

    def _is_steady(self, attempt: _Attempt, now: float, step: int | None) -> bool:
        """Return whether an attempt has made steps for a while."""
        if not attempt.was_seen:
            attempt.was_seen, attempt.begun_at = True, step
        if attempt.since is None and step != attempt.begun_at:
            attempt.since = now
        return attempt.since is not None and now - attempt.since >= STEADY_SECONDS

    def _may_gain(self, attempt: _Attempt, left: float | None) -> bool:
        """Return whether more workers would pay: to start them takes a while."""
        is_long = left is not None and left > TRIAL_OVERHEAD_SECONDS
        return attempt.workers < self.resources.most_workers and is_long

    def _larger(self, trial: Trial, workers: int, free: int) -> int:
        """Return the largest number of workers that there is room for; 0 if it is none more."""
        possible = sizes(self.resources, trial.run.batch)
        best = next((size for size in possible if size <= workers + free), 0)
        return best if best > workers else 0
