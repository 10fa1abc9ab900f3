"""What the archive did not take when a run ended, it gets when that is started again."""

import logging
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "checkpoints"))

from test_kills import WORLD, Engine

from dpot_scale.checkpoints.archive import Archive
from dpot_scale.checkpoints.checkpoint import TrainState
from dpot_scale.checkpoints.store import CheckpointStore
from dpot_scale.config.load import load_run
from dpot_scale.config.places import CHECKPOINTS, LOCK
from dpot_scale.config.run import CheckpointConfig, RunConfig
from dpot_scale.files import held
from dpot_scale.runs.archived import complete_archives


def run_of(tmp_path: Path, name: str = "run", steps: int = 4, **places: str) -> RunConfig:
    """A run of four steps that has saved at the last ones, all before it had an archive."""
    url = places.get("archive", f"file://{tmp_path}/archive")
    options = [f"output={tmp_path}", f"name={name}", f"checkpoint.archive={url}"]
    config = load_run("quickstart", [*options, "windows=64", "batch.global_batch=16"])
    assert config.steps == 4
    directory = config.directory / CHECKPOINTS
    store = CheckpointStore(directory, config=CheckpointConfig(), identity=name, world=WORLD)
    for step in (steps - 1, steps):
        store.save(Engine(step), TrainState(step=step))
    store.close()
    return config


def archived(config: RunConfig) -> set[int]:
    url = config.checkpoint.archive
    assert url is not None
    return Archive(url, config.directory.name, config.name).steps()


def complete(*runs: RunConfig) -> list[str]:
    said: list[str] = []
    complete_archives(runs, said.append)
    return said


def test_it_gets_what_it_lacks_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    without = run_of(tmp_path, "without")
    without = without.model_copy(update={"checkpoint": CheckpointConfig()})
    config = run_of(tmp_path)
    sent = f"sent step_000004, step_000003 of {tmp_path}/run to checkpoint.archive"
    assert complete(without, config) == [sent]
    assert archived(config) == {3, 4}
    assert complete(without, config) == []
    shutil.rmtree(tmp_path / "archive" / "run" / "step_000003")
    assert complete(config) == [f"sent step_000003 of {tmp_path}/run to checkpoint.archive"]
    assert not caplog.messages


def test_one_that_cannot_be_reached_is_one_sentence_for_all_runs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runs = [run_of(tmp_path, name) for name in ("one", "two")]
    (tmp_path / "archive").write_text("a file in its place")
    assert complete(*runs) == []
    (message,) = caplog.messages
    assert message.startswith(f"checkpoint.archive=file://{tmp_path}/archive is not up to date: ")
    assert message.endswith("; to try it again, start this again")
    (tmp_path / "archive").unlink()
    assert len(complete(*runs)) == 2


def test_a_run_is_left_alone_that_trains_or_will_or_was_cleaned_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = run_of(tmp_path)
    with held(config.directory / LOCK, wait=False):
        assert complete(config) == []
    complete(config)
    shutil.rmtree(config.directory / CHECKPOINTS / "step_000004")
    assert complete(config) == []
    shutil.rmtree(config.directory)
    assert complete(config) == []
    assert not config.directory.exists()
    assert archived(config) == {3, 4}
    unfinished = run_of(tmp_path, "unfinished", steps=3)
    assert complete(unfinished) == []
    assert archived(unfinished) == set()
    assert not caplog.messages


def test_what_is_wrong_with_one_run_costs_the_others_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    unknown = run_of(tmp_path, "unknown", archive="nosuch://x")
    config = run_of(tmp_path)
    other = run_of(tmp_path / "elsewhere", archive=f"file://{tmp_path}/archive")
    marker = other.directory / CHECKPOINTS / "step_000004" / "COMMITTED.json"
    marker.write_text(marker.read_text().replace('"identity": "run"', '"identity": "other"'))
    with caplog.at_level(logging.WARNING):
        assert len(complete(unknown, config, other)) == 1
    first, second = caplog.messages
    assert "checkpoint.archive=nosuch://x needs a file system" in first
    assert "holds another run of the name run (run, this one is other)" in second
    assert archived(config) == {3, 4}
