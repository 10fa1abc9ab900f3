"""A round of benchmarks/soak.py: a training that is disturbed, and started again until its end."""

import contextlib
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import psutil
from soak_faults import FAULTS, Ending, NotThereError, Planned
from soak_leaks import Held
from soak_plan import Round, is_due
from soak_runs import Training

from dpot_scale.tracking.spool import SPOOL, newest_record

MOST_ATTEMPTS = 15
SILENT_SECONDS = 900.0  # without a step, after which an attempt hangs; a busy machine is slow
LOOK_SECONDS = 0.02  # between two looks at the steps of a run
MOST_LINES = 400  # of what a training said
# Exit codes of a process that crashed, as Python, a launcher or a shell says it.
CRASHES = {
    code
    for number in (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)
    for code in (-number, 256 - number, 128 + number)
}
FULL_DISK = "full disk"  # what it keeps from the disk may be lost to what comes after it


@dataclass
class Caused:
    """A fault that was caused."""

    fault: str
    step: int  # that the run had come to
    time: float
    seconds: float | None = None  # until the run was further than it was before
    made_again: int = 0  # steps


@dataclass
class Outcome:
    """What became of a round."""

    round: Round
    caused: list[Caused] = field(default_factory=list)
    left_out: list[Planned] = field(default_factory=list)  # faults that were not caused
    codes: list[int] = field(default_factory=list)  # of its attempts
    sent_later: bool = False  # whether MLflow lacked something at the end of the run
    archived_later: bool = False  # whether the archive did
    replaced: int = 0  # windows that could not be read
    minutes: float = 0.0  # since the soak began, at its end
    held: Held | None = None  # after it
    differences: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)  # at last, where something went wrong

    @property
    def made_again(self) -> int:
        """Steps that were made more than once."""
        return sum(one.made_again for one in self.caused)


class Disturbed:
    """A training with the faults that wait for it.

    Args:
        training: The training.
        planned: Its faults.
        at_first_step: Called when an attempt has made a step.
        threads: In which what lasts ends.
    """

    def __init__(
        self,
        training: Training,
        planned: Round,
        at_first_step: Callable[[], None],
        threads: ThreadPoolExecutor,
    ) -> None:
        self.outcome = Outcome(planned, left_out=list(planned.faults))
        self._training, self._at_first_step, self._threads = training, at_first_step, threads
        self._endings: list[Future[None]] = []

    def attempt(self) -> None:
        """Start the training, and disturb it when that is due; wait until it ends."""
        began = len(self.outcome.caused)
        self._training.start()
        code = self._watch()
        self.outcome.codes.append(code)
        before, now = self.outcome.caused[:began][-1:], self.outcome.caused[began:]
        may_end = any(FAULTS[one.fault].ends for one in now)
        may_end |= any(FAULTS[one.fault].lingers for one in before)
        if code in CRASHES or (code != 0 and not may_end):
            how = "crashed" if code in CRASHES else "ended without a fault"
            self.outcome.differences.append(f"attempt {len(self.outcome.codes)} {how}: {code}")

    def look_back(self) -> None:
        """Note what the faults have cost, once all that lasts has ended."""
        errors = [error for one in self._endings if (error := one.exception()) is not None]
        self.outcome.differences += [f"an ending failed: {error!r}" for error in errors]
        log = self._training.log.read_text(errors="replace") if self.outcome.differences else ""
        self.outcome.said = log.splitlines()[-MOST_LINES:]
        records = self._training.recorded()
        for one in self.outcome.caused:
            one.seconds = further_after(records, one)
        self.outcome.differences += note_made_again(records, self.outcome.caused)

    def _watch(self) -> int:
        started = moved = time.time()
        last, has_begun = -1, False
        while (code := self._training.process.poll()) is None:
            time.sleep(LOOK_SECONDS)
            step, when = progress(self._training)
            if step != last:
                last, moved = step, time.time()
            if when > started and not has_begun:
                has_begun = True
                self._at_first_step()
            for planned in tuple(self.outcome.left_out):
                if is_due(planned, step if has_begun else -1, time.time() - started):
                    self._cause(planned, step)
            if time.time() - moved > SILENT_SECONDS:
                words = f"made no step in {SILENT_SECONDS:g} s after step {step}"
                self.outcome.differences.append(words)
                self._training.kill()
        return code

    def _cause(self, planned: Planned, step: int) -> None:
        caused = Caused(planned.fault, step, time.time())
        try:
            ending = FAULTS[planned.fault].cause(self._training, planned)
        except (NotThereError, psutil.Error, ProcessLookupError):  # it may be there later
            return
        self.outcome.left_out.remove(planned)
        self.outcome.caused.append(caused)
        if ending is not None:
            seconds = planned.seconds * FAULTS[planned.fault].times
            self._endings.append(self._threads.submit(later, seconds, ending))


def disturbed(
    training: Training, planned: Round, at_first_step: Callable[[], None] = lambda: None
) -> Outcome:
    """Start a training again and again, with its faults, until it has finished.

    Args:
        training: The training.
        planned: Its faults.
        at_first_step: Called when an attempt has made a step.
    """
    with ThreadPoolExecutor() as threads:  # waits for them
        one = Disturbed(training, planned, at_first_step, threads)
        while not one.outcome.codes or one.outcome.codes[-1] != 0:
            if len(one.outcome.codes) == MOST_ATTEMPTS:
                one.outcome.differences.append(f"did not finish in {MOST_ATTEMPTS} attempts")
                break
            one.attempt()
    one.look_back()
    return one.outcome


def later(seconds: float, ending: Ending) -> None:
    """End what lasts."""
    time.sleep(seconds)
    with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):  # killed since
        ending()


def progress(training: Training) -> tuple[int, float]:
    """Return the step that a run has recorded last, and when."""
    record = newest_record(training.directory / SPOOL, containing="train/loss")
    return (int(record["step"]), record["time"]) if record else (0, 0.0)


def further_after(records: Sequence[tuple[int, float]], caused: Caused) -> float | None:
    """Return how many seconds after a fault a run was further than before it."""
    later = [when for step, when in records if when > caused.time and step > caused.step]
    return min(later) - caused.time if later else None


def note_made_again(records: Sequence[tuple[int, float]], caused: Sequence[Caused]) -> list[str]:
    """Note for each fault how many steps were made again for it; say where that is wrong.

    A run that goes back does so for the newest fault before.
    """
    found, newest, furthest = [], 0, 0
    fault: Caused | None = None
    after_full_disk = any(one.fault == FULL_DISK for one in caused)
    for step, when in records:
        if step <= newest:
            fault = next((one for one in reversed(caused) if one.time < when), None)
            is_wrong = fault is None or (FAULTS[fault.fault].keeps and not after_full_disk)
            if is_wrong:
                why = fault.fault if fault is not None else "no fault"
                found.append(f"went back from step {newest} to {step} after {why}")
        if step <= furthest and fault is not None:
            fault.made_again += 1
        newest, furthest = step, max(furthest, step)
    return found
