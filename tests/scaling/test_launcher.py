"""What an attempt failed of, where a node may be gone. With Ray itself: tests/end_to_end."""

from pathlib import Path

import pytest
from ray.exceptions import RayActorError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.train.v2.api.exceptions import WorkerGroupError

from dpot_scale.config.load import load_sweep
from dpot_scale.config.places import resolve_sweep_paths
from dpot_scale.config.sweep import ResourcesConfig
from dpot_scale.errors import ConfigError
from dpot_scale.scaling import launcher as launcher_module
from dpot_scale.scaling.cluster import Cluster
from dpot_scale.scaling.launcher import LOST, RayLauncher
from dpot_scale.scaling.room import LOSS_SECONDS

NODES = frozenset({"a", "b"})
KILLED = WorkerHealthCheckFailedError(
    "rank 1 failed",
    RayActorError(error_msg="The actor is dead because its worker process has died."),
)
PEER = RuntimeError("[../gloo/transport/tcp/pair.cc:538] Connection closed by peer")


@pytest.mark.parametrize(
    ("cause", "verdict", "is_gone", "patience", "reason"),
    [
        (PEER, None, True, LOSS_SECONDS, LOST),
        (PEER, None, False, LOSS_SECONDS, "a worker died: killed, out of memory, or crashed"),
        (KILLED, None, True, 0.0, LOST),
        (KILLED, None, False, 0.0, "a worker died: killed, out of memory, or crashed"),
        (KILLED, "lost_peer: rank 1 is gone", True, LOSS_SECONDS, LOST),
        (KILLED, "lost_peer: rank 1 is gone", False, LOSS_SECONDS, "rank 1 is gone"),
        (ConfigError("a mistake"), None, True, None, "a mistake"),
        (RuntimeError("odd"), None, True, None, "odd"),
    ],
)
def test_a_node_that_is_gone_is_no_failure_of_the_trial(
    cause: Exception,
    verdict: str | None,
    is_gone: bool,
    patience: float | None,
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ray is asked whether one is, and given time to find out, only where that may be."""
    asked: list[float] = []

    def lost_one(before: frozenset[str], *, patience: float) -> bool:
        assert before == NODES
        asked.append(patience)
        return is_gone

    monkeypatch.setattr(launcher_module, "lost_one", lost_one)
    sweep = resolve_sweep_paths(load_sweep("quickstart"), tmp_path)
    cluster = Cluster(resources=ResourcesConfig(gpus_per_worker=0), trials=1)
    launcher = RayLauncher(sweep, cluster)
    failed = launcher._failed(WorkerGroupError("workers failed", {1: cause}), verdict, NODES)
    assert failed.reason == reason
    assert failed.is_preemption is (reason == LOST)
    assert asked == ([] if patience is None else [patience])
