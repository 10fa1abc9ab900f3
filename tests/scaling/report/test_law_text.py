"""What a report says of laws, from results with known numbers."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dpot_scale.config.load import load_sweep
from dpot_scale.config.places import resolve_sweep_paths
from dpot_scale.config.sweep import SweepConfig
from dpot_scale.scaling.plan import Trial, plan
from dpot_scale.scaling.report.analysis import analyze
from dpot_scale.scaling.report.compute_figure import compute_figure
from dpot_scale.scaling.report.figures import scaling_figure
from dpot_scale.scaling.report.laws.fit import Fit
from dpot_scale.scaling.report.predictions import FORETOLD, kept
from dpot_scale.scaling.report.results import finished_trials as finished
from dpot_scale.scaling.report.write import write_report

Planned = Callable[..., tuple[SweepConfig, tuple[Trial, ...]]]
Finish = Callable[..., None]


def test_sizes_and_lengths_give_one_law_and_the_best_use_of_flops(
    tmp_path: Path, finish: Finish, planned: Planned
) -> None:
    sweep, trials = planned(tmp_path, "windows=[800, 1600, 3200, 6400]")
    for trial in trials:
        finish(trial, 0.01 + 8 * trial.parameters**-0.4 + 2 * trial.run.windows**-0.4)
    report = write_report(sweep, trials)
    law = "rel_l2 = 0.01 + 8 N^-0.400 + 2 D^-0.400"
    assert f"Over all sizes and lengths: {law}, D in windows." in report.markdown
    smaller = [trial for trial in trials if trial.label != "Ti"]
    assert f"{max(t.parameters for t in smaller):,} parameters" not in report.markdown
    foretold = report.markdown.partition("## The largest size, foretold")[2].partition("##")[0]
    assert foretold.count("| yes |") == 4
    table = report.markdown.partition("for a number of FLOPs")[2].partition("##")[0]
    most = max(trial.train_flops for trial in trials)
    assert f"| {10 * most:.2g} |" in table
    labels = scaling_figure("law", analyze(finished(trials))).axes[0].get_legend_handles_labels()[1]
    assert labels == [
        *(f"rollout, {windows:,} windows" for windows in (800, 1600, 3200, 6400)),
        "law of all sizes and lengths",
    ]


def test_what_has_not_run_is_foretold(tmp_path: Path, finish: Finish, planned: Planned) -> None:
    sweep, trials = planned(tmp_path)
    for trial in trials[:-1]:
        finish(trial, 3.0 * trial.parameters**-0.2)
    report = write_report(sweep, trials)
    expected = 3.0 * trials[-1].parameters ** -0.2
    row = f"| {trials[-1].label} | {trials[-1].run.windows:,} | {expected:.4f} |"
    assert row in report.markdown.partition("Trials that have not finished:")[2]


def test_what_was_foretold_is_kept_and_not_fitted_anew(
    tmp_path: Path, finish: Finish, planned: Planned
) -> None:
    """A report of the small ones foretells the rest; later ones show that beside what came."""
    sweep, trials = planned(tmp_path)
    *small, large = trials
    for trial in small:
        finish(trial, 3.0 * trial.parameters**-0.2)
    for _ in range(2):
        write_report(sweep, trials)
    (told,) = kept(large.run.directory)
    assert told.value == pytest.approx(3.0 * large.parameters**-0.2, rel=1e-3)
    assert told.trials == 3
    assert "N^-0.200" in told.law
    finish(small[0], 2.9 * small[0].parameters ** -0.2)
    write_report(sweep, trials)
    assert len(kept(large.run.directory)) == 2, "another law says something else"
    last = kept(large.run.directory)[-1]

    finish(large, 2 * last.value)
    for trial in small:
        finish(trial, 2 * last.value * (large.parameters / trial.parameters) ** 0.2)
    markdown = write_report(sweep, trials).markdown
    assert list(kept(large.run.directory))[-1] == last
    shown = markdown.partition("Trials that were foretold before they had finished (UTC):")[2]
    cells = f"| {last.time:%Y-%m-%d %H:%M} | 3 by {last.law} | {last.value:.4f} | {last.low:.4f}"
    assert f"| {large.label} | {large.run.windows:,} {cells} to {last.high:.4f} | " in shown
    assert f" | {2 * last.value:.4f} | no |" in shown
    said = "Of 1 trials that were foretold before they had finished, 0 lie inside their 95 % inter"
    assert said in markdown
    with (large.run.directory / FORETOLD).open("a") as file:
        file.write('\n{"format": 1, "ti')
    assert len(kept(large.run.directory)) == 2, "a line that was cut is none"


def test_the_largest_size_is_compared_with_what_the_smaller_ones_said(
    tmp_path: Path, finish: Finish, planned: Planned
) -> None:
    sweep, trials = planned(tmp_path)
    for trial in trials:
        finish(trial, 3.0 * trial.parameters**-0.2 * (1 + (trial is trials[-1])))
    report = write_report(sweep, trials)
    assert "was measured, outside the interval." in report.markdown
    assert "| no |" in report.markdown.partition("foretold by the smaller ones")[2]


def test_every_error_has_its_law_or_its_reason(
    tmp_path: Path, finish: Finish, planned: Planned
) -> None:
    sweep, trials = planned(tmp_path)
    for trial in trials:
        finish(trial, 3.0 * trial.parameters**-0.2, bad_on="dr")
    laws = write_report(sweep, trials).markdown.partition("## Laws")[2].partition("##")[0]
    assert "| rollout, ns | 3 N^-0.200 | 0.2 (0.2 to 0.2) |" in laws
    # dr has the error 0.4 with every size: the root of the product of both falls half as fast.
    assert "| rollout, geometric mean | 1.1 N^-0.100 |" in laws
    assert "| rollout, dr | none: the error is flat within its scatter in size" in laws
    for measure in ("all parameters", "parameters in blocks", "training FLOPs of a window"):
        assert f"| {measure} |" in laws


def test_each_arm_of_a_design_has_its_own_law(
    tmp_path: Path, finish: Finish, planned: Planned
) -> None:
    sweep, trials = planned(tmp_path, "design=[{grid: {run.optim.lr: [1e-3, 3e-3]}}]")
    for trial in trials[:-1]:
        exponent = 0.1 if trial.factors["optim.lr"] == 1e-3 else 0.2
        finish(trial, trial.parameters**-exponent)
    report = write_report(sweep, trials)
    for lr, law in (("0.001", "N^-0.100"), ("0.003", "N^-0.200")):
        assert f"\n\noptim.lr = {lr}: At 4,096 windows" in report.markdown
        laws = report.markdown.partition(f"## Laws: optim.lr = {lr}\n")[2].partition("##")[0]
        assert f"| rollout, mean | 1 {law} |" in laws
    lost = trials[-1]
    waiting = report.markdown.partition("Trials that have not finished:")[2].partition("##")[0]
    assert f"| {lost.label} |" in waiting
    assert report.markdown.count("Trials that have not finished:") == 1
    axes = scaling_figure("arms", analyze(finished(trials))).axes
    assert axes[1].get_legend_handles_labels()[1] == ["optim.lr = 0.001", "optim.lr = 0.003"]


def test_seeds_are_one_point_and_amounts_of_data_are_told_apart(
    tmp_path: Path, finish: Finish, planned: Planned
) -> None:
    sweep, trials = planned(tmp_path, "design=[{seeds: [0, 1, 2]}]")
    rng = np.random.default_rng(0)
    for trial in trials:
        finish(trial, trial.parameters**-0.16 * np.exp(0.01 * rng.standard_normal()))
    (found,) = analyze(finished(trials))
    assert isinstance(found.size_law, Fit)
    assert found.size_law.points.seeds.tolist() == [3, 3, 3, 3]
    assert found.size_law.noise.freedom == 2 + 8
    report = write_report(sweep, trials)
    assert report.markdown.count(" windows the held-out rollout error") == 1


def test_flops_have_a_figure_where_sizes_and_lengths_have_a_law(
    tmp_path: Path, finish: Finish, planned: Planned
) -> None:
    sweep, trials = planned(tmp_path, "windows=[800, 1600, 3200, 6400]")
    for trial in trials:
        finish(trial, 0.01 + 8 * trial.parameters**-0.4 + 2 * trial.run.windows**-0.4)
    report = write_report(sweep, trials)
    assert sweep.directory / "compute.png" in report.files
    assert "](compute.png)" in report.markdown
    assert "](get-artifact?path=report%2Fcompute.png&run_uuid=f00d)" in report.note(
        "f00d", "#/charts"
    )
    figure = compute_figure("law", analyze(finished(trials)))
    assert figure is not None
    labels = figure.axes[0].get_legend_handles_labels()[1]
    sizes = sorted({trial.parameters for trial in trials})
    assert labels == [*(f"{size:,}" for size in sizes), "the best size"]


def test_parabolas_stand_beside_the_law_where_flops_are_equal(
    tmp_path: Path, finish: Finish
) -> None:
    file = tmp_path / "equal.yaml"
    file.write_text(
        "extends: quickstart\nname: equal\ndesign: [{isoflop: {budgets: [5e11, 2e12, 8e12]}}]\n"
    )
    sweep = resolve_sweep_paths(load_sweep(str(file), ()), tmp_path)
    trials = plan(sweep)
    for trial in trials:
        finish(trial, 0.01 + 80 * trial.parameters**-0.5 + 20 * trial.run.windows**-0.6)
    report = write_report(sweep, trials)
    assert "As a check, the vertices of parabolas" in report.markdown
    assert "N* = k C^c with c = " in report.markdown


def test_bands_of_lead_times_have_their_laws(
    tmp_path: Path, finish: Finish, planned: Planned
) -> None:
    sweep, trials = planned(tmp_path)
    for trial in trials:
        early, late = trial.parameters**-0.3, 2 * trial.parameters**-0.1
        finish(trial, 0.2, lead_times=(early, early, 0.3, 0.3, late, late))
    laws = write_report(sweep, trials).markdown.partition("## Laws")[2].partition("##")[0]
    assert "| rollout, first third of the lead times, mean | 1 N^-0.300 |" in laws
    assert "| rollout, middle third of the lead times, mean | none: the error is flat" in laws
    assert "| rollout, last third of the lead times, mean | 2 N^-0.100 |" in laws


def test_amounts_of_data_give_the_worth_of_repeats(
    tmp_path: Path, describe_dataset: Callable[..., None], finish: Finish, planned: Planned
) -> None:
    lengths = "{windows: [1600, 3200, 6400, 12800]}"
    sweep, trials = planned(tmp_path, f"design=[{lengths}, {{data: {{trajectories: [8, 64]}}}}]")
    for name in sweep.run.data.weights:
        describe_dataset(sweep.run.data.root, name, [(64, 20)], [9.0] * 64)
    assert len(trials) == 4 * 4 * 2
    for trial in trials:
        # Three datasets in equal shares, ten windows in a trajectory.
        distinct = min(trial.run.windows, 30 * int(trial.factors["trajectories"]))
        passes = trial.run.windows / distinct - 1
        effective = distinct * (1 + 5 * (1 - np.exp(-passes / 5)))
        finish(trial, 0.01 + 8 * trial.parameters**-0.4 + 2 * effective**-0.4)
    report = write_report(sweep, trials)
    assert "rel_l2 = 0.01 + 8 N^-0.400 + 2 D'^-0.400" in report.markdown
    assert "| error | law | E | a | b | R | scatter |" in report.markdown
    price = report.markdown.partition("## The price of data")[2]
    assert "what repeated windows are worth is by the law." in price
