"""The journal and the lock of a sweep."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dpot_scale.config.load import load_sweep
from dpot_scale.config.sweep import SweepConfig
from dpot_scale.errors import DiskError, RecordError, UserError
from dpot_scale.scaling.journal import (
    JOURNAL,
    Journal,
    SweepRunningError,
    hold_sweep,
    is_running,
)


def sweep_in(directory: Path) -> SweepConfig:
    return load_sweep("quickstart", [f"run.output={directory}"])


def test_events_come_back_in_order(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    assert journal.entries() == []
    assert journal.last("a") is None
    journal.record("a", "started", attempt=1)
    journal.record("b", "started", attempt=1)
    journal.record("a", "failed", attempt=1, reason="the disk is full")
    journal.record("a", "started", attempt=2, workers=2)
    again = Journal(tmp_path)
    assert [entry.event for entry in again.entries()] == ["started", "started", "failed", "started"]
    assert again.attempts("a") == 2
    last = again.last("b")
    assert last is not None
    assert (last.event, last.attempt) == ("started", 1)
    assert again.entries()[2].reason == "the disk is full"
    assert [entry.workers for entry in again.entries()] == [None, None, None, 2]


def test_a_line_cut_short_is_no_event(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.record("a", "started", attempt=1)
    journal.record("a", "finished", attempt=1)
    path = tmp_path / JOURNAL
    path.write_text(path.read_text()[:-20])
    last = journal.last("a")
    assert last is not None
    assert last.event == "started"
    # What comes next starts on a line of its own.
    journal.record("a", "started", attempt=2)
    assert journal.attempts("a") == 2


@pytest.mark.parametrize("line", ['{"trial": "a", "event": "paused"}', "7", '{"event": "started"}'])
def test_a_whole_line_that_is_no_event_is_not_passed_over(line: str, tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.record("a", "started", attempt=1)
    with (tmp_path / JOURNAL).open("a") as file:
        file.write(f"\n{line}\n")
    with pytest.raises(RecordError, match=rf"line 4 of .*{JOURNAL} is no event .*: use "):
        journal.last("a")


def test_one_process_runs_a_sweep(tmp_path: Path) -> None:
    sweep = sweep_in(tmp_path)
    assert not is_running(sweep)
    code = (
        "import sys; from pathlib import Path; from dpot_scale.config.load import load_sweep;"
        "from dpot_scale.scaling.journal import hold_sweep;"
        f"sweep = load_sweep('quickstart', ['run.output={tmp_path}']);"
        "lock = hold_sweep(sweep); lock.__enter__(); print('locked', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        assert is_running(sweep)
        with pytest.raises(SweepRunningError, match="already running"), hold_sweep(sweep):
            pass
    finally:
        other.kill()  # a killed driver leaves no lock behind
        other.wait()
    assert not is_running(sweep)
    with hold_sweep(sweep):
        pass


def test_a_file_where_the_folder_should_be_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    sweep = sweep_in(tmp_path / "taken")
    with pytest.raises(UserError, match=r"cannot read .*taken/quickstart-sweep: Not a directory"):
        is_running(sweep)
    with (
        pytest.raises(UserError, match=r"cannot write to .*taken/quickstart-sweep: "),
        hold_sweep(sweep),
    ):
        pass


def test_a_full_disk_is_one_sentence(small_disk: Path) -> None:
    journal = Journal(small_disk)
    journal.record("a", "started", attempt=1)
    (small_disk / "rest").write_bytes(bytes(shutil.disk_usage(small_disk).free))
    with pytest.raises(DiskError, match=rf"cannot write .*{JOURNAL}: No space left on device; 0 "):
        journal.record("a", "failed", attempt=1, reason="x" * 10_000)
    last = journal.last("a")
    assert last is not None
    assert last.event == "started"
