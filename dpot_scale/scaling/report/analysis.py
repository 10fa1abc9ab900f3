"""The laws of a sweep's mean rollout error, found once for the text, the tables and the figures."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite

import numpy as np

from dpot_scale.scaling.plan import Trial
from dpot_scale.scaling.report.laws.choice import (
    FEWEST_LENGTHS,
    FEWEST_SIZES,
    Foretold,
    NoFit,
    choose,
    foretell_largest,
)
from dpot_scale.scaling.report.laws.fit import Fit, Interval
from dpot_scale.scaling.report.laws.optimum import SAME_BUDGET, WindowCost
from dpot_scale.scaling.report.laws.points import Array, Points
from dpot_scale.scaling.report.results import Finished, arms, by_windows, longest, mean_points
from dpot_scale.scaling.report.training_data import distinct_windows, training_splits

BEYOND = 10.0  # an optimum is also given for so many times the most FLOPs of a trial


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """Trials of one length of training, or else of equal FLOPs, by size."""

    trials: list[Finished]
    windows: int | None = None
    flops: float | None = None

    def __str__(self) -> str:
        return f"{self.windows:,} windows" if self.windows else f"{self.flops:.2g} FLOPs"

    def points(self, sizes: Array, law: Fit) -> Points:
        """Return the points of the curve at some sizes; of equal FLOPs, between its trials."""
        if self.windows is None:
            lengths = {entry.result.parameters: entry.result.windows for entry in self.trials}
            known = np.log(sorted(lengths.items())).T
            return Points.at(sizes, np.exp(np.interp(np.log(sizes), *known)))
        own = law.points.distinct[law.points.windows == self.windows]
        return Points.at(sizes, self.windows, own.max(initial=0) or self.windows)


@dataclass(frozen=True, kw_only=True, slots=True)
class Analysis:
    """What the finished trials of one arm of a sweep say together."""

    arm: str  # its label; empty where there is only one
    finished: Sequence[Finished]
    group: Sequence[Finished]  # of one length, by size
    size_law: Fit | NoFit  # of the group
    joint_law: Fit | NoFit | None  # of all trials; None: too few sizes or lengths for one
    foretold: Sequence[Foretold] | NoFit  # of the largest size, by all trials that have a law

    @property
    def of_arm(self) -> str:
        """The end of a heading that names the arm; empty where there is only one."""
        return f": {self.arm}" if self.arm else ""

    @property
    def has_no_ladder(self) -> bool:
        """Whether no length has sizes enough for a law, which all lengths together have."""
        sizes = {entry.result.parameters for entry in self.group}
        return self.joint_law is not None and len(sizes) < FEWEST_SIZES

    @property
    def main(self) -> Curve:
        """The trials to speak of: of the longest length, or without a ladder the dearest."""
        if self.has_no_ladder:
            return self.curves[-1]
        return Curve(windows=self.group[0].result.windows, trials=list(self.group))

    @property
    def shown(self) -> Finished:
        """The trial to speak of: the largest of a length, or the best of the most FLOPs."""
        if not self.has_no_ladder:
            return self.group[-1]
        return min(self.main.trials, key=_error_or_last)

    @property
    def curves(self) -> list[Curve]:
        """The trials of each length, or without a ladder those of equal FLOPs."""
        if not self.has_no_ladder:
            lengths = by_windows(self.finished).items()
            return [Curve(windows=windows, trials=group) for windows, group in lengths]
        return self.of_equal_flops

    @property
    def of_equal_flops(self) -> list[Curve]:
        """The trials of each number of FLOPs, the least first."""
        entries = sorted(self.finished, key=lambda entry: entry.budget)
        curves: list[Curve] = []
        for entry in entries:
            flops = entry.budget
            if not curves or flops > SAME_BUDGET * (curves[-1].flops or 0):
                curves.append(Curve(flops=flops, trials=[]))
            curves[-1].trials.append(entry)
        for curve in curves:
            curve.trials.sort(key=lambda entry: entry.result.parameters)
        return curves

    @property
    def together(self) -> Sequence[Finished]:
        """The trials that one law goes through: all of them, or those of one length."""
        return self.group if self.joint_law is None else self.finished

    @property
    def law(self) -> Fit | NoFit:
        """The law of these trials."""
        return self.size_law if self.joint_law is None else self.joint_law

    def foretell(self, waiting: Sequence[Trial]) -> list[tuple[Trial, Interval]]:
        """Return what the law says of trials that have not finished, where it says anything.

        Args:
            waiting: Such trials of this arm.
        """
        law = self.law
        if isinstance(law, NoFit):
            return []
        length = self.group[0].result.windows
        told = [trial for trial in waiting if law.form.data or trial.run.windows == length]
        at = Points.at(
            [trial.parameters for trial in told],
            [trial.run.windows for trial in told],
            [distinct_windows(trial.run, training_splits(trial.run)) for trial in told],
        )
        return list(zip(told, law.foresee(at), strict=True)) if told else []

    def law_at(self, group: Sequence[Finished]) -> Interval | None:
        """Return the law at the point of trials that differ in their seed, if it has one there."""
        if isinstance(self.law, NoFit):
            return None
        point = mean_points(group)
        lengths = self.law.points.windows
        if not len(point) or not (self.law.form.data or point.windows[0] in lengths):
            return None
        low, high = self.law.band(point)
        return Interval(float(self.law.predict(point)[0]), float(low[0]), float(high[0]))

    @property
    def trade(self) -> Fit | None:
        """The law that weighs size against data, if the trials support one."""
        law = self.joint_law
        return law if isinstance(law, Fit) and law.form.size and law.form.data else None

    @property
    def is_of_equal_flops(self) -> bool:
        """Whether the design gave all trials their length by a number of FLOPs."""
        return all("flops" in entry.trial.factors for entry in self.finished)

    @property
    def window_cost(self) -> WindowCost:
        """How the FLOPs of a window grow with parameters."""
        return WindowCost.of(
            np.array([entry.result.parameters for entry in self.finished], float),
            np.array([entry.flops_per_window for entry in self.finished]),
        )

    @property
    def budgets(self) -> list[float]:
        """Numbers of FLOPs to speak of: those of trials, and ten times the most."""
        flops = [entry.train_flops for entry in self.finished]
        return [*np.geomspace(min(flops), max(flops), 3).tolist(), BEYOND * max(flops)]


def _error_or_last(entry: Finished) -> float:
    """Return the error of a trial; one that is no number comes last."""
    error = entry.result.mean_rel_l2
    return error if isfinite(error) else inf


def analyze(finished: Sequence[Finished]) -> list[Analysis]:
    """Return the laws of each arm of trials, of which there is at least one."""
    return [_analyze(label, entries) for label, entries in arms(finished).items()]


def _analyze(arm: str, finished: Sequence[Finished]) -> Analysis:
    group = longest(finished)
    points, all_points = mean_points(group), mean_points(finished)
    has_both = (
        len(set(all_points.sizes)) >= FEWEST_SIZES
        and len(set(all_points.windows)) >= FEWEST_LENGTHS
    )
    return Analysis(
        arm=arm,
        finished=finished,
        group=group,
        size_law=choose(points),
        joint_law=choose(all_points) if has_both else None,
        foretold=foretell_largest(all_points if has_both else points),
    )
