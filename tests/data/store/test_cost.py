"""The record of what trajectories cost."""

from pathlib import Path

import pytest

from dpot_scale.data.store.cost import COST, read_cost, write_cost
from dpot_scale.errors import DataError


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert read_cost(tmp_path) is None
    write_cost(tmp_path, {"train": [0.5, None], "test": [2.0]})
    cost = read_cost(tmp_path)
    assert cost is not None
    assert cost.seconds == {"train": (0.5, None), "test": (2.0,)}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "cannot be read .* remove it"),
        ('{"format": 1, "seconds": {"train": ["a"]}}', "cannot be read .* remove it"),
        ('{"format": 9, "seconds": {}}', "its format is 9, and this version reads 1"),
    ],
)
def test_what_is_damaged_or_newer_is_a_sentence(
    content: str, sentence: str, tmp_path: Path
) -> None:
    (tmp_path / COST).write_text(content)
    with pytest.raises(DataError, match=rf"(?s){COST}.*{sentence}"):
        read_cost(tmp_path)
