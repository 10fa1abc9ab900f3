"""A sweep on a cluster that has no room at first: Ray's own autoscaler adds what is asked for.

Its nodes are raylets on this machine, by a provider that Ray has for tests. Of the configuration
that Ray has for that one, wheels lack the file.
"""

import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.autoscaler._private.fake_multi_node.node_provider import (
    FAKE_HEAD_NODE_ID,
    FAKE_HEAD_NODE_TYPE,
)

from dpot_scale.config.load import load_sweep
from dpot_scale.config.places import resolve_sweep_paths
from dpot_scale.runs.result import read_result
from dpot_scale.scaling.plan import plan
from tests.end_to_end.test_elastic import DRIVER, Driver, Nodes, free_port, wait_until

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

KIND = "cpus"
SWEEP = """
name: grown
run:
  extends: {run}
  output: runs
  evaluation: {{every: 0}}
  tracking: {{mlflow_uri: null}}
ladder: {{narrow: {{width: 16}}}}
windows: [96]
resources: {{workers: 1, gpus_per_worker: 0}}
max_attempts: 1
"""
# Prints all that Ray is asked for, and adds nothing of its own to it unless it is to.
WISH = """
import json, sys
import ray
from google.protobuf.json_format import MessageToJson
from ray._private.ray_constants import AUTOSCALER_RESOURCE_REQUEST_CHANNEL
from ray.autoscaler.sdk import request_resources
from dpot_scale.scaling.autoscaler import _status, internal_kv
ray.init(log_to_driver=False)
if bundles := json.loads(sys.argv[1]):
    request_resources(bundles=bundles)
asked = _status().cluster_resource_state
print(internal_kv._internal_kv_get(AUTOSCALER_RESOURCE_REQUEST_CHANNEL))
for one in (*asked.cluster_resource_constraints, *asked.pending_gang_resource_requests):
    print(MessageToJson(one))
"""
PROVIDER = {
    "type": "external",
    "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
    "head_node_id": FAKE_HEAD_NODE_ID,
    "launch_multiple": True,
    "use_node_id_as_ip": True,  # else their signs of life are not seen, and they are ended
    "disable_node_updaters": True,  # there is no ssh to them
    "disable_launch_config_check": True,
}
FAKE = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
PATIENCE = {"OMP_NUM_THREADS": "1", "RAY_raylet_start_wait_time_s": "120"}
SECOND = {
    "RAY_enable_autoscaler_v2": "1",
    "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
    "RAY_NODE_TYPE_NAME": FAKE_HEAD_NODE_TYPE,
}


class Patient(Driver):
    """One that takes no refusal for an answer."""

    script = f"from dpot_scale.scaling import autoscaler; autoscaler.SURE_SECONDS = 600.0{DRIVER}"


def settings(address: str) -> dict[str, Any]:
    """What an autoscaler is configured with: a head without CPUs, and nodes of one."""
    one = {"CPU": 1, "object_store_memory": 100 * 2**20}
    kinds = {
        FAKE_HEAD_NODE_TYPE: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        KIND: {"resources": one, "node_config": {}, "min_workers": 0, "max_workers": 2},
    }
    lists = [f"{of}setup_commands" for of in ("", "head_", "worker_")]
    lists += ["initialization_commands", "head_start_ray_commands", "worker_start_ray_commands"]
    lists += ["cluster_synced_files", "rsync_exclude", "rsync_filter"]
    return {
        "cluster_name": "fake",
        "provider": PROVIDER | {"gcs_address": address},
        "available_node_types": kinds,
        "head_node_type": FAKE_HEAD_NODE_TYPE,
        "max_workers": 2,
        "idle_timeout_minutes": 5,
        "upscaling_speed": 1.0,
        "file_mounts_sync_continuously": False,
        **{name: {} for name in ("auth", "docker", "file_mounts")},
        **{name: [] for name in lists},
    }


@pytest.fixture(scope="module", params=[FAKE | SECOND, FAKE], ids=["second", "first"])
def growing(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Nodes]:
    """A head without CPUs and one version of the autoscaler."""
    folder = tmp_path_factory.mktemp("growing")
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as temporary:
        nodes = Nodes(folder, temporary, free_port(), os.environ | token | PATIENCE)
        (folder / "autoscaler.json").write_text(json.dumps(settings(nodes.address)))
        alone = nodes.environment
        nodes.environment = alone | request.param
        head = nodes.start(
            *nodes.head, f"--autoscaling-config={folder / 'autoscaler.json'}", cores=0
        )
        nodes.environment = alone
        try:
            head.wait()
            yield nodes
        finally:
            head.kill()


def wish(nodes: Nodes, *bundles: str) -> str:
    """Ask Ray for something in a process of its own, as another user does; all that is asked for.

    Ray remembers one such wish of a whole cluster, also when who had it has ended.
    """
    command = [sys.executable, "-c", WISH, json.dumps([{bundle: 1} for bundle in bundles])]
    environment = nodes.environment | {"RAY_ADDRESS": nodes.address}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("growing", [FAKE | SECOND], ids=["second"], indirect=True)
def test_a_sweep_that_waits_and_is_killed_leaves_only_what_others_ask_for(
    growing: Nodes, tmp_path: Path, tiny_yaml: Path
) -> None:
    """Before anything trains: then Ray Train's own wish takes the place of any other."""
    assert "a_gem" in wish(growing, "a_gem")
    (tmp_path / "sweep.yaml").write_text(SWEEP.format(run=tiny_yaml))
    driver = Patient(tmp_path, growing, "resources.cpus_per_worker=7")
    try:
        wait_until(lambda: '"CPU": 7' in wish(growing), driver.process, driver.log)
    finally:
        driver.process.kill()
    driver.process.wait(60)
    deadline = time.monotonic() + 60
    while '"CPU": 7' in wish(growing):
        assert time.monotonic() < deadline
    assert "a_gem" in wish(growing)


def test_two_sweeps_wait_for_nodes_at_once(growing: Nodes, tmp_path: Path, tiny_yaml: Path) -> None:
    drivers = []
    for folder, workers in ((tmp_path / "one", 1), (tmp_path / "two", 2)):
        folder.mkdir()
        (folder / "sweep.yaml").write_text(SWEEP.format(run=tiny_yaml))
        drivers.append(Driver(folder, growing, f"resources.workers={workers}"))
    for driver, folder in zip(drivers, ("one", "two"), strict=True):
        code, log = driver.ended()
        assert code == 0, log
        assert "waiting for the cluster to grow: a trial needs " in log
        sweep = resolve_sweep_paths(
            load_sweep(str(tmp_path / folder / "sweep.yaml")), tmp_path / folder
        )
        (trial,) = plan(sweep)
        result = read_result(trial.run.directory)
        assert result is not None
        assert result.steps == trial.run.steps


@pytest.mark.parametrize("growing", [FAKE | SECOND], ids=["second"], indirect=True)
def test_what_no_node_can_hold_is_refused_before_long(
    growing: Nodes, tmp_path: Path, tiny_yaml: Path
) -> None:
    (tmp_path / "sweep.yaml").write_text(SWEEP.format(run=tiny_yaml))
    code, log = Driver(tmp_path, growing, "resources.cpus_per_worker=2").ended()
    assert code == 2, log
    assert "error: a trial needs 1 workers with 2 CPU each" in log or "needs 2 CPU" in log
