"""The report from results with known numbers."""

import csv
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from dpot_scale.config.sweep import SweepConfig
from dpot_scale.scaling.journal import Journal
from dpot_scale.scaling.plan import Trial
from dpot_scale.scaling.report.analysis import analyze
from dpot_scale.scaling.report.figures import scaling_figure
from dpot_scale.scaling.report.results import arms, best_trial
from dpot_scale.scaling.report.results import finished_trials as finished
from dpot_scale.scaling.report.text import REPORT
from dpot_scale.scaling.report.write import RESULTS, NothingToReportError, write_report
from dpot_scale.scaling.stopping import cancel

FIGURE = "scaling.png"
Planned = Callable[..., tuple[SweepConfig, tuple[Trial, ...]]]
Finish = Callable[..., None]


def test_nothing_finished_is_one_sentence(tmp_path: Path, planned: Planned) -> None:
    sweep, trials = planned(tmp_path)
    with pytest.raises(NothingToReportError, match="no trial of sweep quickstart-sweep"):
        write_report(sweep, trials)


def test_the_law_and_the_conclusion_come_from_the_results(
    tmp_path: Path, finish: Finish, planned: Planned
) -> None:
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


def test_bad_news_is_told(tmp_path: Path, finish: Finish, planned: Planned) -> None:
    sweep, trials = planned(tmp_path)
    for trial, error in zip(trials, (0.15, 0.1, 0.12, 0.09), strict=True):
        finish(trial, error, bad_on="dr")
    report = write_report(sweep, trials)
    assert "does not fall with every step" in report.markdown
    assert f"{trials[-1].label} does not beat repeating the last frame on: dr." in report.markdown


def test_what_is_unfinished_is_left_out(tmp_path: Path, finish: Finish, planned: Planned) -> None:
    sweep, trials = planned(tmp_path)
    finish(trials[0], 0.1)
    report = write_report(sweep, trials)
    assert f"1 of {len(trials)} trials finished" in report.markdown
    assert "Power law" not in report.markdown
    assert report.markdown.count(f"{trials[0].parameters:,} parameters") == 1
    assert trials[1].label not in report.summary


def test_two_sizes_are_not_called_a_law(tmp_path: Path, finish: Finish, planned: Planned) -> None:
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


def test_the_longest_trainings_decide(tmp_path: Path, finish: Finish, planned: Planned) -> None:
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


def test_the_csv_holds_every_score(tmp_path: Path, finish: Finish, planned: Planned) -> None:
    sweep, trials = planned(tmp_path)
    for trial in trials:
        finish(trial, 0.25)
    write_report(sweep, trials)
    with (sweep.directory / RESULTS).open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(trials) * 2  # datasets
    assert {row["trial"] for row in rows} == {trial.id for trial in trials}
    assert {row["digest"] for row in rows} == {"0123456789ab"}
    assert all(float(row["rel_l2"]) == 0.25 for row in rows)
    assert {(row["distinct_windows"], row["seed"]) for row in rows} == {("4096", "0")}
    assert {float(row["persistence_rel_l2"]) for row in rows} == {0.4, 0.2}


def test_the_best_trial_is_chosen_by_the_test_only_where_there_is_no_valid_split(
    tmp_path: Path, finish: Finish, planned: Planned
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


def test_a_trial_is_chosen_by_the_valid_split_and_never_by_the_test(
    tmp_path: Path, finish: Finish, planned: Planned
) -> None:
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


def test_without_a_valid_split_nothing_is_chosen(
    tmp_path: Path, finish: Finish, planned: Planned
) -> None:
    sweep, trials = planned(tmp_path)
    for trial, error in zip(trials, (0.2, 0.1, 0.15, 0.3), strict=True):
        finish(trial, error)
    assert "valid" not in write_report(sweep, trials).markdown


def test_the_note_in_mlflow_has_the_picture_and_fits(
    tmp_path: Path, finish: Finish, planned: Planned
) -> None:
    sweep, trials = planned(tmp_path, f"windows={[800 * i for i in range(1, 15)]}")
    for trial in trials:
        finish(trial, 0.25)
    report = write_report(sweep, trials)
    note = report.note("f00d", "#/charts")
    picture = "](get-artifact?path=report%2Fscaling.png&run_uuid=f00d)"
    assert picture in note
    assert len(note) <= 8000 < len(report.markdown)
    kept, _, rest = note.rpartition("\nThe rest is in the artifact report/report.md.\n")
    assert not rest
    link = "[Charts of all trials](#/charts)\n\n"
    assert note.startswith(f"# Sweep {sweep.name}\n\n{link}")
    note, kept = note.replace(link, ""), kept.replace(link, "")
    whole = report.markdown.replace("](scaling.png)", picture)
    whole = whole.replace("](summary.svg)", picture.replace("scaling.png", "summary.svg"))
    assert whole.startswith(kept)
    assert whole[len(kept) :].startswith("\n## ")  # cut between two sections
    width = struct.unpack(">I", (sweep.directory / FIGURE).read_bytes()[16:20])[0]
    assert width <= 700  # MLflow shows a picture as wide as it is, beside its menu


def test_forecasts_that_are_not_finite_are_told(
    tmp_path: Path, finish: Finish, planned: Planned
) -> None:
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


def test_forecasts_of_any_length_that_are_not_finite_are_told(
    tmp_path: Path, finish: Finish, planned: Planned
) -> None:
    sweep, trials = planned(tmp_path, "windows=[800, 1600, 3200]")
    shortest = next(trial for trial in trials if trial.run.windows == 800)
    for trial in trials:
        error = 0.01 + 8 * trial.parameters**-0.4 + 2 * trial.run.windows**-0.4
        finish(trial, float("nan") if trial is shortest else error)
    said = " ".join(write_report(sweep, trials).summary.split())
    assert (
        f"No law holds the forecasts of {shortest.label} at 800 windows, which are not finite."
        in said
    )


@pytest.mark.parametrize(
    "design", ["windows=[800]", "windows=[800, 1600, 3200]", "design=[{seeds: [0, 1]}]",
               "design=[{ablation: {a: {run.objective.noise: 0.1}}}]"],
)  # fmt: skip
def test_a_sweep_whose_forecasts_are_all_lost_has_a_report(
    design: str, tmp_path: Path, finish: Finish, planned: Planned
) -> None:
    sweep, trials = planned(tmp_path, design)
    finish(trials[0], float("nan"))
    finish(trials[1], float("inf"))
    report = write_report(sweep, trials)
    assert "not finite" in report.summary
    assert (sweep.directory / FIGURE).stat().st_size > 0


def test_of_equal_flops_the_best_number_is_shown(
    tmp_path: Path, finish: Finish, planned: Planned
) -> None:
    sweep, trials = planned(tmp_path, "windows=null", "design=[{isoflop: {budgets: [1e12, 1e13]}}]")
    for trial in trials:
        lost = trial.label == "E64"
        finish(trial, float("nan") if lost else 3.0 * trial.parameters**-0.2)
    assert "nan" not in write_report(sweep, trials).summary.partition("At ")[2].partition(".")[0]


def test_trials_that_failed_are_left_out_with_their_reason(
    tmp_path: Path, finish: Finish, planned: Planned
) -> None:
    sweep, trials = planned(tmp_path)
    failed, cancelled, *others = trials
    for number, trial in enumerate(others):
        finish(trial, 0.3 - 0.1 * number)
    journal = Journal(sweep.directory)
    journal.record(failed.id, "started", attempt=1)
    journal.record(failed.id, "failed", attempt=1, reason="the loss is not finite")
    cancel(cancelled.run.directory)
    report = write_report(sweep, trials)
    assert f"left out: {failed.id}, failed: the loss is not finite\n" in report.summary
    assert f"Left out of every fit:\n\n- {failed.id}: failed: the loss is not finite\n" in (
        report.markdown
    )
    assert f"- {cancelled.id}: cancelled" in report.markdown
    journal.record(failed.id, "started", attempt=2)
    assert failed.id not in write_report(sweep, trials).summary, "it may still come to its end"


def test_a_grid_of_widths_is_a_ladder(tmp_path: Path, finish: Finish, planned: Planned) -> None:
    design = "design=[{grid: {run.model.width: [32, 64, 128], run.optim.lr: [1e-3, 2e-3]}}]"
    _, trials = planned(tmp_path, design, "ladder=null")
    for trial in trials:
        finish(trial, trial.parameters**-0.16)
    found = arms(finished(trials))
    assert list(found) == ["optim.lr = 0.001", "optim.lr = 0.002"]
    assert [len(entries) for entries in found.values()] == [3, 3]
