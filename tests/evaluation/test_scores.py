"""Scores as lines of text, and as they are read back."""

from math import isnan
from pathlib import Path

import pytest

from dpot_scale.errors import RecordError
from dpot_scale.evaluation.scores import Comparison, DatasetScore, Scores, read_scores
from dpot_scale.evaluation.tables import score_table

SCORE = DatasetScore(
    rel_l2=0.25,
    one_step_rel_l2=0.125,
    persistence_rel_l2=0.5,
    persistence_one_step_rel_l2=1.0,
)


def test_the_table_is_aligned() -> None:
    lines = score_table({"a": SCORE, "a_name_longer_than_the_title": SCORE}).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[1].split() == ["a", "0.2500", "0.5000", "0.1250", "1.0000"]


def test_scores_of_the_first_version_are_read(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    score = '"one_step_rel_l2": null, "persistence_rel_l2": 1, "persistence_one_step_rel_l2": 2'
    evaluation = f'"evaluation": {{"swe": {{"rel_l2": 0.5, {score}}}}}'
    path.write_text(f'{{"weights": "m.pth", "config": "quickstart", {evaluation}}}')
    found = read_scores(path)[""]
    assert found.evaluation["swe"].rel_l2 == 0.5
    assert isnan(found.evaluation["swe"].one_step_rel_l2)
    assert (found.details, found.split) == ({}, "test")


def test_one_model_and_several_are_read_as_they_were_written(tmp_path: Path) -> None:
    scores = Scores(weights=Path("m.pth"), config="quickstart", evaluation={"swe": SCORE})
    path = tmp_path / "scores.json"
    path.write_text(scores.model_dump_json())
    assert read_scores(path) == {"": scores}
    path.write_text(Comparison(sources={"a": scores, "b": scores}).model_dump_json())
    assert read_scores(path) == {"a": scores, "b": scores}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format": 3}', "was written by another version of dpot_scale"),
        ('{"sources": {"a": {"format": 3}}}', "holds no scores"),
        ("{", "holds no scores"),
        (None, "cannot read"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(
    text: str | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "scores.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(RecordError, match=message) as found:
        read_scores(path)
    assert "\n" not in str(found.value)
