"""A sweep whose trial loses a worker for good: two nodes of Ray on this machine."""

import os
import secrets
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dpot_scale.config.load import load_sweep
from dpot_scale.config.places import resolve_sweep_paths
from dpot_scale.runs.result import read_result
from dpot_scale.scaling.journal import Journal
from dpot_scale.scaling.plan import Trial, plan
from tests.end_to_end.test_elastic import (
    LOST,
    PAUSE,
    STEPS,
    SWEEP,
    Driver,
    Nodes,
    free_port,
    steps_since,
    wait_until,
)

pytestmark = [pytest.mark.ray, pytest.mark.distributed, pytest.mark.timeout(600)]

GIB = 2**30
FIXED = ["resources={workers: 2, gpus_per_worker: 0}", "max_attempts=3", "max_preemptions=1"]
# Ray is told by the kernel how much memory a container has and uses. This node reads what the test
# writes in its place.
IN_A_CONTAINER = ["unshare", "--mount", "bash", "-c", 'mount --bind "$0" /sys/fs/cgroup; exec "$@"']


@dataclass
class Container:
    """What the kernel would say of the memory of a container."""

    folder: Path

    def use(self, gib: float) -> None:
        """Say that so much of 16 GiB is used."""
        for name, content in {
            "memory.max": f"{16 * GIB}",
            "memory.current": f"{int(gib * GIB)}",
            "memory.stat": "inactive_file 0\nactive_file 0\n",
        }.items():
            (self.folder / name).write_text(f"{content}\n")


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    own = token | {"OMP_NUM_THREADS": "1", "RAY_memory_usage_threshold": "0.9"}
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as temporary:
        folder = tmp_path_factory.mktemp("nodes")
        nodes = Nodes(folder, temporary, free_port(), os.environ | own)
        try:
            nodes.start(*nodes.head).wait()
            yield nodes
        finally:
            for node in nodes.started:
                if node.process.poll() is None:
                    node.kill()


def submitted(folder: Path, nodes: Nodes, run: Path) -> tuple[Driver, Trial]:
    """Start a sweep of one trial of two workers."""
    (folder / "sweep.yaml").write_text(SWEEP.format(run=run, windows=16 * STEPS))
    sweep = load_sweep(str(folder / "sweep.yaml"), FIXED)
    (trial,) = plan(resolve_sweep_paths(sweep, folder))
    return Driver(folder, nodes, *FIXED), trial


def events(trial: Trial) -> list[tuple[str, str]]:
    entries = Journal(trial.run.output.parent).entries()
    return [(entry.event, entry.reason) for entry in entries]


def test_a_trial_whose_worker_ray_kills_for_memory_fails_once_and_names_the_setting(
    nodes: Nodes, tmp_path: Path, tiny_yaml: Path
) -> None:
    (tmp_path / "container").mkdir()
    container = Container(tmp_path / "container")
    container.use(gib=1)
    inside = [*IN_A_CONTAINER, str(container.folder)]
    if subprocess.run([*inside, "true"], capture_output=True).returncode:
        pytest.skip("may not mount a folder of its own")
    node = nodes.join(before=inside)
    node.wait()
    driver, trial = submitted(tmp_path, nodes, tiny_yaml)
    wait_until(lambda: steps_since(trial, 0.0) >= PAUSE, driver.process, driver.log)
    container.use(gib=15.9)
    code, log = driver.ended()
    node.kill()
    assert code == 1, log
    assert "Traceback" not in log
    (started, (failed, reason)) = events(trial)
    assert (started, failed) == (("started", ""), "failed")
    assert reason.startswith("Ray killed a worker because its node ran low on memory: ")
    assert "RAY_memory_usage_threshold where `ray start` runs" in reason
    assert reason in log


def test_a_trial_that_loses_a_node_begins_again_when_another_one_comes(
    nodes: Nodes, tmp_path: Path, tiny_yaml: Path
) -> None:
    node = nodes.join().wait()
    driver, trial = submitted(tmp_path, nodes, tiny_yaml)
    wait_until(lambda: steps_since(trial, 0.0) >= PAUSE, driver.process, driver.log)
    node.kill()
    wait_until(lambda: len(events(trial)) == 2, driver.process, driver.log)
    nodes.join().wait()
    code, log = driver.ended()
    assert code == 0, log
    assert "Traceback" not in log
    assert events(trial) == [("started", ""), ("failed", LOST), ("started", ""), ("finished", "")]
    result = read_result(trial.run.directory)
    assert result is not None
    assert (result.world_size, result.steps) == (2, STEPS)
