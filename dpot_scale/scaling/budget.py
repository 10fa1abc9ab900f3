"""Which trials of a plan narrow the law of a sweep most for a number of device hours."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dpot_scale.config.sweep import SweepConfig
from dpot_scale.errors import ConfigError
from dpot_scale.scaling.plan import Trial
from dpot_scale.scaling.plan_text import device_hours
from dpot_scale.scaling.report.analysis import analyze
from dpot_scale.scaling.report.laws.choice import NoFit
from dpot_scale.scaling.report.laws.fit import Fit
from dpot_scale.scaling.report.laws.planning import expected_width
from dpot_scale.scaling.report.laws.points import Points
from dpot_scale.scaling.report.results import Finished, arm_of, finished_trials
from dpot_scale.scaling.stopping import is_cancelled


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """The trials to run for a budget, and what they are expected to bring."""

    trials: tuple[Trial, ...]
    hours: float
    words: str  # why these


def choose_trials(
    sweep: SweepConfig, trials: Sequence[Trial], earlier: Sequence[Trial], hours: float
) -> Choice:
    """Return the unfinished trials that narrow the law most for so many device hours.

    One after another, the trial is taken that narrows the expected 95 % interval of the law at the
    largest planned trial most for its price; a branch comes with its trunk. Where there is no law
    yet, the cheapest trials are taken, which make one soonest.

    Args:
        sweep: The sweep, its kind of workers settled.
        trials: Its plan.
        earlier: Finished trials of earlier designs.
        hours: Device hours.

    Raises:
        ConfigError: its rates are not probed yet, nothing is left to run, or not even the cheapest
            trial can be paid for.
    """
    if any(trial.role == "unprobed" for trial in trials):
        raise ConfigError(
            f"the rates of sweep {sweep.name} are not probed yet: run the trials of its probe first"
        )
    trials = [trial for trial in trials if trial.role == "point"]
    finished = finished_trials((*trials, *earlier))
    done = {entry.trial.id for entry in finished}
    left = [t for t in trials if t.id not in done and not is_cancelled(t.run.directory)]
    # A branch whose trunk was cancelled does not begin.
    to_come = done | {trial.id for trial in left}
    left = [t for t in left if t.after is None or t.after.trial in to_come]
    if not left:
        raise ConfigError(
            f"every trial of sweep {sweep.name} has finished or was cancelled: nothing is left to "
            "buy"
        )
    laws = _laws(finished)
    chooser = _Chooser(sweep, left, hours)
    arm = arm_of(max(left, key=lambda trial: trial.train_flops))
    law = laws.get(arm)
    if isinstance(law, Fit):
        words = chooser.narrow(law, [trial for trial in left if arm_of(trial) == arm])
    else:
        reason = f": {law}" if isinstance(law, NoFit) else ""
        words = f"there is no law to narrow yet{reason}; these are the cheapest trials"
        chooser.take_the_cheapest()
    if not chooser.chosen:
        cheapest = min(chooser.price(trial) for trial in left)
        raise ConfigError(
            f"{hours:g} device hours pay for no trial; the cheapest takes {cheapest:.3g}"
        )
    return Choice(trials=tuple(chooser.chosen), hours=chooser.spent, words=words)


def _laws(finished: Sequence[Finished]) -> dict[object, Fit | NoFit]:
    """Return the law of each arm of the finished trials."""
    if not finished:
        return {}
    return {arm_of(one.finished[0].trial): one.law for one in analyze(finished)}


class _Chooser:
    """Takes trials until a budget is spent.

    Args:
        sweep: The sweep.
        left: Its unfinished trials, the cheapest first.
        hours: The budget.
    """

    def __init__(self, sweep: SweepConfig, left: Sequence[Trial], hours: float) -> None:
        self._sweep, self._left, self._hours = sweep, left, hours
        self._by_id = {trial.id: trial for trial in left}
        self.chosen: list[Trial] = []
        self.spent = 0.0

    def price(self, trial: Trial) -> float:
        """Return the device hours of a trial and, of a branch, of a trunk that is not taken yet."""
        return sum(device_hours(self._sweep, one) for one in self._with_trunk(trial))

    def take_the_cheapest(self) -> None:
        """Take trials in the order of their price."""
        for trial in self._left:
            if trial not in self.chosen and self.price(trial) <= self._hours - self.spent:
                self._take(trial)

    def narrow(self, law: Fit, candidates: Sequence[Trial]) -> str:
        """Take the trials that narrow a law most for their price; say how much that is."""
        largest = max(candidates, key=lambda trial: trial.train_flops)
        target = _points([largest])
        before = width = float(expected_width(law, _points([]), target)[0])
        while True:
            gains: dict[tuple[int, int], tuple[float, float, Trial]] = {}
            for trial in candidates:
                key = (trial.parameters, trial.run.windows)  # seeds of a point are worth the same
                fits = self.price(trial) <= self._hours - self.spent
                if trial in self.chosen or key in gains or not fits:
                    continue
                planned = _points([*self.chosen, *self._with_trunk(trial)])
                narrower = float(expected_width(law, planned, target)[0])
                gains[key] = ((width - narrower) / self.price(trial), narrower, trial)
            if not gains:
                break
            _, width, best = max(gains.values(), key=lambda gain: gain[0])
            self._take(best)
        now, then = (f"x/÷ {np.exp(w / 2):.4g}" for w in (before, width))
        return (
            f"expected 95 % interval of the law at {largest.parameters:,} parameters and "
            f"{largest.run.windows:,} windows: {now} now, {then} after these"
        )

    def _with_trunk(self, trial: Trial) -> list[Trial]:
        trunk = self._by_id.get(trial.after.trial) if trial.after is not None else None
        return [trial] if trunk is None or trunk in self.chosen else [trunk, trial]

    def _take(self, trial: Trial) -> None:
        self.spent += self.price(trial)
        self.chosen += self._with_trunk(trial)


def _points(trials: Sequence[Trial]) -> Points:
    """Return trials as points of a law; repeats of their data are not known before they run."""
    return Points.at([t.parameters for t in trials], [t.run.windows for t in trials])
