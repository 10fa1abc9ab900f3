"""The frames that a run keeps for reports are read as they were written."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dpot_scale.data.info import DatasetInfo
from dpot_scale.errors import RecordError
from dpot_scale.evaluation.evaluator import DatasetEvaluation
from dpot_scale.evaluation.example import Example
from dpot_scale.evaluation.frames import Shown, read_frames, save_frames
from dpot_scale.evaluation.scores import DatasetScore

INFO = DatasetInfo(
    name="swe",
    equation="shallow_water",
    channels=("h", "u"),
    scored=(True, True),
    spatial_axes=("x", "y"),
    grid=(6, 4),
    domain_length=(2.0, 1.0),
    frame_interval=0.5,
    boundary="periodic",
    origin="generated",
    source="a test",
)


def evaluation() -> DatasetEvaluation:
    truth = np.random.default_rng(0).normal(size=(3, 2, 6, 4)).astype(np.float32)
    example = Example(leads=(1, 2, 4), truth_LCs=truth, forecast_LCs=truth + 0.5)
    return DatasetEvaluation(
        info=INFO,
        score=DatasetScore(
            rel_l2=0.25,
            one_step_rel_l2=0.1,
            persistence_rel_l2=0.5,
            persistence_one_step_rel_l2=0.2,
        ),
        rel_l2_L=np.ones(4, np.float32),
        persistence_rel_l2_L=np.ones(4, np.float32),
        example_leads=example.leads,
        example_truth_LCs=truth,
        example_forecast_LCs=truth,
        shown=Shown(info=INFO, times=(0.5, 1.0, 2.0), example=example),
    )


def test_what_is_written_is_read(tmp_path: Path) -> None:
    without = replace(evaluation(), shown=None)
    files = save_frames(tmp_path, {"swe": evaluation(), "none": without})
    assert [file.name for file in files] == ["frames_swe.npz"]
    found = read_frames(tmp_path)
    assert list(found) == ["swe"]
    shown = evaluation().shown
    assert shown is not None
    assert found["swe"].info == INFO
    assert found["swe"].times == shown.times
    assert found["swe"].example.leads == shown.example.leads
    np.testing.assert_array_equal(found["swe"].example.truth_LCs, shown.example.truth_LCs)
    np.testing.assert_array_equal(found["swe"].example.forecast_LCs, shown.example.forecast_LCs)
    some = found["swe"].at([0, 2])
    assert (some.example.leads, some.times) == ((1, 4), (0.5, 2.0))
    np.testing.assert_array_equal(some.example.truth_LCs, shown.example.truth_LCs[[0, 2]])


def test_a_folder_without_frames_has_none(tmp_path: Path) -> None:
    assert read_frames(tmp_path) == {}
    assert read_frames(tmp_path / "missing") == {}


def test_a_damaged_file_is_one_sentence(tmp_path: Path) -> None:
    (file,) = save_frames(tmp_path, {"swe": evaluation()})
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RecordError, match="holds no frames"):
        read_frames(tmp_path)
    file.write_bytes(b"")
    with pytest.raises(RecordError, match="holds no frames"):
        read_frames(tmp_path)
