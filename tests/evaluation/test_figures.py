"""Pictures hold what they should; whether they please is for people."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from dpot_scale.data.info import DatasetInfo
from dpot_scale.evaluation.evaluator import DatasetEvaluation
from dpot_scale.evaluation.figures import error_growth_figure, rollout_figure, save_figures
from dpot_scale.evaluation.scores import DatasetScore

LEADS = 8


def evaluation(fields: int = 2, space: tuple[int, ...] = (6, 4)) -> DatasetEvaluation:
    random = np.random.default_rng(0)
    shown = (1, 2, 4, 6, 8)
    shape = (len(shown), fields, *space)
    truth: NDArray[np.float32] = random.normal(size=shape).astype(np.float32)
    return DatasetEvaluation(
        info=DatasetInfo(
            name="flow",
            equation="none",
            channels=tuple(f"field {i}" for i in range(fields)),
            scored=(True,) * fields,
            spatial_axes=("x", "y", "z")[: len(space)],
            grid=space,
            domain_length=(3.0, 1.0, 1.0)[: len(space)],
            frame_interval=1.0,
            boundary="none",
            origin="imported",
            source="a test",
            units=("m/s",) * fields,
        ),
        score=DatasetScore(
            rel_l2=0.25,
            one_step_rel_l2=0.1,
            persistence_rel_l2=0.5,
            persistence_one_step_rel_l2=0.2,
        ),
        rel_l2_L=np.linspace(0.1, 0.4, LEADS, dtype=np.float32),
        persistence_rel_l2_L=np.linspace(0.2, 0.8, LEADS, dtype=np.float32),
        example_leads=shown,
        example_truth_LCs=truth,
        example_forecast_LCs=truth + 0.5,
    )


def images(found: DatasetEvaluation) -> list[list[NDArray[np.float32]]]:
    """Rows of the pictures in a rollout figure."""
    axes = [axis for axis in rollout_figure("name", found).axes if axis.images]
    shown = [axis for axis in axes if axis.get_label() != "<colorbar>"]
    arrays = [np.asarray(axis.images[0].get_array()).T for axis in shown]
    return [arrays[first : first + 5] for first in range(0, len(arrays), 5)]


def test_truth_forecast_and_error_of_each_field_at_five_lead_times() -> None:
    found = evaluation()
    rows = images(found)
    assert len(rows) == 2 * 3
    for field in range(2):
        truth, forecast, error = rows[3 * field : 3 * field + 3]
        np.testing.assert_array_equal(truth[0], found.example_truth_LCs[0, field])
        np.testing.assert_array_equal(truth[-1], found.example_truth_LCs[-1, field])
        np.testing.assert_array_equal(forecast[-1], found.example_forecast_LCs[-1, field])
        np.testing.assert_allclose(error[0], 0.5, rtol=1e-5)


def test_frames_are_drawn_on_their_domain_with_units() -> None:
    figure = rollout_figure("name", evaluation(fields=1))
    first = figure.axes[0]
    assert first.get_ylabel() == "field 0 [m/s]\ntruth"
    assert first.images[0].get_extent() == [0, 3, 0, 1]
    assert first.get_aspect() == 1, "a unit of length is as long along both axes"


def test_truth_and_forecast_share_their_colours() -> None:
    axes = [axis for axis in rollout_figure("name", evaluation(fields=1)).axes if axis.images]
    limits = [axis.images[0].get_clim() for axis in axes[:10]]
    assert len(set(limits)) == 1
    assert limits[0][0] == -limits[0][1], "symmetric, as the field changes its sign"


def test_of_a_3d_field_the_middle_plane_is_shown() -> None:
    found = evaluation(fields=1, space=(6, 4, 5))
    truth = images(found)[0]
    np.testing.assert_array_equal(truth[0], found.example_truth_LCs[0, 0, :, :, 2])


def test_the_titles_tell_the_scores_and_lead_times() -> None:
    figure = rollout_figure("name", evaluation())
    assert "name: rollout" in figure.get_suptitle()
    assert "0.250" in figure.get_suptitle()
    assert [axis.get_title() for axis in figure.axes[:5]] == [
        "+1 frame", "+2 frames", "+4 frames", "+6 frames", "+8 frames",
    ]  # fmt: skip


def test_growth_of_the_error_of_model_and_persistence() -> None:
    figure = error_growth_figure({"one": evaluation(), "two": evaluation()})
    (axis,) = figure.axes
    lines = [line for line in axis.lines if len(line.get_xdata())]
    assert len(lines) == 4
    np.testing.assert_array_equal(lines[0].get_xdata(), np.arange(1, LEADS + 1))
    np.testing.assert_allclose(lines[1].get_ydata(), np.linspace(0.2, 0.8, LEADS))
    legend = axis.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()][:2] == ["one", "two"]


@pytest.mark.parametrize("leads", [1, LEADS])
def test_files(leads: int, tmp_path: Path) -> None:
    whole = evaluation()
    cut = DatasetEvaluation(
        info=whole.info,
        score=whole.score,
        rel_l2_L=whole.rel_l2_L[:leads],
        persistence_rel_l2_L=whole.persistence_rel_l2_L[:leads],
        example_leads=whole.example_leads[:leads],
        example_truth_LCs=whole.example_truth_LCs[:leads],
        example_forecast_LCs=whole.example_forecast_LCs[:leads],
    )
    save_figures(tmp_path / "new" / "figures", {"name": cut})
    written = {path.name: path.stat().st_size for path in (tmp_path / "new" / "figures").iterdir()}
    assert written.keys() == {"rollout_name.png", "error_growth.png"}
    assert min(written.values()) > 1000
