"""The training loop."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from dpot_scale.checkpoints.checkpoint import TrainState
from dpot_scale.config.run import RunConfig
from dpot_scale.data.stream.assembly import Batch
from dpot_scale.data.stream.reader import BatchStream
from dpot_scale.engine.collectives import raise_on_all
from dpot_scale.engine.engine import Engine, Rates, Update
from dpot_scale.engine.peers import lost_peers_named
from dpot_scale.engine.runtime import World
from dpot_scale.errors import (
    DataError,
    DiskError,
    MachineError,
    SharedDataError,
    SharedMachineError,
)
from dpot_scale.tracking import names
from dpot_scale.tracking.tracker import Tracker
from dpot_scale.training.console import Console
from dpot_scale.training.meter import Measured, Meter
from dpot_scale.training.noise import Noise
from dpot_scale.training.objective import training_loss, zero_targets
from dpot_scale.training.quarantine import Quarantine
from dpot_scale.training.saving import Saved, Saving
from dpot_scale.training.schedule import Schedule
from dpot_scale.training.slowest import Waits
from dpot_scale.training.spikes import Spike, Spikes
from dpot_scale.training.watch import Findings, Stop, Verdict, Watch, never

# After so many skipped steps in a row a run has diverged; one that is resumed counts anew. fp16
# needs up to 17 by design: it starts with a loss scale of 2^16 and halves it after each overflow
# but the first.
MAX_SKIPPED_IN_A_ROW = 20

log = logging.getLogger(__name__)


class Trouble(NamedTuple):
    """Why a run diverged: what went wrong, and in which of its steps."""

    words: str
    steps: range  # by how many updates had been made before each
    of_spike: bool = False


class _Unreadable(NamedTuple):
    """Why this rank's stream ended."""

    error: DataError | MachineError
    since: TrainState  # before the step in which it did


@dataclass(kw_only=True)
class Trainer:
    """One run in this process: what is learned is in the objective, when in `fit`.

    Attributes:
        stop: Why the newest `fit` was to end, if it was; also where the run diverged.
        trouble: Why the run diverged, where that is the verdict of the newest `fit`.
    """

    config: RunConfig
    world: World
    engine: Engine
    stream: BatchStream
    tracker: Tracker
    console: Console
    quarantine: Quarantine
    evaluate: Callable[[], Mapping[str, float]]
    save: Callable[[TrainState, bool], Saved]  # commits a checkpoint; if it must not, may begin to
    train_flops_per_window: float
    save_has_failed: Callable[[], bool] = never  # one that was begun, on this rank
    told_to_stop: Callable[[], bool] = never
    preempted: Callable[[], bool] = never
    ends: float | None = None  # by `time.monotonic`, if the attempt has to end some time
    past: Sequence[Measured] = ()  # what is known of the steps before the first one
    waits: Waits = field(default_factory=Waits)
    stop: Stop = field(default=Stop.NO, init=False)
    trouble: Trouble | None = field(default=None, init=False)
    meter: Meter = field(init=False)  # of the newest `fit`
    _schedule: Schedule = field(init=False)
    _noise: Noise = field(init=False)
    _spikes: Spikes = field(init=False)
    _saving: Saving = field(init=False)
    _logged_step: int = field(default=0, init=False)
    _unreadable: _Unreadable | None = field(default=None, init=False)
    _saved: float = field(default_factory=time.monotonic, init=False)  # when, by this rank's clock

    def __post_init__(self) -> None:
        self._schedule = Schedule.of(self.config)
        self._noise = Noise(self.config.seed, self.world.device)

    def fit(self, state: TrainState) -> tuple[Verdict, TrainState]:
        """Train from `state` to the last step, or until a rank has a reason to stop.

        Collective: every rank calls it with the same state. The final state is committed to disk
        unless the run diverged: it skipped `MAX_SKIPPED_IN_A_ROW` steps, or all that there were, or
        ended with a loss that is not finite, or made a step that is a spike.

        Raises:
            SharedDataError, SharedMachineError: a rank cannot read its data; raised on all ranks.
            DiskError: the last state cannot be saved, or too many before; raised on all ranks.
            LostPeerError: another rank ended, or did not answer within `limits.collective`.
        """
        batches = self.stream.start(state.step)
        self.meter = Meter(self.world, lambda: self.stream.wait_seconds, self.waits)
        self._logged_step = state.step
        self._saving = Saving(self.world, state.step)
        self._spikes = Spikes(self.config.limits.spike, self.past)
        verdict = Verdict.FINISHED if state.step == self.config.steps else Verdict.CONTINUE
        watching = closing(Watch(self.world, self.told_to_stop, self.preempted, self.ends))
        # A lost peer is named before anything is closed: the launcher's SIGTERM may come meanwhile.
        with watching as watch, lost_peers_named(self.config.limits.patience):
            while verdict is Verdict.CONTINUE:
                rates = self._schedule.at(state.step)
                loss, update = self._train_step(batches, state, rates)
                self.meter.add(loss, update, self.config.batch.global_batch, rates.lr)
                state = state.after_step()
                self.console.at(state.step)
                found = watch.vote(
                    save_due=self._save_due(),
                    unreadable_since=self._unreadable and self._unreadable.since.step,
                    settle=self._something_is_due(state),
                )
                self.stop = found.stop
                if found.unreadable_since is not None:
                    self._refuse_data(state, TrainState(step=found.unreadable_since))
                verdict = self._do_what_is_due(state, found)
            if verdict is Verdict.STOPPED:  # a second SIGTERM must not end what the first began
                lost = self._save_last(state)
                if lost:
                    how = f"{self.stop.words()} at step {state.step} of {self.config.steps}"
                    raise DiskError(f"the run was stopped {how}{lost}")
        return verdict, state

    def _do_what_is_due(self, state: TrainState, found: Findings) -> Verdict:
        """Log, evaluate and save after a step; return whether to go on. Collective.

        Nothing is saved before it was seen to be finite. And a checkpoint ends a log interval, so a
        resumed run logs the losses of an uninterrupted one.
        """
        saving = found.save_due or self._checkpoint_is_due(state)
        logging = self._due(self.config.tracking.log_every, state.step)
        if (saving or logging or found.stop) and self._log(state):
            return Verdict.DIVERGED
        if self.quarantine.excess is not None:
            lost = self._save_unsaved(state)
            raise SharedDataError(_stopped_by(self.quarantine.excess, state, lost))
        if found.stop and self.meter.loss_is_finite:  # else after a step that may be saved
            return Verdict.STOPPED
        with self.meter.paused(), self.waits.paused():
            self._evaluate_and_save(state, saving=saving and self.meter.loss_is_finite)
        return Verdict.FINISHED if state.step == self.config.steps else Verdict.CONTINUE

    def _something_is_due(self, state: TrainState) -> bool:
        """Return whether a step ends in something for which the ranks must know everything."""
        others = (self.config.tracking.log_every, self.config.evaluation.every)
        return self._checkpoint_is_due(state) or any(self._due(n, state.step) for n in others)

    def _checkpoint_is_due(self, state: TrainState) -> bool:
        checkpoint = self.config.checkpoint
        return self._due(checkpoint.every, state.step) or checkpoint.is_milestone(state.step)

    def _evaluate_and_save(self, state: TrainState, *, saving: bool) -> None:
        """Do what is due after a step. Collective.

        A checkpoint comes after the evaluation, so that a resumed run lacks no point of a curve; at
        the end it comes before, so that an evaluation that fails loses no training.
        """
        evaluating = self._due(self.config.evaluation.every, state.step)
        is_last = state.step == self.config.steps
        if saving and is_last:
            self._save(state, must=True)
        if evaluating:
            self._evaluate(state, must=is_last)
        if saving and not is_last:
            self._save(state)

    def _evaluate(self, state: TrainState, *, must: bool) -> None:
        """Record scores; before the end, held-out data that cannot be read end no training."""
        self.console.at(state.step, "evaluates")
        try:
            scores = self.evaluate()
        except (SharedDataError, SharedMachineError) as error:
            if must:
                raise
            if self.world.is_main:
                log.warning("step %d has no scores: %s", state.step, error)
        else:
            self._report(scores, state)

    def _save(self, state: TrainState, *, must: bool = False) -> None:
        self.console.at(state.step, "saves")
        started = time.monotonic()
        self.quarantine.settle()
        metrics = self._saving.attempt(lambda: self.save(state, must), must=must)
        self._saved = time.monotonic()
        if metrics is not None:
            self._report({names.SAVE_SECONDS: self._saved - started, **metrics}, state)

    def _save_due(self) -> bool:
        """Return whether the main rank's clock asks for a checkpoint, or the newest one failed.

        It failed in a thread: all ranks hear of it where they save.
        """
        seconds = 60 * self.config.checkpoint.minutes
        by_clock = self.world.is_main and 0 < seconds <= time.monotonic() - self._saved
        return by_clock or self.save_has_failed()

    def _train_step(
        self, batches: Iterator[Batch], state: TrainState, rates: Rates
    ) -> tuple[Tensor, Update]:
        config = self.config

        def next_batch() -> Batch:
            batch = self._next_batch(batches, state)
            self.meter.leave_out(zero_targets(batch, config.objective, config.model.history))
            self.meter.could_not_read(batch.quarantined)
            return batch

        return train_step(self.engine, next_batch, config, self.world, rates, self._noise)

    def _next_batch(self, batches: Iterator[Batch], state: TrainState) -> Batch:
        """Return the next micro-batch; one without numbers once the data cannot be read.

        The other ranks are in the same step, whose collectives need this rank: only after it do
        all learn of this.
        """
        if self._unreadable is None:
            try:
                return next(batches)
            except (DataError, MachineError) as error:
                self._unreadable = _Unreadable(error, state)
        return self.stream.void_batch()

    def _refuse_data(self, now: TrainState, since: TrainState) -> None:
        """Save and stop, with the sentence of the rank that cannot read its data. Collective.

        No rank has applied the steps that were made since: the loss of that rank is NaN.
        """
        self.meter.undo(now.step - since.step)
        lost = self._save_unsaved(since)
        problem: DataError | MachineError | None = None
        if self._unreadable is not None:
            kind = MachineError if isinstance(self._unreadable.error, MachineError) else DataError
            problem = kind(_stopped_by(self._unreadable.error, since, lost))
        raise_on_all(problem, self.world)

    def _save_unsaved(self, state: TrainState) -> str:
        """Save what bad data are about to end, unless it is saved already or broken. Collective.

        Returns:
            Why the newest step is lost, if it is: the data remain what ends the run.
        """
        diverged = self.meter.pending and self._log(state)
        if diverged or not self.meter.loss_is_finite or state.step == self._saving.newest:
            return ""
        return self._save_last(state)

    def _save_last(self, state: TrainState) -> str:
        """Save the newest step before the run ends; return why it is lost, if it is. Collective."""
        try:
            self._save(state, must=True)
        except DiskError as error:
            return f", which could not be saved, so a restart goes back to before it ({error})"
        return ""

    def _log(self, state: TrainState) -> bool:
        """Record the steps since the last log; return whether the run diverged. Collective."""
        metrics = self.meter.reduce(self.train_flops_per_window)
        if self.meter.any_quarantined:
            self.quarantine.add(self.meter.quarantined)
            metrics[names.QUARANTINED] = len(self.quarantine)
        self._report(metrics, state)
        first_step, self._logged_step = self._logged_step, state.step
        # What the meter found is of all ranks, so all come to the same answer.
        spike = self._spikes.find(first_step, self.meter.measured)
        self.trouble = self._skipped_too_many(state) or self._spiked(spike, first_step, state)
        return self.trouble is not None

    def _skipped_too_many(self, state: TrainState) -> Trouble | None:
        skipped = self.meter.skipped_in_a_row
        is_last = state.step == self.config.steps
        ends_badly = is_last and (skipped == state.step or not self.meter.loss_is_finite)
        if skipped < MAX_SKIPPED_IN_A_ROW and not ends_badly:
            return None
        steps = "its last step" if skipped == 1 else f"each of its last {skipped} steps"
        words = f"in {steps} the loss or the gradient was not finite"
        return Trouble(words, range(state.step - skipped, state.step))

    def _spiked(self, spike: Spike | None, first_step: int, state: TrainState) -> Trouble | None:
        """Return a spike as trouble: that step, and those that were made with its weights."""
        if spike is None:
            return None
        before = first_step + spike.offset
        words = (
            f"the {spike.what} of step {before + 1} was {spike.value:.3g}, more than limits.spike="
            f"{self.config.limits.spike:g} times the largest before it, {spike.largest:.3g}"
        )
        return Trouble(words, range(before, state.step), of_spike=True)

    def _due(self, every: int, step: int) -> bool:
        """Return whether something done every so many steps, and at the end, is due now."""
        return step == self.config.steps or (every > 0 and step % every == 0)

    def _report(self, metrics: Mapping[str, float], state: TrainState) -> None:
        """Record and show metrics."""
        windows = state.step * self.config.batch.global_batch
        so_far = {
            names.WINDOWS: windows,
            names.TRAIN_FLOPS: windows * self.train_flops_per_window,
        }
        self.tracker.log({**metrics, **so_far}, step=state.step)
        self.console.progress(metrics, step=state.step)


def _stopped_by(problem: object, state: TrainState, lost: str) -> str:
    stopped = f"{problem}; the run stopped after step {state.step}{lost}"
    if isinstance(problem, MachineError):  # which says what to do
        return stopped
    return f"{stopped}: mend the data and start it again to continue"


def train_step(
    engine: Engine,
    next_batch: Callable[[], Batch],
    config: RunConfig,
    world: World,
    rates: Rates,
    noise: Noise,
) -> tuple[Tensor, Update]:
    """Make one optimizer update; return the mean loss of this rank and what the step did."""
    loss_sum = torch.zeros((), device=world.device)
    accumulation_steps = config.batch.accumulation_steps(world.world_size)
    for _ in range(accumulation_steps):
        loss = training_loss(engine, next_batch(), config.objective, config.model.history, noise)
        engine.backward(loss)
        loss_sum += loss.detach()
    return loss_sum / accumulation_steps, engine.step(rates)
