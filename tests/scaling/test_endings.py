"""Why an attempt failed, in one line, and how a sweep counts what its trials raise."""

import mmap
from pathlib import Path

import pytest
import ray
from ray.core.generated.common_pb2 import ActorDiedErrorContext
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayActorError, RayTaskError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.train.v2.api.exceptions import PreemptionError, WorkerGroupError
from ray.train.v2.api.preemption import PreemptionInfo

from dpot_scale.checkpoints.checkpoint import checkpoint_name
from dpot_scale.config.load import load_sweep
from dpot_scale.config.places import CHECKPOINTS, MARKER, resolve_sweep_paths
from dpot_scale.config.sweep import SweepConfig
from dpot_scale.errors import (
    BusyError,
    ConfigError,
    DiskError,
    LostPeerError,
    SharedMachineError,
    ShortMemoryError,
)
from dpot_scale.runs.endings import TrainingDivergedError
from dpot_scale.scaling.endings import (
    BUSY_SECONDS,
    AttemptFailedError,
    Budget,
    Ended,
    TrialFailedError,
    TrialInterruptedError,
    diagnose,
    failed_attempt,
    is_killed_alone,
    is_preemption,
    tells_of_death,
)
from dpot_scale.scaling.plan import Trial, plan

DIED = "a worker died: killed, out of memory, or crashed"


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    return plan(resolve_sweep_paths(load_sweep("quickstart"), tmp_path))[0]


def sweep_of(trial: Trial, *settings: str) -> SweepConfig:
    return resolve_sweep_paths(load_sweep("quickstart", settings), trial.run.output.parents[2])


def counts(budget: Budget, error: AttemptFailedError) -> str:
    """Return how a budget takes an attempt that failed."""
    if budget.is_free(error):
        return "free"
    try:
        budget.require_another(error)
    except TrialFailedError as failed:
        return str(failed)
    return "counted"


FAILURE, PREEMPTION = (AttemptFailedError("odd", False, taken) for taken in (False, True))
NO_MORE = "odd; that was once more than max_preemptions allows; raise it, or lower run.checkpoint.m"


def failed(*causes: Exception) -> WorkerGroupError:
    return WorkerGroupError("workers failed", dict(enumerate(causes)))


def raised_from(cause: Exception) -> Exception:
    """An error that another one has caused."""
    error = RuntimeError("in the worker")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "cause",
    [
        ConfigError("the disk is full"),
        raised_from(ConfigError("the disk is full")),
        RayTaskError("train_trial", "Traceback ...", ConfigError("the disk is full")),
    ],
)
def test_a_mistake_of_the_user_is_final_wherever_it_stands(cause: Exception) -> None:
    assert diagnose(failed(RayActorError(), cause)) == ("the disk is full", True)


@pytest.mark.parametrize(
    "cause",
    [
        RayActorError(),
        RuntimeError("[../gloo/transport/tcp/pair.cc:538] Connection closed by peer"),
        RuntimeError("NCCL error: remote process exited"),
        RuntimeError(
            "The actor is dead because its worker process has died. Worker exit type: ..."
        ),
    ],
)
def test_a_worker_that_died_may_be_tried_again(cause: Exception) -> None:
    assert diagnose(failed(RuntimeError("it saw something else"), cause)) == (DIED, False)


def test_a_death_may_be_told_of_by_ray_alone() -> None:
    error = RuntimeError("The actor is dead because its worker process has died.")
    assert diagnose(error) == (DIED, False)


@pytest.mark.parametrize(
    ("cause", "setting"),
    [
        (OutOfMemoryError("Task was killed"), "RAY_memory_usage_threshold"),
        (RuntimeError("Memory on the node (IP: 1.2.3.4) was 61 / 64 GB"), "RAY_memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "run.batch.micro_batch"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "run.batch.micro_batch"),
        (ShortMemoryError("run x ran out of memory (CUDA): set ..."), "run.batch.micro_batch"),
    ],
)
def test_memory_that_ran_out_is_final_and_names_what_to_change(
    cause: Exception, setting: str
) -> None:
    reason, is_final = diagnose(failed(cause, RayActorError()))
    assert setting in reason
    assert is_final


# What Ray's raylet says as it kills a worker.
LOW_ON_MEMORY = (
    "1 worker(s) were killed due to the node running low on memory. "
    "Memory on the node (IP: 127.0.0.1, ID: 5e) was 61.1GB used / 64.0GB limit (0.954688)"
)


def test_the_installed_ray_says_so_where_it_kills_a_worker_for_memory() -> None:
    """The sentence is of its compiled program, and reaches a driver in one of its own errors."""
    program = Path(ray.__file__).parent / "core" / "src" / "ray" / "raylet" / "raylet"
    with program.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        assert text.find(b"worker(s) were killed due to the node running low on memory. ") > 0
        assert text.find(b"Memory on the node (IP: %s, ID: %s) was ") > 0
    died = ActorDiedError(ActorDiedErrorContext(error_message=LOW_ON_MEMORY, actor_id=b"1" * 16))
    for error in (died, OutOfMemoryError(LOW_ON_MEMORY)):
        attempt = failed_attempt(failed(error, RayActorError()), None)
        assert (attempt.stop, attempt.is_final) == ("out_of_memory", True)
        assert "RAY_memory_usage_threshold" in attempt.reason


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (failed(RayActorError()), "lost_peer"),
        (
            failed(RuntimeError("[../gloo/transport/tcp/pair.cc:538] Connection closed")),
            "lost_peer",
        ),
        (failed(LostPeerError("rank 0 lost another")), "lost_peer"),
        (failed(RayTaskError("train_trial", "Traceback", LostPeerError("rank 0"))), "lost_peer"),
        (failed(RayActorError(), OutOfMemoryError("Task was killed")), "out_of_memory"),
        (failed(RayActorError(), TrainingDivergedError("it diverged")), "diverged"),
        (failed(ConfigError("a mistake")), "failed"),
        (RuntimeError("the cluster is gone"), "failed"),
    ],
)
def test_an_attempt_ends_in_one_word(error: Exception, word: str) -> None:
    assert failed_attempt(error, None).stop == word


def test_a_lost_peer_is_tried_again() -> None:
    attempt = failed_attempt(failed(LostPeerError("rank 0 lost another")), None)
    assert (attempt.reason, attempt.is_final) == (DIED, False)


@pytest.mark.parametrize("others", [(), (RayActorError(),), (LostPeerError("rank 0"),)])
def test_a_directory_that_another_process_holds_is_tried_again_later(
    others: tuple[Exception, ...],
) -> None:
    """It may hold ranks of an earlier attempt, that are about to end."""
    said = RayTaskError("train_trial", "Traceback", BusyError("another process is training"))
    attempt = failed_attempt(failed(*others, said), None)
    assert (attempt.reason, attempt.is_final) == ("another process is training", False)
    assert attempt.pause == BUSY_SECONDS
    assert failed_attempt(failed(said, ConfigError("a mistake")), None).is_final
    assert failed_attempt(failed(LostPeerError("rank 0")), None).pause == 0


def test_a_machine_that_cannot_read_its_data_now_is_tried_again_later() -> None:
    """Also where it lacks memory: it was no lack of the model."""
    sentence = "cannot read a.h5 (Cannot allocate memory); the file may be intact"
    said = RayTaskError("train_trial", "Traceback", SharedMachineError(sentence))
    attempt = failed_attempt(failed(RayActorError(), said), None)
    assert (attempt.reason, attempt.is_final, attempt.stop) == (sentence, False, "machine")
    assert attempt.pause == BUSY_SECONDS


def test_what_ranks_said_of_a_hang_counts_for_more_than_what_ray_saw_of_it(trial: Trial) -> None:
    attempt = failed_attempt(failed(RayActorError()), "hung: no sign of rank 1 on a: stopped")
    assert attempt.reason == "no sign of rank 1 on a: stopped"
    assert (attempt.stop, attempt.is_final, attempt.is_preemption) == ("hung", False, False)
    budget = Budget(sweep_of(trial, "max_attempts=2", "max_preemptions=0"), trial)
    assert [counts(budget, attempt) for _ in range(2)] == ["counted", attempt.reason]


def test_a_mistake_counts_for_more_than_a_hang_that_it_caused() -> None:
    attempt = failed_attempt(failed(ConfigError("a mistake")), "hung: no sign of rank 1")
    assert (attempt.reason, attempt.stop, attempt.is_final) == ("a mistake", "failed", True)


def test_a_node_that_was_taken_away_is_a_preemption() -> None:
    taken = RayActorError()
    taken._preempted = True
    assert is_preemption(failed(RuntimeError("it saw something else"), taken))
    assert not is_preemption(failed(RayActorError()))
    # As Ray 2.60 hands it on.
    assert is_preemption(failed(WorkerHealthCheckFailedError("rank 1 failed", taken)))
    late = PreemptionInfo(deadline_ms=None, preempted_node_to_ranks={"a": [1]})
    assert is_preemption(PreemptionError(late, drain_timed_out=True))


def test_a_death_that_ray_explains_is_told_from_one_that_it_does_not() -> None:
    """Of the second kind is a node that is gone, which Ray finds out some seconds later."""
    killed = RayActorError(error_msg="The actor is dead because its worker process has died.")
    alone = failed(WorkerHealthCheckFailedError("rank 1 failed", killed))
    unknown = failed(RuntimeError("[../gloo/transport/tcp/pair.cc] Connection closed by peer"))
    assert tells_of_death(alone)
    assert tells_of_death(unknown)
    assert is_killed_alone(alone)
    assert not is_killed_alone(unknown)
    assert not tells_of_death(failed(RuntimeError("odd")))


def test_failures_and_preemptions_have_budgets_of_their_own(trial: Trial) -> None:
    budget = Budget(sweep_of(trial, "max_attempts=2", "max_preemptions=3"), trial)
    for error in (PREEMPTION, FAILURE, PREEMPTION, PREEMPTION):
        assert counts(budget, error) == "counted"
    assert counts(budget, PREEMPTION).startswith(NO_MORE)
    assert counts(budget, FAILURE) == "odd"
    final = AttemptFailedError("a mistake", is_final=True)
    assert counts(Budget(sweep_of(trial, "max_attempts=9"), trial), final) == "a mistake"


def save(trial: Trial, step: int) -> None:
    folder = trial.run.directory / CHECKPOINTS / checkpoint_name(step)
    folder.mkdir(parents=True)
    (folder / MARKER).touch()


@pytest.mark.parametrize("workers", ["2", "[1,2]"])
def test_a_node_that_comes_and_goes_costs_nothing_only_while_a_trial_with_a_range_gets_on(
    workers: str, trial: Trial
) -> None:
    """Without an end it would be begun again for ever."""
    save(trial, 5)
    sweep = sweep_of(trial, "max_preemptions=2", f"resources.workers={workers}")
    budget, is_elastic = Budget(sweep, trial), workers == "[1,2]"
    for step in (6, 7) if is_elastic else ():
        save(trial, step)
        assert counts(budget, PREEMPTION) == "free"
    assert counts(budget, PREEMPTION) == "counted", "nothing more was saved"
    (trial.run.directory / CHECKPOINTS / checkpoint_name(20)).mkdir(parents=True)
    assert counts(budget, PREEMPTION) == "counted", "it was not committed"
    save(trial, 9)
    if is_elastic:
        assert counts(budget, FAILURE) == "counted", "a failure is one, however far it came"
        save(trial, 10)
        assert counts(budget, PREEMPTION) == "free"
    assert counts(budget, PREEMPTION).startswith(NO_MORE)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (failed(RuntimeError("Traceback:\n  file\nRuntimeError: odd\n")), "RuntimeError: odd"),
        (RuntimeError("the cluster is gone"), "the cluster is gone"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_anything_else_is_its_last_line_and_may_be_tried_again(error: Exception, line: str) -> None:
    assert diagnose(error) == (line, False)


def test_each_ending_is_counted_as_what_it_is(trial: Trial) -> None:
    ended = Ended()
    bug = AssertionError()
    assert ended.add(trial, None) == "finished"
    assert (ended.failures, ended.bugs, ended.interrupted) == ({}, [], False)
    assert ended.add(trial, TrialInterruptedError("saved")) == "stopped, saved"
    assert ended.interrupted
    assert ended.add(trial, DiskError("the disk is full")) == "failed: the disk is full"
    assert ended.add(trial, bug) == "failed: AssertionError"
    assert ended.failures == {trial.id: "the disk is full"}
    assert ended.bugs == [bug]


def test_a_reason_is_kept_without_the_password_of_an_address() -> None:
    reason, is_final = diagnose(failed(RuntimeError("no answer from https://me:pw@host/x")))[:2]
    error = AttemptFailedError(reason, is_final)
    assert error.reason == str(error) == "no answer from https://...@host/x"
