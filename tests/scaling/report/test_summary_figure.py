"""The figure of a sweep for other pages: its marks are the numbers of the report."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from dpot_scale.config.sweep import SweepConfig
from dpot_scale.evaluation.figures import LINE_COLORS
from dpot_scale.scaling.plan import Trial
from dpot_scale.scaling.report.analysis import Analysis, analyze
from dpot_scale.scaling.report.laws.choice import NoFit
from dpot_scale.scaling.report.results import finished_trials
from dpot_scale.scaling.report.summary_figure import summary_figure
from dpot_scale.scaling.report.write import write_report

Planned = Callable[..., tuple[SweepConfig, tuple[Trial, ...]]]
Finish = Callable[..., None]

LENGTHS = "windows=[800, 1600, 3200]"
FAMILIES = "design=[{families: {of: [dpot, vit, fno], match: parameters}}]"
WORSE = {"dpot": 1.0, "vit": 1.2, "fno": 1.5}


def _error(trial: Trial) -> float:
    law = 0.01 + 8 * trial.parameters**-0.4 + 2 * trial.run.windows**-0.4
    return WORSE[trial.run.model.family] * law


def _drawn(trials: tuple[Trial, ...]) -> tuple[list[Analysis], Figure]:
    arms = analyze(finished_trials(trials))
    figure = summary_figure(arms)
    assert figure is not None
    return arms, figure


def _legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def _marks(axis: Axes, color: str) -> list[tuple[float, float]]:
    """Return the points that are drawn as marks of a colour, but no lines of laws."""
    drawn = [
        line for line in axis.lines if line.get_color() == color and line.get_marker() in "os^vPX<"
    ]
    return [(float(x), float(y)) for line in drawn for x, y in zip(*line.get_data(), strict=True)]


def test_three_families_with_laws_and_predictions(
    tmp_path: Path, finish: Finish, planned: Planned
) -> None:
    _, trials = planned(tmp_path, LENGTHS, FAMILIES)
    for trial in trials:
        finish(trial, _error(trial))
    arms, figure = _drawn(trials)
    assert [found.arm for found in arms] == ["dpot", "fno", "vit"]
    left, right = figure.axes
    named = ["dpot", "fno", "vit", "law, 95 %", "foretold, 95 %", "measured", "persistence"]
    assert _legend(figure) == named
    assert right.get_xlabel() == "parameters, 3,200 windows"
    for color, found in zip(LINE_COLORS, arms, strict=False):
        errors = {entry.train_flops: entry.result.mean_rel_l2 for entry in found.finished}
        assert dict(_marks(left, color)) == pytest.approx(errors)
        assert not isinstance(found.foretold, NoFit)
        one = found.foretold[-1]
        marks = _marks(right, color)
        measured = [error for size, error in marks if size == one.size]
        assert measured == pytest.approx([one.measured] * 2)  # a point, and with a black edge
        foretold = [error for size, error in marks if size > one.size]
        assert foretold == pytest.approx([one.expected.value])
        lines = [line for line in right.lines if line.get_color() == color]
        (dashed,) = [line for line in lines if line.get_linestyle() == "--"]
        known = sorted({entry.result.parameters for entry in found.main.trials})[-2]
        assert np.asarray(dashed.get_xdata()).min() > known


def test_a_line_over_flops_is_where_the_best_trials_are(
    tmp_path: Path, finish: Finish, planned: Planned
) -> None:
    _, trials = planned(tmp_path, LENGTHS)
    for trial in trials:
        finish(trial, _error(trial))
    arms, figure = _drawn(trials)
    assert _legend(figure) == ["law, 95 %", "foretold, 95 %", "measured", "persistence"]
    (line,) = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 50]
    flops, errors = map(np.asarray, line.get_data())
    for entry in arms[0].finished:
        below = np.interp(np.log(entry.train_flops), np.log(flops), errors)
        assert entry.result.mean_rel_l2 > below * 0.97
    best = min(entry.result.mean_rel_l2 for entry in arms[0].finished)
    assert errors[-1] == pytest.approx(best, rel=0.02)


def test_one_size_has_none(tmp_path: Path, finish: Finish, planned: Planned) -> None:
    _, trials = planned(tmp_path, LENGTHS)
    for trial in trials:
        if trial.parameters == trials[0].parameters:
            finish(trial, 0.2)
    assert summary_figure(analyze(finished_trials(trials))) is None


@pytest.mark.parametrize("count", [2, 4])
def test_a_sweep_of_one_length_has_one_too(
    count: int, tmp_path: Path, finish: Finish, planned: Planned
) -> None:
    _, trials = planned(tmp_path)
    for trial in trials[:count]:
        finish(trial, trial.parameters**-0.16)
    _, figure = _drawn(trials)
    assert ("foretold, 95 %" in _legend(figure)) == (count == 4)
    assert ("law, 95 %" in _legend(figure)) == (count == 4)
    title = "The largest size, foretold by the smaller" if count == 4 else "Error against size"
    assert figure.axes[1].get_title() == title


def test_forecasts_that_blew_up_leave_room_for_the_others(
    tmp_path: Path, finish: Finish, planned: Planned
) -> None:
    _, trials = planned(tmp_path)
    for trial, error in zip(trials, (0.3, float("nan"), float("inf"), 0.2), strict=True):
        finish(trial, error)
    _, figure = _drawn(trials)
    low, high = figure.axes[0].get_ylim()
    assert 0.1 < low < 0.2 < 0.3 < high < 0.5


def test_the_report_has_it_for_pages_slides_and_papers(
    tmp_path: Path, finish: Finish, planned: Planned
) -> None:
    sweep, trials = planned(tmp_path)
    for trial in trials:
        finish(trial, trial.parameters**-0.16)
    report = write_report(sweep, trials)
    files = {sweep.directory / f"summary.{suffix}" for suffix in ("png", "pdf", "svg")}
    assert files <= set(report.files)
    with Image.open(sweep.directory / "summary.png") as picture:
        assert picture.width == 2100
    assert 'width="504pt"' in (sweep.directory / "summary.svg").read_text()  # 672 of a screen
    assert report.markdown.index("](summary.svg)") < report.markdown.index("](scaling.png)")
    assert "](get-artifact?path=report%2Fsummary.svg&run_uuid=7)" in report.note("7", "#/charts")
