"""Runs the trials of a sweep through Ray Train. Ray is a shell around an unchanged trainer.

The controller keeps the journal and the MLflow runs of the trials; workers only train. What a trial
has done is read from its directory, so whoever submits the sweep again continues it.
"""

import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import ray
from ray.exceptions import RayError
from ray.train import FailureConfig, ScalingConfig
from ray.train import RunConfig as RayRunConfig
from ray.train.torch import TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError

from dpot_scale.config.sweep import ResourcesConfig, SweepConfig
from dpot_scale.runs.outcome import run_artifacts
from dpot_scale.runs.result import read_result
from dpot_scale.scaling.cluster import (
    join_cluster,
    wait_for_room,
    worker_environment,
    worker_resources,
)
from dpot_scale.scaling.endings import (
    Ended,
    TrialFailedError,
    TrialInterruptedError,
    diagnose,
)
from dpot_scale.scaling.journal import Event, Journal
from dpot_scale.scaling.plan import Trial, plan, plan_table
from dpot_scale.scaling.progress import TrialProgress
from dpot_scale.scaling.stopping import ask_to_stop, let_run
from dpot_scale.scaling.worker import TrialTask, train_trial
from dpot_scale.tracking.mlflow_run import MlflowRun, record_life
from dpot_scale.training.watch import Signals

POLL_SECONDS = 0.5
# How long an interrupt waits for trials to save: a checkpoint of the largest on a slow disk.
SAVE_SECONDS = 600.0
# Ray's own limit is no limit: a controller that cannot start would be tried for ever.
CONTROLLER_FAILURES = 2


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
        self._stopping = threading.Event()  # what runs is to save, nothing else starts
        self._interrupted = False  # what still runs is lost

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
        with join_cluster(self.sweep.resources) as cluster:
            self._settle(cluster.resources)
            return self._run_all(unfinished, min(cluster.trials, len(unfinished)))

    def _settle(self, resources: ResourcesConfig) -> None:
        """Go on with the resources that the cluster has; show the plan anew if that differs."""
        settled = self.sweep.model_copy(update={"resources": resources})
        if resources != self.sweep.resources and resources.gpus_per_worker:
            table = plan_table(settled, plan(settled))
            self.say(f"the cluster has a GPU for every worker:\n\n{table}\n")
        self.sweep = settled

    def _run_all(self, trials: Sequence[Trial], at_a_time: int) -> dict[str, str]:
        with (
            ThreadPoolExecutor(at_a_time) as pool,
            closing(TrialProgress(trials, self.say)) as progress,
            closing(Signals()) as signals,
        ):
            running = {pool.submit(self._run_trial, trial): trial for trial in trials}
            ended = Ended()
            try:
                while running and not signals.received:
                    self._collect(running, ended, progress)
                if running:
                    self._stop_all(running, ended, progress)
            except KeyboardInterrupt:  # a second Ctrl-C
                ended.interrupted = True
            finally:
                if running:
                    self._cut_off(running)
        if ended.interrupted:
            raise KeyboardInterrupt
        if ended.bugs:
            raise ended.bugs[0]
        return ended.failures

    def _collect(
        self, running: dict[Future[None], Trial], ended: Ended, progress: TrialProgress
    ) -> None:
        """Wait a moment for trials that end, and say how they did."""
        done, _ = wait(running, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
        progress.update()
        for future in done:
            trial = running.pop(future)
            progress.finish(trial, ended.add(trial, future.exception()))

    def _stop_all(
        self, running: dict[Future[None], Trial], ended: Ended, progress: TrialProgress
    ) -> None:
        """Let what trains save and end; what has not begun is left for the next submission."""
        self._stopping.set()
        for future in list(running):
            if future.cancel():
                ended.interrupted = True
                running.pop(future)
        names = ", ".join(trial.id for trial in running.values())
        self.say(f"stopping: {names or 'nothing'} saves first; Ctrl-C again stops at once")
        for trial in running.values():
            ask_to_stop(trial.run.directory)
        deadline = time.monotonic() + SAVE_SECONDS
        while running and time.monotonic() < deadline:
            self._collect(running, ended, progress)
        ended.interrupted |= bool(running)

    def _cut_off(self, running: Mapping[Future[None], Trial]) -> None:
        """End the workers without waiting, so that the threads that wait for them return."""
        self._stopping.set()
        for future in running:
            future.cancel()
        self._interrupt(list(running.values()))
        ray.shutdown()

    def _run_trial(self, trial: Trial) -> None:
        """Run one trial, again after failures that are not the user's.

        Raises:
            UserError: it failed for good.
            TrialInterruptedError: the user ended the sweep.
        """
        trial.run.directory.mkdir(parents=True, exist_ok=True)
        run = MlflowRun(
            trial.run.directory,
            trial.run,
            trial.run.tracking,
            name=trial.id,
            tags={"sweep": self.sweep.name, "trial": trial.id, "size": trial.label},
            parent=self.parent_run,
            datasets=trial.contents.datasets,
        )
        artifacts = partial(run_artifacts, trial.run.directory)
        with record_life(run, stops=(TrialInterruptedError,), artifacts=artifacts):
            try:
                self._attempt_until_done(trial)
            except TrialInterruptedError:
                raise
            except BaseException as error:
                if not self._stopping.is_set():
                    raise
                # Ray ends a thread that waits for a cluster that was shut down by SystemExit.
                raise TrialInterruptedError("not saved") from error

    def _attempt_until_done(self, trial: Trial) -> None:
        first = self._journal.attempts(trial.id) + 1
        for attempt in range(first, first + self.sweep.max_attempts):
            let_run(trial.run.directory)
            self._wait_for_room(trial)
            self._record(trial, "started", attempt)
            try:
                finished = self._fit(trial, attempt)
            except (TrainingFailedError, RayError) as error:
                reason, is_final = diagnose(error)
                if self._stopping.is_set():
                    # Some schedulers signal the workers, too: what that breaks is no failure.
                    self._record(trial, "interrupted", attempt, reason)
                    raise TrialInterruptedError("not saved") from error
                self._record(trial, "failed", attempt, reason)
                if is_final or attempt + 1 == first + self.sweep.max_attempts:
                    raise TrialFailedError(reason) from error
                self.say(f"{trial.id}: attempt {attempt} failed ({reason}); trying again")
            else:
                self._record(trial, "finished" if finished else "interrupted", attempt)
                if not finished:
                    raise TrialInterruptedError("saved")
                return

    def _wait_for_room(self, trial: Trial) -> None:
        """Wait for the cluster before an attempt begins, so that waiting costs none."""
        if not wait_for_room(
            self.sweep.resources,
            give_up=self._stopping.is_set,
            say=lambda words: self.say(f"{trial.id}: {words}"),
        ):
            raise TrialInterruptedError("not begun")

    def _fit(self, trial: Trial, attempt: int) -> bool:
        """Train a trial on the cluster; return whether it came to its end, or was told to stop."""
        resources = self.sweep.resources
        task: TrialTask = {"run": trial.run}
        # Unique: under a name it knows, Ray would restore its own state of that run.
        name = f"{trial.id}_{attempt}_{int(time.time())}"
        storage = self.sweep.directory / "ray"
        # The first step comes after many seconds, in which workers start and load torch.
        self.say(f"{trial.id}: starting {resources.workers} workers")
        trainer = TorchTrainer(
            train_trial,
            train_loop_config=task,
            scaling_config=ScalingConfig(
                num_workers=resources.workers,
                use_gpu=resources.gpus_per_worker == 1,
                resources_per_worker=worker_resources(resources),
            ),
            run_config=RayRunConfig(
                name=name,
                storage_path=str(storage),
                worker_runtime_env=worker_environment(resources),
                # Attempts are counted here, where a user's mistake is known from a crash.
                failure_config=FailureConfig(
                    max_failures=0, controller_failure_limit=CONTROLLER_FAILURES
                ),
            ),
        )
        try:
            return trainer.fit().return_value is not None
        finally:
            # Ray insists on a folder of its own, into which this training puts nothing.
            shutil.rmtree(storage / name, ignore_errors=True)

    def _record(self, trial: Trial, event: Event, attempt: int, reason: str = "") -> None:
        """Record what happened to a trial.

        Raises:
            TrialInterruptedError: it only follows from the user's interrupt.
        """
        with self._recording:
            if self._stopping.is_set() and event == "started":
                raise TrialInterruptedError("not begun")
            if self._interrupted and event != "finished":
                raise TrialInterruptedError("not saved")
            self._journal.record(trial.id, event, attempt=attempt, reason=reason)

    def _interrupt(self, trials: Sequence[Trial]) -> None:
        with self._recording:
            self._interrupted = True
            for trial in trials:
                last = self._journal.last(trial.id)
                if last is not None and last.event == "started":
                    self._journal.record(trial.id, "interrupted", attempt=last.attempt)
