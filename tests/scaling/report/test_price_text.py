"""What a report says of costs, from results with known numbers."""

from collections.abc import Callable
from pathlib import Path

from dpot_scale.config.sweep import SweepConfig
from dpot_scale.scaling.plan import Trial
from dpot_scale.scaling.report.write import write_report

Planned = Callable[..., tuple[SweepConfig, tuple[Trial, ...]]]
Finish = Callable[..., None]


def test_the_price_of_data_is_told(
    tmp_path: Path, describe_dataset: Callable[..., None], finish: Finish, planned: Planned
) -> None:
    sweep, trials = planned(tmp_path, "windows=[800, 1600, 3200, 6400]")
    for name in sweep.run.data.weights:
        describe_dataset(sweep.run.data.root, name, [(100, 20)], [9.0] * 100)
    for trial in trials:
        finish(trial, 0.01 + 8 * trial.parameters**-0.4 + 2 * trial.run.windows**-0.4)
    report = write_report(sweep, trials)
    price = report.markdown.partition("## The price of data")[2].partition("\n## ")[0]
    # 300 trajectories of 9 s; 6,400 windows on two workers, 12.5 in a second; ten forwards.
    spared = 9 * 10 / 20 - 10 * 0.02
    solves = f"{(2700 + 6400 * 2 / 12.5) / spared:,.0f}"
    error = f"{0.01 + 8 * trials[-1].parameters ** -0.4 + 2 * 6400**-0.4:.4f}"
    costs = f"45.0 min | 17.1 min | 9 s | 0.2 s | {solves}"
    assert f"| {trials[-1].label} | 6,400 | {error} | {costs} |" in price
    assert f"has paid for its data and training after {solves} solves" in report.markdown
    assert "assumed as in language models (R = 15.4" in price
    purchases = [line for line in price.splitlines() if "% (" in line]
    assert [line.split(" |")[0] for line in purchases] == ["| 62.1 min", "| 10.3 h", "| 4.3 d"]


def test_a_forecast_that_is_slower_than_the_solver_never_pays(
    tmp_path: Path, describe_dataset: Callable[..., None], finish: Finish, planned: Planned
) -> None:
    sweep, trials = planned(tmp_path)
    for name in sweep.run.data.weights:
        describe_dataset(sweep.run.data.root, name, [(100, 20)], [0.01] * 100)
    for trial in trials:
        finish(trial, trial.parameters**-0.16)
    report = write_report(sweep, trials)
    said = "never pays for itself: a forecast takes 0.2 s of a worker, and spares 0.005 s"
    assert f"{trials[-1].label} {said}" in report.markdown
    assert "What is best bought for a budget needs a law of size and data." in report.markdown


def test_of_data_that_nobody_solved_no_price_is_told(
    tmp_path: Path, finish: Finish, planned: Planned
) -> None:
    sweep, trials = planned(tmp_path)
    finish(trials[0], 0.1)
    report = write_report(sweep, trials)
    assert "price of data" not in report.markdown
    assert "pay" not in report.markdown
