"""Pictures of several models hold what they should; whether they please is for people."""

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.image import NonUniformImage
from numpy.typing import NDArray
from PIL import Image

from dpot_scale.data.info import DatasetInfo
from dpot_scale.evaluation.details import Details
from dpot_scale.evaluation.example import Example
from dpot_scale.evaluation.pictures import (
    fields_figure,
    growth_figure,
    save_movies,
    spectra_figure,
)
from dpot_scale.evaluation.scores import METRICS
from dpot_scale.evaluation.tally import FORECASTS, Quantities, Totals

LEADS = 9
SHOWN = (1, 5, 9)

Array = NDArray[np.float32]


def details(shift: float, space: tuple[int, ...] = (10, 4)) -> Details:
    """Of a field w that changes its sign, a positive p, and a mask that is not shown."""
    random = np.random.default_rng(0)
    truth = random.normal(size=(LEADS, 3, *space)).astype(np.float32)
    truth[:, 1] = 2 + np.abs(truth[:, 1])
    quantities = Quantities(LEADS)
    shape = (len(FORECASTS), len(METRICS), 4, len(quantities))
    spectra = np.abs(random.normal(size=(len(SHOWN), 3, 5))) + 1
    at = [lead - 1 for lead in SHOWN]
    every = tuple(range(1, LEADS + 1))
    return Details(
        info=DatasetInfo(
            name="flow",
            equation="none",
            channels=("w", "p", "mask"),
            scored=(True, True, False),
            spatial_axes=("r", "theta", "z")[: len(space)],
            grid=space,
            domain_length=(5.0, 2.0, 1.0)[: len(space)],
            frame_interval=0.5,
            boundary="periodic",
            origin="generated",
            source="a test",
            fluid_mask="mask",
        ),
        points=space,
        trajectories=4,
        totals=Totals(tuple(METRICS), quantities, torch.full(shape, 0.5).double(), 0, 0),
        errors_NL=np.linspace(0.1, 0.4, 4)[:, None] * np.ones(LEADS),
        spectrum_leads=SHOWN,
        truth_spectra_SCK=spectra,
        forecast_spectra_SCK=2 * spectra,
        times_L=0.5 * np.arange(1, LEADS + 1),
        example=Example(leads=SHOWN, truth_LCs=truth[at], forecast_LCs=truth[at] + shift),
        moving=Example(leads=every, truth_LCs=truth, forecast_LCs=truth + np.float32(shift)),
    )


def pictures(figure: Figure) -> list[list[Array]]:
    """The rows of pictures, a picture for each shown lead time."""
    axes = [axis for axis in figure.axes if axis.images and axis.get_label() != "<colorbar>"]
    arrays = [np.asarray(axis.images[0].get_array()).T for axis in axes]
    return [arrays[first : first + len(SHOWN)] for first in range(0, len(arrays), len(SHOWN))]


def test_two_models_stand_below_the_truth_with_their_errors() -> None:
    one, other = details(0.5), details(-0.25)
    figure = fields_figure("flow", {"one": one, "other": other})
    rows = pictures(figure)
    assert len(rows) == 2 * 5, "of two fields: truth, two forecasts, two errors; not of the mask"
    for field in range(2):
        truth, first, second, error, smaller = rows[5 * field : 5 * field + 5]
        np.testing.assert_array_equal(truth[1], one.example.truth_LCs[1, field])
        np.testing.assert_array_equal(first[2], one.example.forecast_LCs[2, field])
        np.testing.assert_array_equal(second[0], other.example.forecast_LCs[0, field])
        np.testing.assert_allclose(error[0], 0.5, rtol=1e-5)
        np.testing.assert_allclose(smaller[2], 0.25, rtol=1e-5)
    labels = [axis.get_ylabel() for axis in figure.axes if axis.get_ylabel()]
    assert labels[:5] == ["w\ntruth", "w\none", "w\nother", "w\n|error| one", "w\n|error| other"]


def test_a_field_has_one_scale_and_all_its_errors_have_another() -> None:
    figure = fields_figure("flow", {"one": details(0.5), "other": details(-0.25)})
    axes = [axis for axis in figure.axes if axis.images and axis.get_label() != "<colorbar>"]
    limits = [axis.images[0].get_clim() for axis in axes]
    field = 5 * len(SHOWN)
    assert len(set(limits[:9])) == len(set(limits[9:field])) == 1
    assert limits[0][0] == -limits[0][1], "symmetric, as the field changes its sign"
    assert limits[9] == pytest.approx((0.0, 0.5))
    assert limits[field][0] > 0, "the positive field has no empty half"
    colors = [axis.images[0].get_cmap().name for axis in axes]
    assert {colors[0], colors[field]} == {"RdBu_r", "cividis"}
    assert "jet" not in colors


def test_axes_times_and_the_shape_of_the_domain() -> None:
    figure = fields_figure("flow", {"one": details(0.5)})
    titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
    assert titles == ["+1 frame\nt = 0.5", "+5 frames\nt = 2.5", "+9 frames\nt = 4.5"]
    first = figure.axes[0]
    assert first.images[0].get_extent() == [0, 5, 0, 2]
    assert first.get_aspect() == 1
    corner = next(axis for axis in figure.axes if axis.get_xlabel())
    assert corner.get_xlabel() == "r"
    assert [text.get_text() for text in corner.get_yticklabels()] == ["0", "theta", "2"]
    labels = [axis.get_ylabel() for axis in figure.axes if axis.get_ylabel()]
    assert labels[:3] == ["w\ntruth", "w\nforecast", "w\n|error|"]


def test_fields_axes_times_and_energies_have_units() -> None:
    found = details(0.5)
    info = replace(found.info, units=("m/s", "", ""), length_unit="km", time_unit="h")
    found = replace(found, info=info)
    figure = fields_figure("flow", {"one": found})
    titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
    assert titles[0] == "+1 frame\nt = 0.5 h"
    labels = [axis.get_ylabel() for axis in figure.axes if axis.get_ylabel()]
    assert labels[2:4] == ["w [m/s]\n|error|", "p\ntruth"]
    corner = next(axis for axis in figure.axes if axis.get_xlabel())
    assert corner.get_xlabel() == "r [km]"
    assert corner.get_yticklabels()[1].get_text() == "theta [km]"
    energies = [axis.get_ylabel() for axis in spectra_figure("flow", {"one": found}).axes]
    assert energies[::3] == ["energy of w [(m/s)²]", "energy of p"]


def test_an_unknown_domain_is_drawn_as_its_grid() -> None:
    found = details(0.5)
    unknown = replace(found, info=replace(found.info, has_lengths=False))
    figure = fields_figure("flow", {"one": unknown})
    assert figure.axes[0].images[0].get_extent() == [0, 10, 0, 4]


def test_of_a_3d_field_the_middle_plane_is_shown() -> None:
    found = details(0.5, (6, 4, 5))
    truth = pictures(fields_figure("flow", {"one": found}))[0]
    np.testing.assert_array_equal(truth[0], found.example.truth_LCs[0, 0, :, :, 2])


def test_error_growth_shows_the_spread_over_trajectories() -> None:
    figure = growth_figure({"flow": {"one": details(0.5)}, "b": {"one": details(1)}})
    assert [axis.get_title() for axis in figure.axes] == ["flow", "b"]
    axis = figure.axes[0]
    np.testing.assert_allclose(axis.lines[0].get_ydata(), 0.25)
    (band,) = axis.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx((0.13, 0.37))
    np.testing.assert_allclose(axis.lines[1].get_ydata(), 0.5)
    legend = axis.get_legend()
    assert legend is not None
    assert [t.get_text() for t in legend.get_texts()] == ["one", "persistence, mean"]


def test_spectra_of_truth_and_models() -> None:
    found = details(0.5)
    figure = spectra_figure("flow", {"one": found, "other": found})
    assert len(figure.axes) == 2 * 3
    lines = figure.axes[4].lines
    np.testing.assert_array_equal(lines[0].get_ydata(), found.truth_spectra_SCK[1, 1, 1:])
    np.testing.assert_array_equal(lines[2].get_ydata(), found.forecast_spectra_SCK[1, 1, 1:])
    assert [line.get_xdata()[0] for line in lines[3:]] == [4, 12], "where bands begin"


def test_a_gif_needs_no_other_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("matplotlib.animation.FFMpegWriter.isAvailable", lambda: False)
    (file,) = save_movies(tmp_path, "flow", {"one": details(0.5), "other": details(0.2)})
    with Image.open(file) as movie:
        assert (file.name, movie.n_frames) == ("rollout_flow.gif", LEADS)  # type: ignore[attr-defined]


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="an MP4 needs ffmpeg: none is here")
def test_an_mp4_is_a_film_of_every_frame_that_players_take(tmp_path: Path) -> None:
    sources = {"one": details(0.5, (7, 5)), "other": details(0.2, (7, 5))}
    _, file = save_movies(tmp_path, "flow", sources)
    assert file.name == "rollout_flow.mp4"
    asked = "stream=codec_name,pix_fmt,width,height,avg_frame_rate,nb_read_frames"
    said = subprocess.run(
        ["ffprobe", "-v", "error", "-count_frames", "-show_entries", asked, "-of", "json", file],
        capture_output=True,
        text=True,
        check=True,
    )
    (stream,) = json.loads(said.stdout)["streams"]
    assert (stream["codec_name"], stream["pix_fmt"]) == ("h264", "yuv420p")
    assert (stream["nb_read_frames"], stream["avg_frame_rate"]) == (str(LEADS), "8/1")
    assert stream["width"] % 2 == stream["height"] % 2 == 0


def test_points_of_unequal_distance_are_drawn_where_they_are(tmp_path: Path) -> None:
    found = details(0.5)
    places = tuple(tuple(np.cos(np.linspace(0, np.pi, n))) for n in (10, 4))  # they decrease
    uneven = replace(found, info=replace(found.info, coordinates=places))
    figure = fields_figure("flow", {"one": uneven})
    first = figure.axes[0]
    assert (first.get_xlim(), first.get_ylim()) == ((-1, 1), (-1, 1))
    assert first.get_aspect() == 1
    image = first.images[0]
    assert isinstance(image, NonUniformImage)
    np.testing.assert_allclose(image._Ax, sorted(places[0]))
    expected = found.example.truth_LCs[0, 0, ::-1, ::-1].T
    np.testing.assert_array_equal(image.get_array(), expected)
    figure.savefig(tmp_path / "figure.png")
    assert save_movies(tmp_path, "flow", {"one": uneven})
