"""What `train status` says of a run, from what lies in its folder."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "checkpoints"))

from test_kills import WORLD, Engine

from dpot_scale.checkpoints.checkpoint import TrainState
from dpot_scale.checkpoints.store import CheckpointStore
from dpot_scale.config.load import dump, load_run
from dpot_scale.config.places import CHECKPOINTS, LOCK, QUARANTINE, RUN_CONFIG
from dpot_scale.files import held, write_whole
from dpot_scale.tracking.spool import SPOOL
from dpot_scale.tracking.tracker import Tracker
from dpot_scale.train import main


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that has saved at three steps, of which one is a milestone."""
    directory = tmp_path / "run"
    config = load_run(
        "quickstart",
        [
            f"output={tmp_path}",
            "name=run",
            "checkpoint.keep_every=2",
            f"checkpoint.archive=file://{tmp_path}/archive",
        ],
    )
    write_whole(directory / RUN_CONFIG, dump(config))
    store = CheckpointStore(
        directory / CHECKPOINTS, config=config.checkpoint, identity="hash", world=WORLD
    )
    tracker = Tracker(directory, config.tracking, is_main=True)
    for step in (2, 3, 4):
        store.save(Engine(step), TrainState(step=step))
        tracker.log({"train/lr": 0.1, "train/loss": 1.0}, step=step)
        tracker.log({"checkpoint/save_seconds": step / 10}, step=step)
    tracker.close()
    store.close()
    return directory


def said(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    assert main(["status", *words]) == 0
    return capsys.readouterr().out.splitlines()


def test_it_lists_the_checkpoints(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = said(capsys, str(run))
    assert f"run run in {run}: not running, step 4 of " in lines[0]
    assert lines[2].split() == ["checkpoint", "saved", "GiB", "ranks", "seconds"]
    rows = [line.split() for line in lines[3:]]
    assert [row[0] for row in rows] == ["4", "3", "2"]
    assert [row[4:6] for row in rows] == [["1", "0.4"], ["1", "0.3"], ["1", "0.2"]]
    ever = "kept for ever, in the archive"
    assert [" ".join(row[6:]) for row in rows] == [ever, "in the archive", ever]
    with held(run / LOCK, wait=False):
        assert "running, step 4" in said(capsys, str(run))[0]


def test_metrics_that_somebody_removed_undo_no_step(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / SPOOL).unlink()
    lines = said(capsys, str(run))
    assert "not running, step 4 of " in lines[0]
    rows = [line.split() for line in lines[3:]]
    assert [row[4:6] for row in rows] == [["1", "kept"], ["1", "in"], ["1", "kept"]], "no seconds"


def test_what_is_kept_by_the_hour_is_kept_for_ever(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / RUN_CONFIG
    path.write_text(
        dump(load_run(str(path), ["checkpoint.keep_every=0", "checkpoint.keep_hours=2"]))
    )
    rows = said(capsys, str(run))[3:]
    assert ["kept for ever" in row for row in rows] == [False, False, True], "the first"


def test_it_says_how_many_windows_could_not_be_read(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = {"dataset": "swe", "trajectory": 1, "frame": 0, "stride": 1, "file": "shard.h5"}
    window = {"position": 3, "stand_in": 4, "reason": "it is cut", **place}
    (run / QUARANTINE).write_text(json.dumps({"format": 1, "windows": [window]}))
    line = said(capsys, str(run))[1]
    assert line == f"1 windows could not be read, {run / QUARANTINE} says which"


def test_a_silent_archive_is_waited_for_with_a_word_and_not_for_ever(run: Path) -> None:
    """A server that takes connections and never answers, which outlives the command."""
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    path = run / RUN_CONFIG
    path.write_text(dump(load_run(str(path), ["checkpoint.archive=s3://silent/archive"])))
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        credentials = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "any")
        done = subprocess.run(
            [sys.executable, "-m", "dpot_scale.train", "status", run],
            env=os.environ | credentials | {"AWS_ENDPOINT_URL": address},
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert done.returncode == 0, done.stderr
    assert "asking the archive, " in done.stdout
    rows = [line for line in done.stdout.splitlines() if line.endswith("archive not reachable")]
    assert len(rows) == 3
    assert done.stderr.splitlines() == [
        "cannot read checkpoint.archive=s3://silent/archive: it did not answer for 30 seconds"
    ]


def test_of_a_folder_without_a_run_it_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", str(tmp_path)]) == 2
    assert "no run was started in" in capsys.readouterr().err
    assert main(["status", "one", "two"]) == 2
    assert "give the folder of one run, not one and two" in capsys.readouterr().err
