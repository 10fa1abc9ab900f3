"""Runs the trials of a sweep through Ray Train. Ray is a shell around an unchanged trainer.

The driver owns the journal and the MLflow runs; workers only train. What a trial has done is read
from its directory, so whoever submits the sweep again continues it.
"""

import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

import ray
from ray.exceptions import RayActorError, RayError
from ray.train import FailureConfig, ScalingConfig
from ray.train import RunConfig as RayRunConfig
from ray.train.torch import TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError

from dpot_scale.config.load import dump, load_suite
from dpot_scale.config.places import SWEEP_CONFIG
from dpot_scale.config.schema import SweepConfig
from dpot_scale.data.generate import generate_suite
from dpot_scale.errors import UserError
from dpot_scale.files import write_whole
from dpot_scale.ray_address import require_answer
from dpot_scale.runs.run import run_artifacts
from dpot_scale.scaling.cluster import connected, worker_resources
from dpot_scale.scaling.journal import Event, Journal, locked
from dpot_scale.scaling.plan import Trial
from dpot_scale.scaling.progress import Progress
from dpot_scale.scaling.report import publish, write_report
from dpot_scale.scaling.worker import TrialTask, train_trial
from dpot_scale.training.mlflow_run import MlflowRun, Status
from dpot_scale.training.result import read_result

POLL_SECONDS = 1.0
# Ray's own limit is no limit: a controller that cannot start would be tried for ever.
CONTROLLER_FAILURES = 2


def run_sweep(
    sweep: SweepConfig, trials: Sequence[Trial], say: Callable[[str], None]
) -> Mapping[str, str]:
    """Run what is left of a sweep and report; return why each failed trial did.

    Args:
        sweep: With absolute paths: workers have another working directory.
        trials: Its plan.
        say: Takes one line of text for the user at a time.

    Raises:
        UserError: another process runs the sweep, the data cannot be made, there is no cluster at
            RAY_ADDRESS, or it is too small for one trial.
    """
    require_answer()  # before hours are spent on generating data
    tracking = sweep.run.tracking
    with locked(sweep):
        write_whole(sweep.directory / SWEEP_CONFIG, dump(sweep))
        if sweep.run.data.suite is not None:
            generate_suite(load_suite(sweep.run.data.suite), sweep.run.data.root, progress=say)
        mlflow_run = MlflowRun(sweep.directory, sweep, tracking, name=sweep.name)
        try:
            if any(read_result(trial.run.directory) is None for trial in trials):
                mlflow_run.open()  # else it keeps the time at which the sweep ended
            failures = Controller(sweep=sweep, trials=trials, parent_run=mlflow_run, say=say).run()
        except BaseException:
            mlflow_run.close("KILLED")
            raise
        mlflow_run.close("FAILED" if failures else "FINISHED")
        report = write_report(sweep, trials) if len(failures) < len(trials) else None
        if report is not None:
            publish(report, sweep)
    if report is not None:
        say(f"\n{report.summary}")
    return failures


@dataclass(kw_only=True)
class Controller:
    """Runs the unfinished trials of a sweep, as many at a time as the cluster holds.

    Args:
        sweep: With absolute paths: workers have another working directory.
        trials: The plan.
        parent_run: The MLflow run of the sweep.
        say: Takes one line of text for the user at a time.
    """

    sweep: SweepConfig
    trials: Sequence[Trial]
    parent_run: MlflowRun
    say: Callable[[str], None]

    def __post_init__(self) -> None:
        self._journal = Journal(self.sweep.directory)
        # Held where a thread records an event, so that an interrupt stays the last one.
        self._recording = threading.Lock()
        self._interrupted = False

    def run(self) -> dict[str, str]:
        """Run every unfinished trial; return why each failed one did.

        Raises:
            UserError: there is no cluster at RAY_ADDRESS, or it is too small for one trial.
            KeyboardInterrupt: the user's; what had started continues when submitted again.
        """
        unfinished = [trial for trial in self.trials if read_result(trial.run.directory) is None]
        for trial in self.trials:
            if trial not in unfinished:
                self.say(f"{trial.id}: finished before")
        if not unfinished:
            return {}
        with connected(self.sweep.resources) as concurrent_trials:
            return self._run_all(unfinished, min(concurrent_trials, len(unfinished)))

    def _run_all(self, trials: Sequence[Trial], at_a_time: int) -> dict[str, str]:
        failures: dict[str, str] = {}
        with ThreadPoolExecutor(at_a_time) as pool, Progress(trials, self.say) as progress:
            pending: dict[Future[None], Trial] = {
                pool.submit(self._run_trial, trial): trial for trial in trials
            }
            try:
                while pending:
                    done, _ = wait(pending, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
                    progress.update()
                    for future in done:
                        trial = pending.pop(future)
                        if (error := future.exception()) is not None:
                            failures[trial.id] = str(error)
                        progress.finish(trial, failures.get(trial.id))
            except KeyboardInterrupt:
                pool.shutdown(wait=False, cancel_futures=True)
                self._interrupt(trials)
                ray.shutdown()  # ends the workers, so that the threads that wait for them return
                raise
        return failures

    def _run_trial(self, trial: Trial) -> None:
        """Run one trial, again after failures that are not the user's.

        Raises:
            UserError: it failed for good.
        """
        trial.run.directory.mkdir(parents=True, exist_ok=True)
        run = MlflowRun(
            trial.run.directory,
            trial.run,
            trial.run.tracking,
            name=trial.id,
            tags={"sweep": self.sweep.name, "trial": trial.id, "size": trial.label},
            parent=self.parent_run,
        )
        status: Status = "FAILED"
        try:
            run.open()
            self._attempt_until_done(trial)
            status = "FINISHED"
        except TrialInterruptedError:
            status = "KILLED"
            raise
        finally:
            run.close(status, artifacts=run_artifacts(trial.run.directory))

    def _attempt_until_done(self, trial: Trial) -> None:
        first = self._journal.attempts(trial.id) + 1
        for attempt in range(first, first + self.sweep.max_attempts):
            self._record(trial, "started", attempt)
            try:
                self._fit(trial, attempt)
            except (TrainingFailedError, RayError) as error:
                reason, is_final = _diagnose(error)
                self._record(trial, "failed", attempt, reason)
                if is_final or attempt + 1 == first + self.sweep.max_attempts:
                    raise TrialFailedError(reason) from error
                self.say(f"{trial.id}: attempt {attempt} failed ({reason}); trying again")
            else:
                self._record(trial, "finished", attempt)
                return

    def _fit(self, trial: Trial, attempt: int) -> None:
        resources = self.sweep.resources
        task: TrialTask = {"run": trial.run}
        # Unique: under a name it knows, Ray would restore its own state of that run.
        name = f"{trial.id}_{attempt}_{int(time.time())}"
        storage = self.sweep.directory / "ray"
        trainer = TorchTrainer(
            train_trial,
            train_loop_config=task,
            scaling_config=ScalingConfig(
                num_workers=resources.workers,
                use_gpu=resources.gpus_per_worker > 0,
                resources_per_worker=worker_resources(resources),
            ),
            run_config=RayRunConfig(
                name=name,
                storage_path=str(storage),
                # Attempts are counted here, where a user's mistake is known from a crash.
                failure_config=FailureConfig(
                    max_failures=0, controller_failure_limit=CONTROLLER_FAILURES
                ),
            ),
        )
        try:
            trainer.fit()
        finally:
            # Ray insists on a folder of its own, into which this training puts nothing.
            shutil.rmtree(storage / name, ignore_errors=True)

    def _record(self, trial: Trial, event: Event, attempt: int, reason: str = "") -> None:
        """Record what happened to a trial.

        Raises:
            TrialInterruptedError: it only follows from the user's interrupt.
        """
        with self._recording:
            if self._interrupted and event != "finished":
                raise TrialInterruptedError
            self._journal.record(trial.id, event, attempt=attempt, reason=reason)

    def _interrupt(self, trials: Sequence[Trial]) -> None:
        with self._recording:
            self._interrupted = True
            for trial in trials:
                last = self._journal.last(trial.id)
                if last is not None and last.event == "started":
                    self._journal.record(trial.id, "interrupted", attempt=last.attempt)


class TrialFailedError(UserError):
    """A trial failed and is not tried again."""


class TrialInterruptedError(Exception):
    """The user ended the sweep while a trial ran."""


def _diagnose(error: Exception) -> tuple[str, bool]:
    """Return why an attempt failed, in one line, and whether another would fail the same way."""
    failures = error.worker_failures if isinstance(error, WorkerGroupError) else {}
    for cause in failures.values():
        found = _user_error(cause)
        if found is not None:
            return str(found), True
    # Whichever Ray notices first: the dead worker, or one that waits for it in a collective.
    if any(isinstance(c, RayActorError) or _lost_a_peer(c) for c in failures.values()):
        return "a worker died: killed, out of memory, or crashed", False
    shown = str(next(iter(failures.values()), error)).strip().splitlines()
    return (shown[-1] if shown else type(error).__name__), False


def _lost_a_peer(cause: Exception) -> bool:
    return any(library in str(cause) for library in ("gloo/transport", "NCCL error"))


def _user_error(error: BaseException | None) -> UserError | None:
    """Return the user's mistake in a chain of causes."""
    while error is not None:
        if isinstance(error, UserError):
            return error
        error = error.__cause__ or getattr(error, "cause", None)
    return None
