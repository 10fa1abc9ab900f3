"""A cooldown whose driver is killed: branches begin at their trunk, and nothing is lost."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from dpot_scale.config.load import load_sweep
from dpot_scale.config.places import resolve_sweep_paths
from dpot_scale.runs.result import read_result
from dpot_scale.scaling.branching import may_begin
from dpot_scale.scaling.journal import Journal
from dpot_scale.scaling.plan import plan
from dpot_scale.scaling.speeds import SPEEDS
from dpot_scale.tracking.spool import SPOOL, read_metrics

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

SWEEP = """
name: cooled
run:
  extends: {run}
  evaluation: {{every: 0}}
  checkpoint: {{every: 10}}
design:
  - ladder: {{narrow: {{width: 16}}}}
  - cooldown: {{trunk: 320, at: [160]}}
"""
REPOSITORY = Path(__file__).parents[2]


def listening_beyond(processes: list[psutil.Process]) -> set[str]:
    """Return the names of the processes that others than this machine reach."""
    found = set()
    for process in processes:
        with contextlib.suppress(psutil.Error):  # it has ended
            for socket in process.net_connections("inet"):
                is_here = socket.laddr.ip.removeprefix("::ffff:") in {"127.0.0.1", "::1"}
                if socket.status == psutil.CONN_LISTEN and not is_here:
                    found.add(process.name())
    return found


def test_a_killed_cooldown_is_continued(tmp_path: Path, tiny_yaml: Path) -> None:
    config = tmp_path / "sweep.yaml"
    config.write_text(SWEEP.format(run=tiny_yaml))
    settings = ["run.output=runs", "run.data.root=data"]
    sweep = resolve_sweep_paths(load_sweep(str(config), settings), tmp_path)
    branch, trunk = plan(sweep)
    assert branch.after is not None
    command = [sys.executable, "-m", "dpot_scale.sweep", "--config", str(config), *settings]
    environment = os.environ | {"DPOT_SCALE_HOME": str(tmp_path)}

    def submit() -> "subprocess.Popen[bytes]":
        with (tmp_path / "driver.log").open("a") as log:
            return subprocess.Popen(
                command, cwd=REPOSITORY, env=environment, stdout=log, stderr=log
            )

    driver = submit()
    deadline = time.monotonic() + 240
    while not may_begin(branch):
        assert driver.poll() is None, (tmp_path / "driver.log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    family = psutil.Process(driver.pid).children(recursive=True)
    # Ranks alone, of which torch's store listens on all addresses.
    assert {one.split(".")[0] for one in listening_beyond(family)} <= {"ray::RayTrainWorker"}
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    psutil.wait_procs(family, timeout=60)  # Ray's processes end with the driver

    assert submit().wait(timeout=300) == 0, (tmp_path / "driver.log").read_text()
    for trial in (branch, trunk):
        result = read_result(trial.run.directory)
        assert result is not None
        assert result.steps == trial.run.steps
    entries = Journal(sweep.directory).entries()
    assert [e.attempt for e in entries if (e.trial, e.event) == (trunk.id, "started")] == [1, 2]
    losses = [read_metrics(trial.run.directory / SPOOL)["train/loss"] for trial in (branch, trunk)]
    shared = range(1, branch.after.step + 2)
    assert [losses[0][step] for step in shared] == [losses[1][step] for step in shared]
    assert sorted(losses[0]) == list(range(1, branch.run.steps + 1))
    log = (tmp_path / "driver.log").read_text()
    assert f"{branch.id}: begins at step {branch.after.step} of {trunk.id}" in log
    speeds = (sweep.run.output / SPEEDS).read_text().split()
    assert {json.loads(line)["parameters"] for line in speeds} == {trunk.parameters}
