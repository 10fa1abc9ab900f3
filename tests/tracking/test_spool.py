"""The spool is the truth: on disk at once, and readable after any crash."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dpot_scale.config.run import TrackingConfig
from dpot_scale.errors import DiskError
from dpot_scale.tracking.spool import SPOOL, read_metrics
from dpot_scale.tracking.tracker import Tracker

Record = Callable[..., None]
NOWHERE = TrackingConfig(mlflow_uri=None)


def test_what_is_logged_is_on_disk_at_once(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, NOWHERE, is_main=True)
    tracker.log({"train/loss": 0.1, "train/lr": 1e-3}, step=1)
    tracker.log({"eval/mean/rel_l2": 0.5}, step=1)
    assert read_metrics(tmp_path / SPOOL) == {
        "train/loss": {1: 0.1},
        "train/lr": {1: 1e-3},
        "eval/mean/rel_l2": {1: 0.5},
    }
    tracker.close()


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, NOWHERE, is_main=False)
    tracker.log({"train/loss": 0.1}, step=1)
    tracker.close()
    assert list(tmp_path.iterdir()) == []


def test_of_a_step_recorded_twice_the_last_value_counts(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, NOWHERE, is_main=True)
    for step, loss in [(1, 1.0), (2, 2.0), (1, 10.0)]:
        tracker.log({"train/loss": loss}, step=step)
    tracker.close()
    assert read_metrics(tmp_path / SPOOL)["train/loss"] == {1: 10.0, 2: 2.0}


def test_values_that_are_not_finite_come_back(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, NOWHERE, is_main=True)
    tracker.log({"nan": math.nan, "inf": math.inf}, step=1)
    tracker.close()
    found = read_metrics(tmp_path / SPOOL)
    assert math.isnan(found["nan"][1])
    assert found["inf"][1] == math.inf


def test_half_a_record_is_none_and_is_in_nobodys_way(record: Record, tmp_path: Path) -> None:
    record(tmp_path, NOWHERE, 1)
    with (tmp_path / SPOOL).open("a") as spool:
        spool.write('{"step": 2, "time": 17')
    assert read_metrics(tmp_path / SPOOL)["train/loss"] == {1: 1.0}
    record(tmp_path, NOWHERE, 2)
    assert read_metrics(tmp_path / SPOOL)["train/loss"] == {1: 1.0, 2: 0.5}


def test_what_a_full_disk_did_not_take_is_written_once_there_is_room(
    small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = Tracker(small_disk, NOWHERE, is_main=True)
    tracker.log({"train/loss": 0.0}, step=0)
    (small_disk / "rest").write_bytes(bytes(shutil.disk_usage(small_disk).free))
    for step in range(1, 200):
        tracker.log({"train/loss": float(step)}, step=step)
    (said,) = caplog.messages
    assert "No space left on device" in said
    assert said.endswith("make room there; metrics are kept in memory until then")
    found = read_metrics(small_disk / SPOOL)["train/loss"]
    assert 0 < len(found) < 200
    assert (small_disk / SPOOL).read_bytes().endswith(b"\n")
    with pytest.raises(DiskError, match=f"cannot write {small_disk / SPOOL}: No space left"):
        tracker.settle()
    (small_disk / "rest").unlink()
    tracker.log({"train/loss": 200.0}, step=200)
    tracker.settle()
    tracker.close()
    lines = (small_disk / SPOOL).read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(201))


def test_what_never_found_room_is_said(small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    tracker = Tracker(small_disk, NOWHERE, is_main=True)
    (small_disk / "rest").write_bytes(bytes(shutil.disk_usage(small_disk).free))
    tracker.log({"train/loss": 1.0}, step=1)
    tracker.close()
    assert caplog.messages[-1] == f"{small_disk / SPOOL} lacks its newest 1 records"
    assert (small_disk / SPOOL).read_bytes() == b""


def test_a_line_that_cannot_be_read_is_left_out(record: Record, tmp_path: Path) -> None:
    record(tmp_path, NOWHERE, 1)
    with (tmp_path / SPOOL).open("ab") as spool:
        spool.write(b"\0\0\0\n")
    record(tmp_path, NOWHERE, 2)
    assert read_metrics(tmp_path / SPOOL)["train/loss"] == {1: 1.0, 2: 0.5}
