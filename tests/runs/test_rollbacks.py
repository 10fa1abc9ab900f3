"""What a run skips is on the disk, and is said in words."""

from pathlib import Path

import pytest

from dpot_scale.config.load import load_run
from dpot_scale.config.places import ROLLBACKS
from dpot_scale.data.stream.mixture import Cut
from dpot_scale.data.stream.spans import Span
from dpot_scale.engine.runtime import World, start_world
from dpot_scale.errors import RecordError
from dpot_scale.runs.rollbacks import Rollbacks, all_described, describe, read_rollbacks
from dpot_scale.training.loop import Trouble


@pytest.fixture(scope="module")
def world() -> World:
    return start_world()


class Trajectories:
    """A mixture in which each position is a trajectory."""

    def locate(self, position: int) -> tuple[str, Cut]:
        return "swe", Cut(position, 2, 1)


def test_what_is_skipped_is_remembered_by_the_next_attempt(tmp_path: Path, world: World) -> None:
    config = load_run("quickstart", [f"output={tmp_path}", "batch.global_batch=4", "windows=400"])
    config.directory.mkdir()
    first = Rollbacks(config, world)
    assert (first.made, first.skipped, first.are_left) == ([], (), True)
    first.add(first.of(Trouble("a loss of 1e9", range(10, 12))))
    assert first.skipped == (Span(40, 48),)
    second = Rollbacks(config, world)
    assert second.made == first.made
    # Steps 9 and 10 of a run that skips two are 9 and 12 of the stream.
    added = second.of(Trouble("another", range(9, 11)))
    second.add(added)
    assert (added.first, added.end) == (36, 52)
    assert second.skipped == (Span(36, 52),)
    assert not second.are_left
    assert read_rollbacks(config.directory) == second.made
    said = all_described(second.made, Trajectories())
    assert said.startswith(" (it had gone back 2 times and skipped windows 40 to 47 (")
    assert "swe trajectory 40 from frame 2" in describe(first.made[0], Trajectories())
    assert "and 4 more" in describe(first.made[0], Trajectories())


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 1, "rollbacks": [{}]}', "null"])
def test_a_damaged_record_is_one_sentence(content: str, tmp_path: Path) -> None:
    (tmp_path / ROLLBACKS).write_text(content)
    with pytest.raises(RecordError, match=f"{ROLLBACKS}, which says what windows the run skips"):
        read_rollbacks(tmp_path)


def test_a_record_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / ROLLBACKS).write_text('{"format": 99, "rollbacks": []}')
    with pytest.raises(RecordError, match="use the version that wrote it"):
        read_rollbacks(tmp_path)
