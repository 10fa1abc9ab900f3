"""The results as files for other programs."""

import csv
from collections.abc import Callable
from pathlib import Path

from dpot_scale.config.sweep import SweepConfig
from dpot_scale.scaling.plan import Trial
from dpot_scale.scaling.report.data_files import latex, latex_table
from dpot_scale.scaling.report.results import finished_trials
from dpot_scale.scaling.report.write import LATEX, LEAD_TIMES, RESULTS, write_report

Planned = Callable[..., tuple[SweepConfig, tuple[Trial, ...]]]
Finish = Callable[..., None]


def rows(file: Path) -> list[dict[str, str]]:
    with file.open() as opened:
        return list(csv.DictReader(opened))


def test_the_csv_has_seed_and_every_factor(
    tmp_path: Path, finish: Finish, planned: Planned
) -> None:
    design = "design=[{grid: {run.optim.lr: [1e-3, 3e-3]}}, {seeds: [0, 1]}]"
    sweep, trials = planned(tmp_path, "windows=[800]", design)
    for trial in trials:
        finish(trial, 0.25)
    write_report(sweep, trials)
    found = rows(sweep.directory / RESULTS)
    assert len(found) == len(trials) * 2  # datasets
    for row in found:
        (trial,) = [one for one in trials if one.id == row["trial"]]
        assert int(row["seed"]) == trial.run.seed
        assert float(row["optim.lr"]) == trial.run.optim.lr
        assert row["family"] == "dpot"
        assert row["size"] == str(trial.factors.get("size", trial.label))
        assert row["label"] == trial.label
        assert int(row["windows"]) == 800
    assert {row["optim.lr"] for row in found} == {"0.001", "0.003"}


def test_errors_over_the_lead_time(tmp_path: Path, finish: Finish, planned: Planned) -> None:
    sweep, trials = planned(tmp_path)
    finish(trials[0], 0.2, lead_times=(0.1, 0.3))
    finish(trials[1], 0.2)  # of an older version, which did not keep them
    write_report(sweep, trials)
    found = rows(sweep.directory / LEAD_TIMES)
    first = {key: [row[key] for row in found[:2]] for key in found[0]}
    assert first["trial"] == [trials[0].id] * 2
    assert first["lead_time"] == ["1", "2"]
    assert first["rel_l2"] == ["0.1", "0.3"]
    assert {row["trial"] for row in found} == {trials[0].id}
    assert {row["dataset"] for row in found} == {"ns", "dr"}


def test_the_latex_table_marks_the_best(tmp_path: Path, finish: Finish, planned: Planned) -> None:
    sweep, trials = planned(tmp_path)
    for trial, error in zip(trials, (0.4, float("nan"), 0.2, 0.3), strict=True):
        finish(trial, error)
    write_report(sweep, trials)
    table = (sweep.directory / LATEX).read_text()
    assert table == latex_table(finished_trials(trials))
    assert table.startswith("\\begin{tabular}{lrrrrr}\n\\toprule\n")
    assert table.endswith("\\bottomrule\n\\end{tabular}\n")
    best = next(line for line in table.splitlines() if line.startswith(latex(trials[2].label)))
    assert best.count("\\textbf{0.2000}") == 3
    assert table.count("\\textbf") == 3
    assert "persistence &  &  & 0.3000 & 0.4000 & 0.2000 \\\\" in table


def test_latex_prints_a_text_as_it_stands() -> None:
    assert latex("a_b & 50% {x} #1 $y ~ ^ \\") == (
        "a\\_b \\& 50\\% \\{x\\} \\#1 \\$y \\textasciitilde{} \\textasciicircum{} \\textbackslash{}"
    )
