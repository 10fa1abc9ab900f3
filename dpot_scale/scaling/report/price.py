"""What data cost beside training, and what is best bought for a total budget.

All costs are seconds of a worker: of the one that solves and of the one that trains. Legend:
z draws of the law, p purchases.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, inf

import numpy as np

from dpot_scale.config.model import ModelConfig
from dpot_scale.scaling.report.laws.fit import Fit, Interval, ends
from dpot_scale.scaling.report.laws.optimum import WindowCost
from dpot_scale.scaling.report.laws.points import Array, Points
from dpot_scale.scaling.report.results import Finished
from dpot_scale.scaling.report.training_data import TrainingSplit

# Passes after which repeated data have lost most of their worth, in language models (Muennighoff et
# al. 2023, section 6): for laws of designs that do not vary repeats.
REPEATS_WORTH = 15.4
SIZES_BEYOND = 10.0  # sizes are searched so far beyond those that were trained
SEARCHED = 81  # sizes, and shares of the budget
PRICE_DRAWS = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Price:
    """What things cost, in seconds of a worker."""

    solve_seconds: float  # of one trajectory
    windows_per_trajectory: float
    flops_per_second: float  # of training


@dataclass(frozen=True, kw_only=True, slots=True)
class Purchase:
    """The least error for a budget, and how it is divided."""

    seconds: float
    data_share: Interval
    trajectories: Interval
    size: Interval
    windows: Interval
    error: Interval
    is_bounded: bool  # the size is the largest that was searched, so a larger one may be better


def best_purchases(
    law: Fit, cost: WindowCost, price: Price, budgets: Sequence[float]
) -> list[Purchase]:
    """Return for each budget the size, the windows and the trajectories of the least error.

    Args:
        law: A law of size and data.
        cost: FLOPs of a window by size.
        price: What solving and training cost.
        budgets: In seconds of a worker.
    """
    form, theta_zk = law.form, np.vstack([law.theta_k, law.draws_zk[:PRICE_DRAWS]])
    if not form.repeats:
        form = replace(form, repeats=True)
        theta_zk = np.column_stack([theta_zk, np.full(len(theta_zk), np.log(REPEATS_WORTH))])
    low, high = law.points.sizes.min() / SIZES_BEYOND, law.points.sizes.max() * SIZES_BEYOND
    odds = np.geomspace(1e-4, 1e4, SEARCHED)
    size_p, share_p = (
        axis.ravel() for axis in np.meshgrid(np.geomspace(low, high, SEARCHED), odds / (1 + odds))
    )
    purchases = []
    for seconds in budgets:
        trajectories_p = share_p * seconds / price.solve_seconds
        windows_p = (1 - share_p) * seconds * price.flops_per_second / cost.flops(size_p)
        possible = (trajectories_p >= 1) & (windows_p >= 1)
        at = Points.at(
            size_p[possible],
            windows_p[possible],
            trajectories_p[possible] * price.windows_per_trajectory,
        )
        error_zp = form.predict(theta_zk, at)
        best_z = error_zp.argmin(axis=1)
        purchases.append(
            Purchase(
                seconds=seconds,
                data_share=_interval(share_p[possible][best_z]),
                trajectories=_interval(trajectories_p[possible][best_z]),
                size=_interval(at.sizes[best_z]),
                windows=_interval(at.windows[best_z]),
                error=_interval(error_zp.min(axis=1)),
                is_bounded=bool(np.isclose(at.sizes[best_z[0]], high)),
            )
        )
    return purchases


def _interval(values: Array) -> Interval:
    """Return the first value, of the fitted law, with the interval of the others, of its draws."""
    return Interval(float(values[0]), *map(float, ends(values[1:])))


@dataclass(frozen=True, kw_only=True, slots=True)
class Bill:
    """What a trial cost, and what one forecast of it spares, in seconds of a worker.

    A forecast begins with frames that the solver has to make, so it spares the rest of a solve.
    """

    data: float  # all its training trajectories
    training: float
    solve: float  # one trajectory, mean over the training split
    forecast: float | None  # of one, as it was measured; None: by an earlier version, not at all
    spared_share: float  # of a solve, by a forecast

    @property
    def solves_to_pay(self) -> float | None:
        """Forecasts after which data and training are paid for; infinite where none pays.

        None where it is not known what a forecast takes.

        N* = up-front / (solve - forecast) as in Zhang et al. 2026 (arXiv 2605.15399), where the
        solve is that of a solver that is only as accurate as the surrogate. The solver that made
        the data is better and dearer, so this is the least that N* can be.
        """
        if self.forecast is None:
            return None
        spared = self.solve * self.spared_share - self.forecast
        return (self.data + self.training) / spared if spared > 0 else inf


def bill_of(entry: Finished) -> Bill | None:
    """Return the bill of a trial; None where the cost of some of its data is not known."""
    by_name = entry.splits or {}
    splits = list(by_name.values())
    solves = [split.solve_seconds for split in splits]
    known = [seconds for seconds in solves if seconds is not None]
    if not splits or len(known) < len(splits):
        return None
    trajectories = sum(split.trajectories for split in splits)
    data = sum(split.trajectories * seconds for split, seconds in zip(splits, known, strict=True))
    frames = sum(split.trajectories * split.frames for split in splits) / trajectories
    model, result = entry.trial.run.model, entry.result
    forecasts = [
        split.trajectories * _forwards(split, model) * result.forward_seconds[name]
        for name, split in by_name.items()
        if name in result.forward_seconds
    ]
    return Bill(
        data=data,
        # Not the seconds of the last attempt: a trial may have been resumed, or branch off.
        training=result.windows * result.world_size / result.windows_per_second,
        solve=data / trajectories,
        forecast=sum(forecasts) / trajectories if len(forecasts) == len(splits) else None,
        spared_share=max(frames - model.history, 0.0) / frames,
    )


def _forwards(split: TrainingSplit, model: ModelConfig) -> int:
    """Return how many forwards forecast a trajectory from its first frames."""
    return ceil(max(split.frames - model.history, 0.0) / model.horizon)


def price_of(finished: Sequence[Finished]) -> Price | None:
    """Return what data and training cost in a sweep; None where that is not known.

    The speed is that of the trial with the most FLOPs: small models are slower per FLOP.
    """
    largest = max(finished, key=lambda entry: entry.train_flops)
    bill = bill_of(largest)
    if bill is None or largest.splits is None:
        return None
    splits = largest.splits.values()
    result = largest.result
    return Price(
        solve_seconds=bill.solve,
        windows_per_trajectory=sum(split.windows for split in splits)
        / sum(split.trajectories for split in splits),
        flops_per_second=largest.flops_per_window * result.windows_per_second / result.world_size,
    )
