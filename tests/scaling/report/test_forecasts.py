"""The figures in which all sizes forecast one trajectory."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from dpot_scale.config.sweep import SweepConfig
from dpot_scale.scaling.plan import Trial
from dpot_scale.scaling.report.analysis import analyze
from dpot_scale.scaling.report.forecasts import compared, forecast_figures
from dpot_scale.scaling.report.results import finished_trials

Planned = Callable[..., tuple[SweepConfig, tuple[Trial, ...]]]
Finish = Callable[..., None]
KeepFrames = Callable[..., None]


def test_truth_forecasts_and_errors_of_all_sizes(
    tmp_path: Path, finish: Finish, planned: Planned, keep_frames: KeepFrames
) -> None:
    _, trials = planned(tmp_path)
    for trial in trials:
        finish(trial, 0.2)
        keep_frames(trial, "ns")
    figures = forecast_figures(analyze(finished_trials(trials)))
    assert list(figures) == ["ns"]
    pictures = [axis for axis in figures["ns"].axes if axis.get_label() != "<colorbar>"]
    grid = [pictures[row : row + 5] for row in range(0, 20, 5)]
    by_size = sorted(trials, key=lambda trial: trial.parameters)
    titles = [axis.get_title() for axis in grid[0]]
    assert titles == ["truth", *(trial.label for trial in by_size)]
    assert "u\n+3 frames\nt = 1.5" in grid[0][0].get_ylabel()
    assert "u\n+5 frames\nt = 2.5" in grid[2][0].get_ylabel()
    frames = [np.asarray(axis.images[0].get_array()) for axis in grid[2]]
    np.testing.assert_allclose(frames[1], frames[0] + 0.5, rtol=1e-6)
    for axis in grid[3][1:]:
        np.testing.assert_allclose(np.asarray(axis.images[0].get_array()), 0.5, rtol=1e-5)
        assert axis.images[0].get_interpolation() == "nearest"
    assert grid[3][1].get_xlabel() == "x"
    assert tuple(grid[3][1].images[0].get_extent()) == (0.0, 2.0, 0.0, 1.0)


def test_each_arm_has_as_many_and_its_largest_among_them(
    tmp_path: Path, finish: Finish, planned: Planned, keep_frames: KeepFrames
) -> None:
    families = "design=[{families: {of: [dpot, vit, fno], match: parameters}}]"
    _, trials = planned(tmp_path, families)
    for trial in trials:
        finish(trial, 0.2)
        keep_frames(trial, "ns", points=4, leads=2)
    shown = list(compared(analyze(finished_trials(trials))).values())
    assert [entry.trial.run.model.family for entry in shown] == [
        name for name in ("dpot", "fno", "vit") for _ in range(2)
    ]
    for smallest, largest in zip(shown[::2], shown[1::2], strict=True):
        family = largest.trial.run.model.family
        sizes = [t.parameters for t in trials if t.run.model.family == family]
        assert smallest.result.parameters == min(sizes)
        assert largest.result.parameters == max(sizes)


def test_without_frames_there_are_no_figures(
    tmp_path: Path, finish: Finish, planned: Planned
) -> None:
    _, trials = planned(tmp_path)
    finish(trials[0], 0.2)
    assert forecast_figures(analyze(finished_trials(trials))) == {}
