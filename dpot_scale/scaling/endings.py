"""The ways a trial ends: finished, failed, stopped by the user, or by a bug of this program."""

from dataclasses import dataclass, field
from types import UnionType

from ray.exceptions import OutOfMemoryError, RayActorError
from ray.train.v2.api.exceptions import PreemptionError, WorkerGroupError

from dpot_scale.checkpoints.checkpoint import saved_step
from dpot_scale.config.places import CHECKPOINTS
from dpot_scale.config.sweep import SweepConfig
from dpot_scale.errors import (
    BusyError,
    LostPeerError,
    MachineError,
    ShortMemoryError,
    UserError,
    memory_was_refused,
    without_secrets,
)
from dpot_scale.scaling.plan import Trial

NO_MORE_PREEMPTIONS = (
    "that was once more than max_preemptions allows; raise it, or lower run.checkpoint.minutes so "
    "that more is saved before the next time"
)
# In which ranks of an earlier attempt end, that nobody waits for any more, or storage comes back.
BUSY_SECONDS = 60.0

PASSING = BusyError | MachineError  # after which another attempt may succeed


class TrialFailedError(UserError):
    """A trial failed and is not tried again."""

    def __init__(self, reason: str, stop: str = "failed") -> None:
        super().__init__(reason)
        self.stop = stop


class AttemptFailedError(Exception):
    """One attempt at a trial failed."""

    def __init__(
        self,
        reason: str,
        is_final: bool,
        is_preemption: bool = False,
        stop: str = "failed",
        pause: float = 0.0,
    ) -> None:
        self.reason = without_secrets(reason)  # which the journal, MLflow and the report keep
        super().__init__(self.reason)
        self.stop = "preempted" if is_preemption else stop  # in one word why it ended
        self.is_final = is_final  # another attempt would fail, too
        self.is_preemption = is_preemption  # its node was taken away, which is no failure of it
        self.pause = pause  # seconds before the next attempt


class Budget:
    """How often a trial may still be tried: after failures, and after its node was taken away.

    A trial whose number of workers may change is tried without a limit while it gets on, as each
    loss comes after a step that was not saved before. Otherwise a loss counts for it as for others.

    Args:
        sweep: Says how often.
        trial: The trial.
    """

    def __init__(self, sweep: SweepConfig, trial: Trial) -> None:
        self._attempts, self._preemptions = sweep.max_attempts, sweep.max_preemptions
        self._is_elastic = sweep.resources.is_elastic
        self._checkpoints = trial.run.directory / CHECKPOINTS
        self._saved = saved_step(self._checkpoints)

    def is_free(self, error: AttemptFailedError) -> bool:
        """Return whether an attempt that failed is not to be counted."""
        before, self._saved = self._saved, max(self._saved, saved_step(self._checkpoints))
        return error.is_preemption and self._is_elastic and self._saved > before

    def require_another(self, error: AttemptFailedError) -> None:
        """Count an attempt that failed.

        Raises:
            TrialFailedError: there may be no other one.
        """
        if not error.is_preemption:
            self._attempts -= 1
            if self._attempts <= 0 or error.is_final:
                raise TrialFailedError(error.reason, error.stop) from error
            return
        self._preemptions -= 1
        if self._preemptions < 0:
            raise TrialFailedError(f"{error.reason}; {NO_MORE_PREEMPTIONS}", error.stop) from error


class TrialCancelledError(Exception):
    """The user cancelled the trial; the text says what is saved."""

    stop = "cancelled"


class TrialInterruptedError(Exception):
    """The user ended the sweep before the trial was finished; the text says what is saved."""

    stop = "signal"


@dataclass(kw_only=True)
class Ended:
    """How the trials of a sweep ended."""

    failures: dict[str, str] = field(default_factory=dict)  # trial -> the sentence for the user
    bugs: list[BaseException] = field(default_factory=list)  # of this program
    cancelled: set[str] = field(default_factory=set)  # trials
    interrupted: bool = False

    def add(self, trial: Trial, error: BaseException | None) -> str:
        """Record the error that a trial raised, if any, and return in words how it ended."""
        match error:
            case None:
                return "finished"
            case TrialInterruptedError():
                self.interrupted = True
                return f"stopped, {error}"
            case TrialCancelledError():
                self.cancelled.add(trial.id)
                return f"cancelled, {error}"
            case UserError():
                self.failures[trial.id] = str(error)
            case _:
                self.bugs.append(error)
        return f"failed: {str(error) or type(error).__name__}"


def failed_attempt(error: Exception, verdict: str | None) -> AttemptFailedError:
    """Return why an attempt failed.

    Args:
        error: What Ray raised.
        verdict: Why its ranks gave it up, if they did: a word, and behind ": " a sentence.
    """
    reason, is_final = diagnose(error)
    stop = stop_of(error)
    if verdict is not None and not is_final:  # else Ray only knows that a worker died
        stop, _, reason = verdict.partition(": ")
    pause = 0.0 if passing(error) is None else BUSY_SECONDS
    return AttemptFailedError(reason, is_final, is_preemption(error), stop, pause)


def diagnose(error: Exception) -> tuple[str, bool]:
    """Return in one line why an attempt failed, and whether another one would fail too."""
    failures = error.worker_failures if isinstance(error, WorkerGroupError) else {}
    for cause in failures.values():
        found = _user_error(cause)
        if found is not None and not isinstance(found, LostPeerError | ShortMemoryError | PASSING):
            return str(found), True
    passes = passing(error)
    if passes is not None:
        return passes, False
    for cause in _causes(error):
        memory = _ran_out_of_memory(cause)
        if memory is not None:
            return memory, True
    if tells_of_death(error):
        return "a worker died: killed, out of memory, or crashed", False
    shown = str(next(iter(failures.values()), error)).strip().splitlines()
    return (shown[-1] if shown else type(error).__name__), False


def lost_peer(error: Exception) -> str | None:
    """Return what a worker said that lost another one; None if none did."""
    return _said(error, LostPeerError)


def passing(error: Exception) -> str | None:
    """Return what a worker said that found its directory held, or could not read its data now."""
    return _said(error, PASSING)


def _said(error: Exception, kind: type[UserError] | UnionType) -> str | None:
    found = map(_user_error, _causes(error))
    return next((str(one) for one in found if isinstance(one, kind)), None)


def stop_of(error: Exception) -> str:
    """Return in one word why an attempt failed."""
    causes = _causes(error)
    for cause in causes:
        found = _user_error(cause)
        if found is not None and not isinstance(found, LostPeerError):
            return found.stop
    if any(_ran_out_of_memory(cause) for cause in causes):
        return "out_of_memory"
    return LostPeerError.stop if tells_of_death(error) else "failed"


def is_preemption(error: Exception) -> bool:
    """Return whether an attempt ended because a node was taken away, as Ray was told."""
    causes = _causes(error)
    return any(isinstance(cause, RayActorError) and cause.preempted for cause in causes) or (
        isinstance(error, PreemptionError)  # it was, before all workers had ended
    )


def tells_of_death(error: Exception) -> bool:
    """Return whether a worker is gone, by the error of the attempt.

    That is whichever Ray notices first: the worker, or one that waits for it in a collective.
    """
    return any(isinstance(one, RayActorError) or _tells_of_death(one) for one in _causes(error))


def is_killed_alone(error: Exception) -> bool:
    """Return whether Ray saw a worker end on a node that goes on."""
    return any("worker process has died" in str(cause) for cause in _causes(error))


def _causes(error: Exception) -> list[Exception]:
    """Return what each worker that failed died of, and the error of the attempt itself."""
    failures = error.worker_failures if isinstance(error, WorkerGroupError) else {}
    # Of a worker that does not answer any more, Ray wraps what it knows.
    causes = [getattr(one, "health_check_failure", one) for one in failures.values()]
    return [*causes, error]


def _ran_out_of_memory(cause: Exception) -> str | None:
    """Return what to change if memory ran out, on the device or by Ray's own measure."""
    text = str(cause)
    if isinstance(cause, OutOfMemoryError) or "Memory on the node" in text:
        return (
            "Ray killed a worker because its node ran low on memory: give a trial fewer "
            "resources.workers per node or a smaller batch.micro_batch, or raise the limit with "
            "RAY_memory_usage_threshold where `ray start` runs"
        )
    if memory_was_refused(cause) or "MemoryError" in text:
        return (
            "a worker ran out of memory: set run.batch.micro_batch to a smaller number or auto, "
            "run.engine.activation_checkpointing=full, or raise resources.workers"
        )
    return None


def _tells_of_death(cause: Exception) -> bool:
    """Return whether an error speaks of a process that is gone: one's own, or a peer's."""
    signs = ("gloo/transport", "NCCL error", "worker process has died")
    is_lost_peer = isinstance(_user_error(cause), LostPeerError)
    return is_lost_peer or any(sign in str(cause) for sign in signs)


def _user_error(error: BaseException | None) -> UserError | None:
    """Return the `UserError` in a chain of causes, if there is one."""
    while error is not None:
        if isinstance(error, UserError):
            return error
        error = error.__cause__ or getattr(error, "cause", None)
    return None
