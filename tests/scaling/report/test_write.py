"""The report from results with known numbers."""

import csv
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dpot_scale.config.load import load_sweep
from dpot_scale.config.places import resolve_sweep_paths
from dpot_scale.config.sweep import SweepConfig
from dpot_scale.evaluation.scores import DatasetScore
from dpot_scale.runs.result import TrainingResult, save_result
from dpot_scale.scaling.plan import Trial, plan
from dpot_scale.scaling.report.analysis import analyze
from dpot_scale.scaling.report.compute_figure import compute_figure
from dpot_scale.scaling.report.figures import scaling_figure
from dpot_scale.scaling.report.laws.fit import Fit
from dpot_scale.scaling.report.results import best_trial
from dpot_scale.scaling.report.results import finished_trials as finished
from dpot_scale.scaling.report.text import FIGURE, REPORT
from dpot_scale.scaling.report.write import RESULTS, NothingToReportError, write_report

PERSISTENCE = {"ns": 0.4, "dr": 0.2}


def planned(tmp_path: Path, *overrides: str) -> tuple[SweepConfig, tuple[Trial, ...]]:
    sweep = resolve_sweep_paths(load_sweep("quickstart", overrides), tmp_path)
    return sweep, plan(sweep)


def finish(
    trial: Trial,
    rel_l2: float,
    *,
    bad_on: str = "",
    valid_rel_l2: float | None = None,
    lead_times: tuple[float, ...] = (),
) -> None:
    """Write a result whose rollout errors are rel_l2 on both datasets; ns may have a valid one."""
    scores = {
        name: DatasetScore(
            rel_l2=2 * persistence if name == bad_on else rel_l2,
            one_step_rel_l2=rel_l2 / 2,
            persistence_rel_l2=persistence,
            persistence_one_step_rel_l2=persistence / 2,
        )
        for name, persistence in PERSISTENCE.items()
    }
    result = TrainingResult(
        name=trial.id,
        identity="0123456789ab",
        datasets=dict.fromkeys(PERSISTENCE, "0123456789ab"),
        world_size=2,
        parameters=trial.parameters,
        block_parameters=trial.block_parameters,
        windows=trial.run.windows,
        steps=trial.run.steps,
        seconds=90.0,
        train_flops=trial.train_flops,
        windows_per_second=12.5,
        peak_memory_gib=1.5,
        final_train_loss=rel_l2,
        evaluation=scores,
        valid={"ns": scores["ns"].model_copy(update={"rel_l2": valid_rel_l2})}
        if valid_rel_l2 is not None
        else {},
        lead_times=dict.fromkeys(PERSISTENCE, lead_times) if lead_times else {},
    )
    trial.run.directory.mkdir(parents=True)
    save_result(trial.run.directory, result)


def test_nothing_finished_is_one_sentence(tmp_path: Path) -> None:
    sweep, trials = planned(tmp_path)
    with pytest.raises(NothingToReportError, match="no trial of sweep quickstart-sweep"):
        write_report(sweep, trials)


def test_the_law_and_the_conclusion_come_from_the_results(tmp_path: Path) -> None:
    sweep, trials = planned(tmp_path)
    for trial in trials:
        finish(trial, trial.parameters**-0.16)
    report = write_report(sweep, trials)
    assert "N^-0.160" in report.markdown
    assert "falls with every step in size" in report.markdown
    assert f"{trials[-1].label} beats repeating the last frame on every dataset" in report.markdown
    assert f"{len(trials)} of {len(trials)} trials finished" in report.markdown
    for trial in trials:
        assert f"| {trial.label} | {trial.parameters:,} |" in report.markdown
    assert "| persistence |  | 0.4000 | 0.2000 |" in report.markdown
    assert "| persistence |  | 0.2000 | 0.1000 |" in report.markdown
    assert (sweep.directory / REPORT).read_text() == report.markdown
    assert (sweep.directory / FIGURE).read_bytes().startswith(b"\x89PNG")
    assert "persistence" in report.summary
    assert max(map(len, report.summary.splitlines())) <= 120


def test_bad_news_is_told(tmp_path: Path) -> None:
    sweep, trials = planned(tmp_path)
    for trial, error in zip(trials, (0.15, 0.1, 0.12, 0.09), strict=True):
        finish(trial, error, bad_on="dr")
    report = write_report(sweep, trials)
    assert "does not fall with every step" in report.markdown
    assert f"{trials[-1].label} does not beat repeating the last frame on: dr." in report.markdown


def test_what_is_unfinished_is_left_out(tmp_path: Path) -> None:
    sweep, trials = planned(tmp_path)
    finish(trials[0], 0.1)
    report = write_report(sweep, trials)
    assert f"1 of {len(trials)} trials finished" in report.markdown
    assert "Power law" not in report.markdown
    assert report.markdown.count(f"{trials[0].parameters:,} parameters") == 1
    assert trials[1].label not in report.summary


def test_two_sizes_are_not_called_a_law(tmp_path: Path) -> None:
    sweep, trials = planned(tmp_path)
    for trial in trials[:2]:
        finish(trial, trial.parameters**-0.16)
    report = write_report(sweep, trials)
    assert "Power law" not in report.markdown
    assert "2 finished sizes: a power law needs at least 3." in report.markdown
    labels = (
        scaling_figure("quickstart", analyze(finished(trials)))
        .axes[0]
        .get_legend_handles_labels()[1]
    )
    assert not [label for label in labels if label.startswith("fit")]


def test_the_longest_trainings_decide(tmp_path: Path) -> None:
    overrides = ["windows=[800, 1600]"]
    sweep, trials = planned(tmp_path, *overrides)
    for trial in trials:
        exponent = 0.1 if trial.run.windows == 800 else 0.2
        finish(trial, trial.parameters**-exponent)
    report = write_report(sweep, trials)
    assert "At 1,600 windows" in report.markdown
    assert "N^-0.200" in report.markdown
    labels = (
        scaling_figure("quickstart", analyze(finished(trials)))
        .axes[0]
        .get_legend_handles_labels()[1]
    )
    assert [label for label in labels if label.startswith("fit")] == [
        "fit N$^{-0.10}$",
        "fit N$^{-0.10}$",
        "fit N$^{-0.20}$",
        "fit N$^{-0.20}$",
    ]


def test_the_csv_holds_every_score(tmp_path: Path) -> None:
    sweep, trials = planned(tmp_path)
    for trial in trials:
        finish(trial, 0.25)
    write_report(sweep, trials)
    with (sweep.directory / RESULTS).open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(trials) * len(PERSISTENCE)
    assert {row["trial"] for row in rows} == {trial.id for trial in trials}
    assert {row["digest"] for row in rows} == {"0123456789ab"}
    assert all(float(row["rel_l2"]) == 0.25 for row in rows)
    assert {(row["distinct_windows"], row["seed"]) for row in rows} == {("4096", "0")}
    assert {float(row["persistence_rel_l2"]) for row in rows} == set(PERSISTENCE.values())


def test_the_best_trial_is_chosen_by_the_test_only_where_there_is_no_valid_split(
    tmp_path: Path,
) -> None:
    _, trials = planned(tmp_path)
    assert best_trial(finished(trials)) is None
    first, second, third, fourth = trials
    finish(first, float("nan"))
    assert best_trial(finished(trials)) is None
    finish(second, 0.2)
    best = best_trial(finished(trials))
    assert best is not None
    assert best.trial is second
    finish(third, 0.3, valid_rel_l2=0.2)
    finish(fourth, 0.4, valid_rel_l2=0.1)
    best = best_trial(finished(trials))
    assert best is not None
    assert best.trial is fourth


def test_a_trial_is_chosen_by_the_valid_split_and_never_by_the_test(tmp_path: Path) -> None:
    sweep, trials = planned(tmp_path)
    for trial, test, valid in zip(
        trials, (0.2, 0.1, 0.15, 0.3), (0.3, float("nan"), 0.12, 0.2), strict=True
    ):
        finish(trial, test, valid_rel_l2=valid)
    report = write_report(sweep, trials)
    best = trials[2]
    sentence = (
        f"Chosen by the valid split: {best.label} at {best.run.windows:,} windows, with 0.120 "
        "there and 0.150 on the test split."
    )
    assert sentence in report.markdown
    assert sentence in " ".join(report.summary.split())
    table = report.markdown.partition("## Rollout rel_l2 on the valid split")[2].partition("##")[0]
    assert f"| {best.label} | {best.run.windows:,} | 0.1200 |" in table
    with (sweep.directory / RESULTS).open() as file:
        rows = {(row["trial"], row["dataset"]): row for row in csv.DictReader(file)}
    assert float(rows[best.id, "ns"]["valid_rel_l2"]) == 0.12
    assert rows[best.id, "dr"]["valid_rel_l2"] == ""


def test_without_a_valid_split_nothing_is_chosen(tmp_path: Path) -> None:
    sweep, trials = planned(tmp_path)
    for trial, error in zip(trials, (0.2, 0.1, 0.15, 0.3), strict=True):
        finish(trial, error)
    assert "valid" not in write_report(sweep, trials).markdown


def test_the_note_in_mlflow_has_the_picture_and_fits(tmp_path: Path) -> None:
    sweep, trials = planned(tmp_path, f"windows={[800 * i for i in range(1, 15)]}")
    for trial in trials:
        finish(trial, 0.25)
    report = write_report(sweep, trials)
    note = report.note("f00d")
    picture = "](get-artifact?path=report%2Fscaling.png&run_uuid=f00d)"
    assert picture in note
    assert len(note) <= 8000 < len(report.markdown)
    kept, _, rest = note.rpartition("\nThe rest is in the artifact report/report.md.\n")
    assert not rest
    whole = report.markdown.replace("](scaling.png)", picture)
    assert whole.startswith(kept)
    assert whole[len(kept) :].startswith("\n## ")  # cut between two sections
    width = struct.unpack(">I", (sweep.directory / FIGURE).read_bytes()[16:20])[0]
    assert width <= 700  # MLflow shows a picture as wide as it is, beside its menu


def test_forecasts_that_are_not_finite_are_told(tmp_path: Path) -> None:
    sweep, trials = planned(tmp_path)
    for trial in trials[:-1]:
        finish(trial, 3.0 * trial.parameters**-0.2)
    finish(trials[-1], float("nan"))
    report = write_report(sweep, trials)
    assert "rel_l2 = 3 N^-0.200" in report.summary
    lost = trials[-1].label
    assert f"No law holds the forecasts of {lost}, which are not finite." in " ".join(
        report.summary.split()
    )
    assert f"{lost} does not beat repeating the last frame on: ns, dr" in report.markdown
    assert f"| {lost} |" in report.markdown
    assert "| nan |" in report.markdown
    with (sweep.directory / RESULTS).open() as file:
        assert [row["rel_l2"] for row in csv.DictReader(file)][-1] == "nan"


def test_sizes_and_lengths_give_one_law_and_the_best_use_of_flops(tmp_path: Path) -> None:
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


def test_what_has_not_run_is_foretold(tmp_path: Path) -> None:
    sweep, trials = planned(tmp_path)
    for trial in trials[:-1]:
        finish(trial, 3.0 * trial.parameters**-0.2)
    report = write_report(sweep, trials)
    expected = 3.0 * trials[-1].parameters ** -0.2
    row = f"| {trials[-1].label} | {trials[-1].run.windows:,} | {expected:.4f} |"
    assert row in report.markdown.partition("Trials that have not finished:")[2]


def test_the_largest_size_is_compared_with_what_the_smaller_ones_said(tmp_path: Path) -> None:
    sweep, trials = planned(tmp_path)
    for trial in trials:
        finish(trial, 3.0 * trial.parameters**-0.2 * (1 + (trial is trials[-1])))
    report = write_report(sweep, trials)
    assert "was measured, outside the interval." in report.markdown
    assert "| no |" in report.markdown.partition("foretold by the smaller ones")[2]


def test_every_error_has_its_law_or_its_reason(tmp_path: Path) -> None:
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


def test_the_price_of_data_is_told(tmp_path: Path, describe_dataset: Callable[..., None]) -> None:
    sweep, trials = planned(tmp_path, "windows=[800, 1600, 3200, 6400]")
    for name in sweep.run.data.weights:
        describe_dataset(sweep.run.data.root, name, [(100, 20)], [9.0] * 100)
    for trial in trials:
        finish(trial, 0.01 + 8 * trial.parameters**-0.4 + 2 * trial.run.windows**-0.4)
    report = write_report(sweep, trials)
    price = report.markdown.partition("## The price of data")[2].partition("\n## ")[0]
    # 300 trajectories of 9 s; 6,400 windows on two workers, 12.5 in a second; ten forwards, of a
    # third of 2 / 12.5 s each.
    spared = 9 * 10 / 20 - 10 * 2 / (3 * 12.5)
    solves = f"{(2700 + 6400 * 2 / 12.5) / spared:,.0f}"
    error = f"{0.01 + 8 * trials[-1].parameters ** -0.4 + 2 * 6400**-0.4:.4f}"
    costs = f"45.0 min | 17.1 min | 9 s | 0.53 s | {solves}"
    assert f"| {trials[-1].label} | 6,400 | {error} | {costs} |" in price
    assert f"has paid for its data and training after at least {solves} solves" in report.markdown
    assert "assumed as in language models (R = 15.4" in price
    purchases = [line for line in price.splitlines() if "% (" in line]
    assert [line.split(" |")[0] for line in purchases] == ["| 62.1 min", "| 10.3 h", "| 4.3 d"]


def test_a_forecast_that_is_slower_than_the_solver_never_pays(
    tmp_path: Path, describe_dataset: Callable[..., None]
) -> None:
    sweep, trials = planned(tmp_path)
    for name in sweep.run.data.weights:
        describe_dataset(sweep.run.data.root, name, [(100, 20)], [0.01] * 100)
    for trial in trials:
        finish(trial, trial.parameters**-0.16)
    report = write_report(sweep, trials)
    assert f"{trials[-1].label} never pays for itself: a forecast takes 0.53 s" in report.markdown
    assert "What is best bought for a budget needs a law of size and data." in report.markdown


def test_of_data_that_nobody_solved_no_price_is_told(tmp_path: Path) -> None:
    sweep, trials = planned(tmp_path)
    finish(trials[0], 0.1)
    report = write_report(sweep, trials)
    assert "price of data" not in report.markdown
    assert "pay" not in report.markdown


def test_each_arm_of_a_design_has_its_own_law(tmp_path: Path) -> None:
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


def test_seeds_are_one_point_and_amounts_of_data_are_told_apart(tmp_path: Path) -> None:
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


def test_flops_have_a_figure_where_sizes_and_lengths_have_a_law(tmp_path: Path) -> None:
    sweep, trials = planned(tmp_path, "windows=[800, 1600, 3200, 6400]")
    for trial in trials:
        finish(trial, 0.01 + 8 * trial.parameters**-0.4 + 2 * trial.run.windows**-0.4)
    report = write_report(sweep, trials)
    assert sweep.directory / "compute.png" in report.files
    assert "](compute.png)" in report.markdown
    assert "](get-artifact?path=report%2Fcompute.png&run_uuid=f00d)" in report.note("f00d")
    figure = compute_figure("law", analyze(finished(trials)))
    assert figure is not None
    labels = figure.axes[0].get_legend_handles_labels()[1]
    sizes = sorted({trial.parameters for trial in trials})
    assert labels == [*(f"{size:,}" for size in sizes), "the best size"]


def test_parabolas_stand_beside_the_law_where_flops_are_equal(tmp_path: Path) -> None:
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


def test_bands_of_lead_times_have_their_laws(tmp_path: Path) -> None:
    sweep, trials = planned(tmp_path)
    for trial in trials:
        early, late = trial.parameters**-0.3, 2 * trial.parameters**-0.1
        finish(trial, 0.2, lead_times=(early, early, 0.3, 0.3, late, late))
    laws = write_report(sweep, trials).markdown.partition("## Laws")[2].partition("##")[0]
    assert "| rollout, first third of the lead times, mean | 1 N^-0.300 |" in laws
    assert "| rollout, middle third of the lead times, mean | none: the error is flat" in laws
    assert "| rollout, last third of the lead times, mean | 2 N^-0.100 |" in laws


def test_amounts_of_data_give_the_worth_of_repeats(
    tmp_path: Path, describe_dataset: Callable[..., None]
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
