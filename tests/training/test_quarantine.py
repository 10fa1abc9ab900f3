"""Runs whose data cannot be read everywhere: counted, recorded, and ended past a stated share."""

import json
from pathlib import Path

import pytest

from dpot_scale.config.load import load_run
from dpot_scale.config.places import QUARANTINE
from dpot_scale.config.run import RunConfig
from dpot_scale.data.stream.quarantine import Quarantined
from dpot_scale.engine.runtime import World, start_world
from dpot_scale.errors import RecordError
from dpot_scale.training.quarantine import Quarantine, read_quarantine


@pytest.fixture(scope="module")
def world() -> World:
    return start_world()


@pytest.fixture
def config(tiny_yaml: Path, tmp_path: Path) -> RunConfig:
    """A run of 96 windows, four of which may be unreadable."""
    config = load_run(str(tiny_yaml), [f"output={tmp_path}", "limits.unreadable=0.05"])
    config.directory.mkdir()
    return config


def bad(position: int, file: str = "shard.h5") -> Quarantined:
    place = {"dataset": "swe", "trajectory": position, "frame": 2, "stride": 1, "file": file}
    return Quarantined(position=position, stand_in=position + 1, reason="it is cut", **place)


def test_nothing_is_written_where_all_can_be_read(config: RunConfig, world: World) -> None:
    quarantine = Quarantine(config, world)
    quarantine.add([])
    assert (len(quarantine), quarantine.stand_ins, quarantine.excess) == (0, {}, None)
    assert not (config.directory / QUARANTINE).exists()


def test_another_attempt_knows_what_was_found(
    config: RunConfig, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    first = Quarantine(config, world)
    first.add([bad(9), bad(3)])
    assert "window 3, of swe trajectory 3 from frame 2, cannot be read" in caplog.text
    assert "and window 10 is seen in its place: it is cut; 2 of at most 4" in caplog.text
    first.add([bad(9)])  # made again after a rollback
    second = Quarantine(config, world)
    assert len(first) == len(second) == 2
    assert second.stand_ins == {3: 4, 9: 10}
    assert read_quarantine(config.directory) == [bad(3), bad(9)]


def test_many_windows_are_a_few_lines(
    config: RunConfig, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    Quarantine(config, world).add([bad(position) for position in range(40)])
    assert len(caplog.messages) == 3
    assert "(and 37 more)" in caplog.messages[-1]


def test_more_than_the_share_is_one_sentence(config: RunConfig, world: World) -> None:
    quarantine = Quarantine(config, world)
    quarantine.add([bad(position) for position in range(4)])
    assert quarantine.excess is None
    quarantine.add([bad(4, "first.h5"), bad(5, "second.h5")])
    assert quarantine.excess == (
        "6 of the 96 windows of the run could not be read, more than limits.unreadable=0.05 of "
        "them, in first.h5, second.h5; first of these: it is cut"
    )


def test_a_run_whose_data_are_mended_goes_on(config: RunConfig, world: World) -> None:
    """What was found before ends it no more: only what is found now does."""
    Quarantine(config, world).add([bad(position) for position in range(6)])
    mended = Quarantine(config, world)
    mended.add([bad(5)])
    assert (len(mended), mended.excess) == (6, None)
    mended.add([bad(6)])
    assert mended.excess is not None


def test_no_unreadable_window_is_allowed_where_the_share_is_zero(
    config: RunConfig, world: World
) -> None:
    limits = config.limits.model_copy(update={"unreadable": 0.0})
    strict = Quarantine(config.model_copy(update={"limits": limits}), world)
    strict.add([bad(0)])
    assert strict.excess is not None


def test_a_full_disk_ends_no_run(
    config: RunConfig, world: World, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    (config.directory / f"{QUARANTINE}.partial").mkdir()  # so that it cannot be written
    quarantine = Quarantine(config, world)
    quarantine.add([bad(0)])
    assert f"cannot write {config.directory / QUARANTINE}" in caplog.text
    caplog.clear()
    quarantine.settle()
    assert not caplog.records, "it is said once"
    (config.directory / f"{QUARANTINE}.partial").rmdir()
    quarantine.settle()
    assert read_quarantine(config.directory) == [bad(0)], "once there is room again"
    quarantine.add([bad(1)])
    assert read_quarantine(config.directory) == [bad(0), bad(1)]


@pytest.mark.parametrize("content", ["", "[]", '{"windows": [{}]}', "\0"])
def test_a_damaged_record_is_one_sentence(content: str, config: RunConfig, world: World) -> None:
    (config.directory / QUARANTINE).write_text(content)
    with pytest.raises(RecordError, match=f"cannot read .*{QUARANTINE}, which says what windows"):
        Quarantine(config, world)


def test_a_record_of_a_newer_version_is_one_sentence(config: RunConfig, world: World) -> None:
    (config.directory / QUARANTINE).write_text(json.dumps({"format": 9, "windows": []}))
    with pytest.raises(RecordError, match="was written by another version of dpot_scale"):
        Quarantine(config, world)
