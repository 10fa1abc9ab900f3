"""The figure of a sweep over amounts of data."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dpot_scale.scaling.report.analysis import analyze
from dpot_scale.scaling.report.data_figure import data_figure
from dpot_scale.scaling.report.results import finished_trials
from dpot_scale.scaling.report.write import write_report

AMOUNTS = (4, 16, 64)
DESIGN = (
    "ladder={E64: {width: 64}}",
    "windows=[800]",
    "design=[{data: {trajectories: [4, 16, 64]}}, {seeds: [0, 1, 2]}, "
    "{start: {scratch: null, pretrained: weights.safetensors}}]",
)


def test_each_start_has_a_line_with_the_intervals_of_its_seeds(
    tmp_path: Path, planned: Callable[..., Any], finish: Callable[..., None]
) -> None:
    (tmp_path / "weights.safetensors").touch()
    sweep, trials = planned(tmp_path, *DESIGN)
    for trial in trials:
        exponent = {"scratch": 0.4, "pretrained": 0.2}[str(trial.factors["start"])]
        seed = int(trial.factors["seed"])
        finish(trial, 0.3 * trial.factors["trajectories"] ** -exponent * 1.1 ** (seed - 1))
    figure = data_figure("s", analyze(finished_trials(trials)))
    assert figure is not None
    (axis,) = figure.axes
    _, labels = axis.get_legend_handles_labels()
    assert labels == ["scratch", "pretrained"]
    for bars, exponent in zip(axis.containers, (0.4, 0.2), strict=True):
        line, _, (interval,) = bars
        means = 0.3 * np.array(AMOUNTS) ** -exponent
        np.testing.assert_array_equal(line.get_xdata(), AMOUNTS)
        np.testing.assert_allclose(line.get_ydata(), means)
        # Of three seeds at equal distances d: t(0.975, 2) d / sqrt(3).
        half = 4.302652729911275 * np.log(1.1) / 3**0.5
        ends = [means * np.exp(-half), means * np.exp(half)]
        np.testing.assert_allclose(np.array(interval.get_segments())[:, :, 1].T, ends)
    report = write_report(sweep, trials)
    assert (sweep.directory / "data.png").is_file()
    assert "](data.png)" in report.markdown
    assert "](get-artifact?path=report%2Fdata.png&run_uuid=7)" in report.note("7", "#/charts")


@pytest.mark.parametrize("design", [[], ["design=[{data: {trajectories: [4]}}]"]])
def test_one_number_of_trajectories_has_none(
    design: list[str], tmp_path: Path, planned: Callable[..., Any], finish: Callable[..., None]
) -> None:
    _, trials = planned(tmp_path, *design, "windows=[800]")
    for trial in trials:
        finish(trial, 0.1)
    assert data_figure("s", analyze(finished_trials(trials))) is None
