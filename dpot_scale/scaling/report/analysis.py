"""The laws of a sweep's mean rollout error, found once for the text, the tables and the figures."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dpot_scale.scaling.report.laws.choice import (
    FEWEST_LENGTHS,
    FEWEST_SIZES,
    Foretold,
    NoFit,
    choose,
    foretell_largest,
)
from dpot_scale.scaling.report.laws.fit import Fit
from dpot_scale.scaling.report.laws.optimum import SAME_BUDGET, WindowCost
from dpot_scale.scaling.report.results import Finished, arms, longest, mean_points

BEYOND = 10.0  # an optimum is also given for so many times the most FLOPs of a trial


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
    def shown(self) -> Finished:
        """The trial to speak of: the largest of one length, or the best of the most FLOPs."""
        if not self.has_no_ladder:
            return self.group[-1]
        most = max(entry.result.train_flops for entry in self.finished)
        dear = [e for e in self.finished if e.result.train_flops * SAME_BUDGET > most]
        return min(dear, key=lambda entry: entry.result.mean_rel_l2)

    @property
    def together(self) -> Sequence[Finished]:
        """The trials that one law goes through: all of them, or those of one length."""
        return self.group if self.joint_law is None else self.finished

    @property
    def law(self) -> Fit | NoFit:
        """The law of these trials."""
        return self.size_law if self.joint_law is None else self.joint_law

    @property
    def trade(self) -> Fit | None:
        """The law that weighs size against data, if the trials support one."""
        law = self.joint_law
        return law if isinstance(law, Fit) and law.form.size and law.form.data else None

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
        flops = [entry.result.train_flops for entry in self.finished]
        return [*np.geomspace(min(flops), max(flops), 3).tolist(), BEYOND * max(flops)]


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
