"""Runs the trials of a sweep beside each other, the largest first, and keeps their journal.

The controller keeps the journal and the MLflow runs of the trials; workers only train. What a trial
has done is read from its directory, so whoever submits the sweep again continues it.
"""

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass
from functools import partial

from dpot_scale.config.sweep import ResourcesConfig, SweepConfig
from dpot_scale.errors import DiskError
from dpot_scale.files import going_on
from dpot_scale.runs.result import read_result
from dpot_scale.runs.tracked import run_artifacts
from dpot_scale.scaling.branching import begin_at_trunk, may_begin, why_hopeless
from dpot_scale.scaling.earlier import record_point
from dpot_scale.scaling.elastic import Growth, sizes
from dpot_scale.scaling.endings import (
    AttemptFailedError,
    Budget,
    Ended,
    TrialCancelledError,
    TrialFailedError,
    TrialInterruptedError,
)
from dpot_scale.scaling.fitting import hold_together
from dpot_scale.scaling.journal import Event, Journal
from dpot_scale.scaling.launcher import Launcher
from dpot_scale.scaling.plan import Trial, named, plan
from dpot_scale.scaling.plan_text import plan_table
from dpot_scale.scaling.progress import TrialProgress
from dpot_scale.scaling.recorder import Recorder
from dpot_scale.scaling.speeds import remember_trial
from dpot_scale.scaling.stopping import ask_to_stop, is_cancelled, let_run, pause
from dpot_scale.tracking.mlflow_run import MlflowRun, record_life
from dpot_scale.tracking.parameters import differing, trial_parameters
from dpot_scale.tracking.trained_on import trained_on
from dpot_scale.training.watch import Signals

POLL_SECONDS = 0.5
# How long an interrupt waits for trials to save: a checkpoint of the largest on a slow disk.
SAVE_SECONDS = 600.0

Running = dict[Future[None], Trial]


@dataclass(kw_only=True)
class Controller:
    """Runs the unfinished trials of a sweep, as many at a time as the cluster holds.

    Args:
        sweep: With absolute paths: workers have another working directory.
        trials: The plan.
        parent_run: The MLflow run of the sweep.
        launcher: Where the trials train.
        say: Takes one line of text for the user at a time.
    """

    sweep: SweepConfig
    trials: Sequence[Trial]
    parent_run: MlflowRun
    launcher: Launcher
    say: Callable[[str], None]

    def __post_init__(self) -> None:
        self._differing = differing([trial.run for trial in self.trials])
        self._growth = Growth(self.launcher.cluster.resources, self.launcher.free_workers)
        self._stopping = threading.Event()  # what runs is to save, nothing else starts
        self._recorder = Recorder(Journal(self.sweep.directory), self._stopping, self.say)
        self._unheard: set[str] = set()  # trials that could not be asked to save

    def run(self) -> dict[str, str]:
        """Run every unfinished trial; return why each failed one did.

        Raises:
            KeyboardInterrupt: the user's; what had started continues when submitted again.
        """
        unfinished, cancelled = [], set()
        for trial in self.trials:
            if read_result(trial.run.directory) is not None:
                self.say(f"{trial.id}: finished before")
            elif is_cancelled(trial.run.directory):
                self.say(f"{trial.id}: cancelled before")
                cancelled.add(trial.id)
            else:
                unfinished.append(trial)
        if not unfinished:
            return {}
        self._settle(self.launcher.cluster.resources)
        at_a_time = min(self.launcher.cluster.trials, len(unfinished))
        return self._run_all(unfinished, at_a_time, Ended(cancelled=cancelled))

    def _settle(self, resources: ResourcesConfig) -> None:
        """Go on with the resources that the cluster has; show the plan anew if that differs."""
        settled = self.sweep.model_copy(update={"resources": resources})
        if resources != self.sweep.resources and resources.gpus_per_worker:
            table = plan_table(settled, named(plan(settled), [trial.id for trial in self.trials]))
            self.say(f"the cluster has a GPU for every worker:\n\n{table}\n")
        self.sweep = settled

    def _run_all(self, trials: Sequence[Trial], at_a_time: int, ended: Ended) -> dict[str, str]:
        # The largest first: what is left at the end is small, and no part of the cluster waits for
        # one long trial.
        waiting = sorted(trials, key=lambda trial: -trial.seconds)
        running: Running = {}
        with (
            ThreadPoolExecutor(at_a_time) as pool,
            closing(TrialProgress(trials, self.say)) as progress,
            closing(Signals()) as signals,
        ):
            try:
                while (running or waiting) and not signals.received:
                    self._begin(waiting, running, ended, pool, progress, at_a_time)
                    self._collect(running, ended, progress)
                if running or waiting:
                    self._stop_all(running, ended, progress)
                    ended.interrupted |= bool(waiting)
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

    def _begin(
        self,
        waiting: list[Trial],
        running: Running,
        ended: Ended,
        pool: ThreadPoolExecutor,
        progress: TrialProgress,
        at_a_time: int,
    ) -> None:
        """Begin the largest trials that can, as many as there is room for."""
        nodes, resources, is_full = self.launcher.cluster.nodes, self.sweep.resources, False
        for trial in list(waiting):
            if is_cancelled(trial.run.directory):
                waiting.remove(trial)
                progress.finish(trial, ended.add(trial, self._leave(trial, "cancelled")))
            elif (reason := why_hopeless(trial, ended)) is not None:
                waiting.remove(trial)
                progress.finish(trial, ended.add(trial, self._leave(trial, "failed", reason)))
            elif len(running) < at_a_time and self._is_ready(trial, waiting, running):
                # What is smaller does not go first where memory is short: it might for ever.
                is_full = is_full or not hold_together(nodes, resources, [*running.values(), trial])
                if is_full:
                    continue
                waiting.remove(trial)
                running[pool.submit(self._run_trial, trial)] = trial

    def _is_ready(self, trial: Trial, waiting: Sequence[Trial], running: Running) -> bool:
        """Return whether the checkpoint of a trunk is there, or will never be."""
        if trial.after is None or may_begin(trial):
            return True
        return trial.after.trial not in {one.id for one in (*waiting, *running.values())}

    def _leave(self, trial: Trial, event: Event, reason: str = "") -> Exception:
        """Record that a trial is not begun; return that as the error of a trial."""
        self._recorder.record(trial, event, self._recorder.attempts(trial), reason)
        return TrialFailedError(reason) if event == "failed" else TrialCancelledError("not begun")

    def _collect(self, running: Running, ended: Ended, progress: TrialProgress) -> None:
        """Wait a moment for trials that end, and say how they did."""
        for trial in running.values():
            if is_cancelled(trial.run.directory):
                self._ask_to_save(trial)
            progress.share(trial, self._growth.share(trial))
        if not self._stopping.is_set():
            self._growth.look(running.values(), progress, self._ask_to_save)
        done, _ = wait(running, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
        progress.update(running.values())
        for future in done:
            trial = running.pop(future)
            progress.finish(trial, ended.add(trial, future.exception()))

    def _stop_all(self, running: Running, ended: Ended, progress: TrialProgress) -> None:
        """Let what trains save and end; what has not begun is left for the next submission."""
        self._stopping.set()
        names = ", ".join(trial.id for trial in running.values())
        self.say(f"stopping: {names or 'nothing'} saves first; Ctrl-C again stops at once")
        for trial in running.values():
            self._ask_to_save(trial)
        deadline = time.monotonic() + SAVE_SECONDS
        while running and time.monotonic() < deadline:
            self._collect(running, ended, progress)
        ended.interrupted |= bool(running)

    def _ask_to_save(self, trial: Trial) -> None:
        """Ask a trial to save and end; say so if that fails, and let the others go on."""
        try:
            ask_to_stop(trial.run.directory)
        except DiskError as error:
            if trial.id not in self._unheard:
                self.say(f"{trial.id} cannot be asked to save: {going_on(error)}")
            self._unheard.add(trial.id)

    def _cut_off(self, running: Running) -> None:
        """End the workers without waiting, so that the threads that wait for them return."""
        self._stopping.set()
        self._recorder.interrupt(list(running.values()))
        self.launcher.abandon()

    def _run_trial(self, trial: Trial) -> None:
        """Run one trial, again after failures that are not the user's.

        Raises:
            UserError: it failed for good.
            TrialInterruptedError: the user ended the sweep.
            TrialCancelledError: the user cancelled it.
        """
        trial.run.directory.mkdir(parents=True, exist_ok=True)
        record_point(trial)
        run = MlflowRun(
            trial.run.directory,
            trial.run,
            trial.run.tracking,
            name=trial.id,
            params=trial_parameters(trial.run, trial.label, self._differing),
            tags=trial.tags() | {"sweep": self.sweep.name},
            parent=self.parent_run,
            datasets=trained_on(trial.run.data, trial.contents),
        )
        artifacts = partial(run_artifacts, trial.run.directory)
        stops = (TrialInterruptedError, TrialCancelledError)
        with record_life(run, stops=stops, artifacts=artifacts):
            try:
                if trial.after is not None:
                    begin_at_trunk(trial, self.sweep.resources, self.say)
                self._attempt_until_done(trial)
            except (TrialInterruptedError, TrialCancelledError, TrialFailedError):
                raise
            except BaseException as error:
                if not self._stopping.is_set():
                    self._recorder.record_obstacle(trial, error)
                    raise
                # Ray ends a thread that waits for a cluster that was shut down by SystemExit.
                raise TrialInterruptedError("not saved") from error

    def _attempt_until_done(self, trial: Trial) -> None:
        budget = Budget(self.sweep, trial)
        why = ""  # it has other workers than before
        for attempt in itertools.count(self._recorder.attempts(trial) + 1):
            let_run(trial.run.directory)
            workers = self._wait_for_room(trial)
            self._recorder.start(trial, attempt, why, workers)
            self._growth.begins(trial, workers)
            try:
                finished = self._fit(trial, attempt, workers)
            except AttemptFailedError as error:
                why = self._go_on(trial, attempt, error, budget)
                continue
            finally:
                granted = self._growth.ends(trial)
            if finished:
                self._recorder.record(trial, "finished", attempt)
                remember_trial(self.sweep, trial.run, trial.contents)
                return
            if not granted or self._stopping.is_set() or is_cancelled(trial.run.directory):
                self._record_stop(trial, attempt)
            why = f"there is room for {granted} workers"
            self._recorder.record(trial, "resized", attempt, why)
            self.say(f"{trial.id}: {why}; it has saved, and begins again with them")

    def _go_on(self, trial: Trial, attempt: int, error: AttemptFailedError, budget: Budget) -> str:
        """Record an attempt that failed; return why the next one may have other workers, if so.

        Raises:
            TrialInterruptedError: it failed because all stop.
            TrialFailedError: there is no next one.
        """
        if self._stopping.is_set():
            # Some schedulers signal the workers, too: what that breaks is no failure.
            self._recorder.record(trial, "interrupted", attempt, error.reason)
            raise TrialInterruptedError("not saved") from error
        if budget.is_free(error):
            self._recorder.record(trial, "resized", attempt, error.reason)
            self.say(f"{trial.id}: {error.reason}; it goes on with those that there are")
            return error.reason
        self._recorder.record(trial, "failed", attempt, error.reason)
        budget.require_another(error)
        when = f" in {error.pause:.0f} s" * bool(error.pause)
        self.say(f"{trial.id}: attempt {attempt} failed ({error.reason}); trying again{when}")
        pause(error.pause, lambda: self._stopping.is_set() or is_cancelled(trial.run.directory))
        return ""

    def _record_stop(self, trial: Trial, attempt: int) -> None:
        """Record why a trial was told to stop, and raise that."""
        if is_cancelled(trial.run.directory):
            self._recorder.record(trial, "cancelled", attempt)
            raise TrialCancelledError("saved")
        self._recorder.record(trial, "interrupted", attempt)
        raise TrialInterruptedError("saved")

    def _wait_for_room(self, trial: Trial) -> int:
        """Wait for the cluster before an attempt begins, so that waiting costs none.

        Returns:
            The workers of the attempt.
        """
        workers = self.launcher.wait_for_room(
            sizes(self.sweep.resources, trial.run.batch),
            lambda: self._stopping.is_set() or is_cancelled(trial.run.directory),
            lambda words: self.say(f"{trial.id}: {words}"),
        )
        if workers is not None:
            return workers
        if self._stopping.is_set():
            raise TrialInterruptedError("not begun")
        raise self._leave(trial, "cancelled")

    def _fit(self, trial: Trial, attempt: int, workers: int) -> bool:
        """Train a trial; return whether it came to its end, or was told to stop."""
        # The first step comes after many seconds, in which workers start and load torch.
        self.say(f"{trial.id}: starting {self.sweep.resources.share_in_words(workers)}")
        return self.launcher.train(trial, attempt, workers)
