"""Frames on the page are those that were kept, point by point."""

import base64
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from PIL import Image

from dpot_scale.config.places import FIGURES
from dpot_scale.config.sweep import SweepConfig
from dpot_scale.evaluation.frames import read_frames
from dpot_scale.scaling.plan import Trial
from dpot_scale.scaling.report.page.rollouts import rollouts_of

Planned = Callable[..., tuple[SweepConfig, tuple[Trial, ...]]]
KeepFrames = Callable[..., None]


def picture(address: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))


def test_a_point_of_the_grid_is_a_point_of_the_picture(
    tmp_path: Path, planned: Planned, keep_frames: KeepFrames
) -> None:
    trial = planned(tmp_path)[1][0]
    keep_frames(trial, "ns")
    frames = read_frames(trial.run.directory / FIGURES)
    (rollout,) = rollouts_of(frames).shown
    truth, forecast, error = rollout.fields[0].strips
    assert [strip.title for strip in (truth, forecast, error)] == ["truth", "forecast", "|error|"]
    assert (truth.low, truth.high) == (forecast.low, forecast.high) == ("0", "5")
    assert (error.low, error.high) == ("0", "0.5")
    image = picture(truth.picture)
    assert image.size == (16, 5 * 16)
    last = np.asarray(image.convert("RGB"))[-16:]
    field_xy = frames["ns"].example.truth_LCs[-1, 0]
    expected = colormaps["cividis"](field_xy / 5.0)[..., :3] * 255
    # y goes up in a field and down in a picture.
    np.testing.assert_allclose(last, expected.transpose(1, 0, 2)[::-1], atol=3)
    assert rollout.ratio == 2.0


def test_pictures_that_are_too_large_are_fewer(
    tmp_path: Path, planned: Planned, keep_frames: KeepFrames
) -> None:
    trial = planned(tmp_path)[1][0]
    keep_frames(trial, "dr", leads=12)
    keep_frames(trial, "ns", leads=12)
    frames = read_frames(trial.run.directory / FIGURES)
    whole = rollouts_of(frames)
    assert [len(one.leads) for one in whole.shown] == [12, 12]
    size = sum(one.size for one in whole.shown)
    fewer = rollouts_of(frames, most_bytes=size - 1)
    assert [len(one.leads) for one in fewer.shown] == [8, 8]
    assert fewer.shown[0].leads[-1] == whole.shown[0].leads[-1]
    least = rollouts_of(frames, most_bytes=fewer.shown[0].size // 3)
    assert [one.dataset for one in least.shown] + list(least.left_out) == ["dr", "ns"]
    assert "ns" in least.left_out
