"""The one file that says that a run has ended."""

import json
from math import inf, isinf, isnan, nan
from pathlib import Path

import pytest

from dpot_scale.config.places import RESULT_FILE
from dpot_scale.errors import RecordError
from dpot_scale.evaluation.scores import DatasetScore
from dpot_scale.evaluation.tables import score_table
from dpot_scale.runs.result import TrainingResult, read_result, save_result


def score(rel_l2: float) -> DatasetScore:
    return DatasetScore(
        rel_l2=rel_l2,
        one_step_rel_l2=rel_l2 / 2,
        persistence_rel_l2=1.0,
        persistence_one_step_rel_l2=0.5,
    )


RESULT = TrainingResult(
    name="run",
    identity="0123456789ab",
    datasets={"a": "1" * 12, "b": "2" * 12},
    world_size=2,
    parameters=10,
    block_parameters=5,
    windows=32,
    steps=8,
    seconds=1.5,
    train_flops=1e12,
    windows_per_second=20.0,
    peak_memory_gib=0.5,
    final_train_loss=0.1,
    evaluation={"a": score(0.2), "b": score(0.4)},
    lead_times={"a": (0.1, 0.3), "b": (0.4,)},
)


def test_there_and_back(tmp_path: Path) -> None:
    save_result(tmp_path, RESULT)
    assert read_result(tmp_path) == RESULT
    assert [path.name for path in tmp_path.iterdir()] == [RESULT_FILE]


def test_means_over_datasets() -> None:
    assert RESULT.mean_rel_l2 == pytest.approx(0.3)
    assert RESULT.mean_one_step_rel_l2 == pytest.approx(0.15)


def test_errors_on_the_valid_split() -> None:
    assert RESULT.mean_valid_rel_l2 is None
    with_valid = RESULT.model_copy(update={"valid": {"a": score(0.25), "b": score(0.75)}})
    assert with_valid.mean_valid_rel_l2 == pytest.approx(0.5)


def test_no_file_is_an_unfinished_run(tmp_path: Path) -> None:
    assert read_result(tmp_path) is None
    assert read_result(tmp_path / "absent") is None
    (tmp_path / "file").touch()
    assert read_result(tmp_path / "file") is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "EOF while parsing"),
        ('{"name": "run"}', "identity: Field required"),
        ("half a file", "expected value"),
        (RESULT.model_dump_json().replace('"steps"', '"updates"'), "steps: Field required"),
    ],
)
def test_a_result_that_cannot_be_read_is_no_unfinished_run(
    content: str, reason: str, tmp_path: Path
) -> None:
    (tmp_path / RESULT_FILE).write_text(content)
    sentence = rf"{RESULT_FILE} is not the result of .*{reason}.*: use the version that wrote it, "
    with pytest.raises(RecordError, match=sentence):
        read_result(tmp_path)


def test_a_score_that_is_not_finite_is_kept(tmp_path: Path) -> None:
    scores = score(0.2).model_copy(update={"rel_l2": nan, "one_step_rel_l2": inf})
    save_result(tmp_path, RESULT.model_copy(update={"evaluation": {"a": scores}}))
    path = tmp_path / RESULT_FILE
    raw = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert raw["evaluation"]["a"]["rel_l2"] == "NaN"
    for text in (path.read_text(), path.read_text().replace('"NaN"', "null")):
        path.write_text(text)
        found = read_result(tmp_path)
        assert found is not None
        assert isnan(found.evaluation["a"].rel_l2)
        assert isinf(found.evaluation["a"].one_step_rel_l2)
        assert isnan(found.mean_rel_l2)
        assert " nan " in score_table(found.evaluation)


def test_the_result_of_the_first_version_is_read(tmp_path: Path) -> None:
    raw = json.loads(RESULT.model_dump_json(exclude={"format", "datasets"}))
    raw["config_hash"] = raw.pop("identity")
    for content in (raw, raw | {"format": 1}):
        (tmp_path / RESULT_FILE).write_text(json.dumps(content))
        assert read_result(tmp_path) == RESULT.model_copy(update={"datasets": {}})


def test_a_crash_while_writing_leaves_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        save_result(tmp_path, RESULT)
    assert read_result(tmp_path) is None
