"""Scores as lines of text."""

from dpot_scale.evaluation.scores import DatasetScore, score_table


def test_the_table_is_aligned() -> None:
    score = DatasetScore(
        rel_l2=0.25,
        one_step_rel_l2=0.125,
        persistence_rel_l2=0.5,
        persistence_one_step_rel_l2=1.0,
    )
    lines = score_table({"a": score, "a_name_longer_than_the_title": score}).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[1].split() == ["a", "0.2500", "0.5000", "0.1250", "1.0000"]
