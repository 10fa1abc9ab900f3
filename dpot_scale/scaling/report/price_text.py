"""The price of data in words and tables."""

from collections.abc import Sequence
from math import isinf

from dpot_scale.scaling.report.analysis import Analysis
from dpot_scale.scaling.report.blocks import Block, Heading, Table
from dpot_scale.scaling.report.laws.fit import Interval
from dpot_scale.scaling.report.price import (
    REPEATS_WORTH,
    SIZES_BEYOND,
    Bill,
    Purchase,
    best_purchases,
    bill_of,
    price_of,
)
from dpot_scale.scaling.report.results import Finished
from dpot_scale.terminal import duration

TIMES = (1.0, 10.0, 100.0)  # budgets, in multiples of what the dearest trial cost
BILL = ("size", "windows", "rel_l2", "data", "training", "solve", "forecast", "solves to pay")
UNKNOWN = "not known"
PURCHASE = ("budget", "for data", "trajectories", "N", "windows", "rel_l2")


def price_tables(found: Analysis) -> list[Block]:
    """Return the part of the report on costs; nothing where none is known."""
    bills = {entry.trial.id: bill for entry in found.finished if (bill := bill_of(entry))}
    if not bills:
        return []
    billed = [entry for entry in found.main.trials if entry.trial.id in bills]
    return [
        Heading(text=f"The price of data{found.of_arm}"),
        "Times are of one worker, a worker that solves as one that trains. Data are all training "
        "trajectories of a trial, solved once. A forecast begins with frames that still have to be "
        "solved; its time was measured in the evaluation at the end of the training. Solves to "
        "pay: forecasts after which the surrogate has cost less than the solver that made the data "
        "(arXiv 2605.15399). A coarser solver, as accurate as the surrogate, would be cheaper.",
        Table(header=BILL, rows=[_bill_cells(entry, bills[entry.trial.id]) for entry in billed]),
        *_purchases(found, bills),
    ]


def price_sentences(found: Analysis) -> list[str]:
    """Say after how many solves the largest trial has paid for itself."""
    shown = found.shown
    bill = bill_of(shown)
    if bill is None or bill.forecast is None or bill.solves_to_pay is None:
        return []
    if isinf(bill.solves_to_pay):
        return [
            f"{shown.trial.label} never pays for itself: a forecast "
            f"takes {_seconds(bill.forecast)} of a worker, and spares "
            f"{_seconds(bill.solve * bill.spared_share)} of the solver that made the data."
        ]
    return [
        f"{shown.trial.label} has paid for its data and training after "
        f"{_count(bill.solves_to_pay)} solves."
    ]


def _bill_cells(entry: Finished, bill: Bill) -> tuple[str, ...]:
    return (
        entry.trial.label,
        f"{entry.result.windows:,}",
        f"{entry.result.mean_rel_l2:.4f}",
        duration(bill.data),
        duration(bill.training),
        _seconds(bill.solve),
        UNKNOWN if bill.forecast is None else _seconds(bill.forecast),
        UNKNOWN if bill.solves_to_pay is None else _solves(bill.solves_to_pay),
    )


def _purchases(found: Analysis, bills: dict[str, Bill]) -> Sequence[Block]:
    """Return what is best bought for some budgets, where a law weighs size against data."""
    price = price_of(found.finished)
    if found.trade is None or price is None:
        return ["What is best bought for a budget needs a law of size and data."]
    dearest = max(bill.data + bill.training for bill in bills.values())
    bought = best_purchases(
        found.trade, found.window_cost, price, [times * dearest for times in TIMES]
    )
    measured = found.trade.form.repeats
    repeats = (
        "by the law"
        if measured
        else f"assumed as in language models (R = {REPEATS_WORTH:g}; arXiv 2305.16264), since no "
        "law of this sweep says it"
    )
    return [
        "The least error for a total budget, of data and training together, which the dearest "
        f"trial's and its multiples are. Sizes are searched up to {SIZES_BEYOND:g} times those "
        f"trained; what repeated windows are worth is {repeats}.",
        Table(header=PURCHASE, rows=[_purchase_cells(one) for one in bought]),
    ]


def _purchase_cells(one: Purchase) -> tuple[str, ...]:
    share = one.data_share
    return (
        duration(one.seconds),
        f"{share.value:.0%} ({share.low:.0%} to {share.high:.0%})",
        _range(one.trajectories),
        _range(one.size) + ", the largest searched" * one.is_bounded,
        _range(one.windows),
        _range(one.error),
    )


def _range(interval: Interval) -> str:
    return f"{interval.value:.3g} ({interval.low:.3g} to {interval.high:.3g})"


def _seconds(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds < 60 else duration(seconds)


def _solves(number: float) -> str:
    return "never" if isinf(number) else _count(number)


def _count(number: float) -> str:
    return f"{number:,.0f}" if number < 1e6 else f"{number:.2g}"
