"""Costs against sums by hand, and purchases against a search."""

from math import inf
from pathlib import Path

import numpy as np
import pytest

from dpot_scale.config.load import load_sweep
from dpot_scale.scaling.plan import plan
from dpot_scale.scaling.report.laws.choice import choose
from dpot_scale.scaling.report.laws.fit import Fit
from dpot_scale.scaling.report.laws.optimum import WindowCost
from dpot_scale.scaling.report.laws.points import Array, Points
from dpot_scale.scaling.report.price import Bill, Price, best_purchases, bill_of, price_of
from dpot_scale.scaling.report.results import Finished
from dpot_scale.scaling.report.training_data import TrainingSplit
from tests.results import result_of

COST = WindowCost(coefficient=100.0, exponent=0.9)
PRICE = Price(solve_seconds=2.0, windows_per_trajectory=10.0, flops_per_second=1e9)


def error(sizes: Array, effective: Array) -> Array:
    return 0.01 + 8.0 * sizes**-0.4 + 2.0 * effective**-0.3


def law(repeats: float | None) -> Fit:
    sizes, windows, distinct = (
        axis.ravel()
        for axis in np.meshgrid(
            np.geomspace(1e5, 1e7, 4), np.geomspace(2e3, 1e5, 4), [2e3, 1e4, 1e5]
        )
    )
    distinct = np.minimum(distinct, windows)
    effective = windows
    if repeats:
        effective = distinct * (1 + repeats * (1 - np.exp(-(windows / distinct - 1) / repeats)))
    found = choose(
        Points.of(sizes, error(sizes, effective), windows=windows, distinct=distinct), draws=20
    )
    assert isinstance(found, Fit)
    return found


@pytest.mark.parametrize("repeats", [4.0, None])
def test_no_other_purchase_of_equal_cost_is_better(repeats: float | None) -> None:
    found = law(repeats)
    assert found.form.repeats == bool(repeats)
    (best,) = best_purchases(found, COST, PRICE, [1e4])
    spent = best.trajectories.value * PRICE.solve_seconds
    spent += best.windows.value * COST.flops(np.array([best.size.value]))[0] / 1e9
    assert spent == pytest.approx(1e4)
    assert best.data_share.value == pytest.approx(best.trajectories.value * 2.0 / 1e4)
    worth = repeats or 15.4  # assumed where the sweep does not say it
    share, size = np.meshgrid(np.linspace(0.001, 0.999, 1000), np.geomspace(1e4, 1e8, 1000))
    distinct = share * 1e4 / 2.0 * 10.0
    windows = (1 - share) * 1e4 * 1e9 / COST.flops(size)
    distinct = np.minimum(distinct, windows)
    effective = distinct * (1 + worth * (1 - np.exp(-(windows / distinct - 1) / worth)))
    assert best.error.value == pytest.approx(error(size, effective).min(), rel=2e-3)


def test_where_the_largest_size_is_best_it_is_said_to_be_the_last_that_was_tried() -> None:
    rich, poor = best_purchases(law(None), COST, PRICE, [1e12, 1e4])
    assert rich.is_bounded
    assert rich.size.value == pytest.approx(1e8)
    assert not poor.is_bounded


def test_dearer_data_are_bought_less_and_repeated_more() -> None:
    dear = Price(solve_seconds=200.0, windows_per_trajectory=10.0, flops_per_second=1e9)
    found = law(None)
    ((cheap_buy,), (dear_buy,)) = (
        best_purchases(found, COST, price, [1e5]) for price in (PRICE, dear)
    )
    assert dear_buy.error.value > cheap_buy.error.value
    assert dear_buy.trajectories.value < cheap_buy.trajectories.value
    assert dear_buy.windows.value / dear_buy.trajectories.value > (
        cheap_buy.windows.value / cheap_buy.trajectories.value
    )


def test_solves_to_pay_are_what_was_spent_over_what_one_spares() -> None:
    bill = Bill(data=300.0, training=700.0, solve=4.0, forecast=0.5, spared_share=0.75)
    assert bill.solves_to_pay == pytest.approx(1000 / (3.0 - 0.5))
    unknown = Bill(data=300.0, training=700.0, solve=4.0, forecast=None, spared_share=0.75)
    assert unknown.solves_to_pay is None
    slow = Bill(data=300.0, training=700.0, solve=4.0, forecast=3.0, spared_share=0.75)
    assert slow.solves_to_pay == inf


def finished(
    tmp_path: Path, splits: dict[str, TrainingSplit] | None, **result: dict[str, float]
) -> Finished:
    """Return a trial of the quickstart: 10 frames of history, 2 workers, 8 windows a second."""
    sweep = load_sweep("quickstart", [f"run.data.root={tmp_path}", f"run.output={tmp_path}"])
    trial = plan(sweep)[0]
    keys = {"windows": 4096, "steps": 128, "train_flops": 4096e9, "windows_per_second": 8.0}
    measured = result_of(trial, **keys, **result)
    return Finished(trial=trial, result=measured, splits=splits)


def split(trajectories: int, frames: float, seconds: float | None) -> TrainingSplit:
    return TrainingSplit(
        trajectories=trajectories,
        frames=frames,
        windows=int(trajectories * (frames - 10)),
        solve_seconds=seconds,
    )


def test_the_bill_of_a_trial(tmp_path: Path) -> None:
    splits = {"a": split(30, 20, 2.0), "b": split(10, 40, 6.0)}
    entry = finished(tmp_path, splits, forward_seconds={"a": 0.01, "b": 0.02})
    bill = bill_of(entry)
    assert bill is not None
    assert bill.data == 30 * 2.0 + 10 * 6.0
    assert bill.training == 512.0 * 2
    assert bill.solve == pytest.approx(120 / 40)
    # Ten frames of each trajectory are known; the others take a forward each.
    assert bill.forecast == pytest.approx((30 * 10 * 0.01 + 10 * 30 * 0.02) / 40)
    assert bill.spared_share == pytest.approx(15 / 25)
    price = price_of([entry])
    assert price is not None
    assert price.windows_per_trajectory == pytest.approx((300 + 300) / 40)
    assert price.flops_per_second == pytest.approx(1e9 * 8.0 / 2)


def test_a_result_that_lacks_the_time_of_a_forward_is_billed_without_forecasts(
    tmp_path: Path,
) -> None:
    splits = {"a": split(30, 20, 2.0), "b": split(10, 40, 6.0)}
    for known in ({}, {"a": 0.01}):
        bill = bill_of(finished(tmp_path, splits, forward_seconds=known))
        assert bill is not None
        assert bill.forecast is None
        assert bill.solves_to_pay is None


@pytest.mark.parametrize("splits", [None, {"a": split(30, 20, 2.0), "b": split(10, 40, None)}])
def test_costs_that_are_not_known_are_no_bill(
    tmp_path: Path, splits: dict[str, TrainingSplit] | None
) -> None:
    entry = finished(tmp_path, splits)
    assert bill_of(entry) is None
    assert price_of([entry]) is None
