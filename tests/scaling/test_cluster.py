"""What the workers of a trial get from a cluster. With Ray itself: tests/end_to_end."""

from types import SimpleNamespace

import pytest
import ray

from dpot_scale.config.engine import ACCELERATOR
from dpot_scale.config.sweep import ResourcesConfig
from dpot_scale.engine.memory import GIB
from dpot_scale.errors import ConfigError
from dpot_scale.scaling import cluster
from dpot_scale.scaling.cluster import (
    as_node,
    free_workers,
    settle,
    worker_environment,
    worker_resources,
)
from dpot_scale.scaling.fitting import machine_gib


@pytest.mark.parametrize(("gpus", "expected"), [(0, 0), (1, 0), (2, 1), (8, 1)])
def test_auto_is_a_gpu_for_every_worker_or_none(
    gpus: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(ACCELERATOR, raising=False)  # ranks on CPUs in this process set it
    there = {"CPU": 16.0} | ({"GPU": float(gpus)} if gpus else {})
    settled = settle(ResourcesConfig(workers=2), there)
    assert settled.gpus_per_worker == expected
    assert worker_resources(settled) == {"CPU": 1.0} | ({"GPU": 1.0} if expected else {})
    monkeypatch.setenv(ACCELERATOR, "cpu")
    assert settle(ResourcesConfig(workers=2), there).gpus_per_worker == 0


@pytest.mark.parametrize("chosen", [0, 1])
def test_what_is_chosen_stands(chosen: int) -> None:
    resources = ResourcesConfig.model_validate({"gpus_per_worker": chosen})
    assert settle(resources, {"GPU": 8.0 * (1 - chosen)}) == resources


def test_only_a_worker_without_a_gpu_of_its_own_is_shown_none() -> None:
    hidden = {"env_vars": {"CUDA_VISIBLE_DEVICES": ""}}
    assert worker_environment(ResourcesConfig(gpus_per_worker=0)) == hidden
    assert worker_environment(ResourcesConfig(gpus_per_worker=1)) == {}


@pytest.mark.parametrize(
    ("kinds", "gib"),
    [
        (["H100"], 79.6),
        (["A100"], 80.0),
        (["A100-40G"], None),
        (["H100", "A100"], None),
        ([], None),
    ],
)
def test_a_node_has_what_ray_says_of_it(
    kinds: list[str], gib: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = SimpleNamespace(get_node_id=lambda: "here")
    monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
    there = {"CPU": 64.0, "GPU": 8.0, "memory": 70 * GIB, "object_store_memory": 30 * GIB}
    there |= {f"accelerator_type:{kind}": 1.0 for kind in kinds}
    node = as_node({"NodeID": "there", "Resources": there})
    assert (node.cpus, node.gpus, node.gib, node.gpu_gib) == (64, 8, 100, gib)
    # Others may have used memory of this machine when its node was started.
    assert as_node({"NodeID": "here", "Resources": there}).gib == machine_gib()
    assert as_node({"NodeID": "there", "Resources": {"CPU": 1.0}}).gib is None


def test_free_workers_are_counted_by_node(monkeypatch: pytest.MonkeyPatch) -> None:
    free = {"a": 5.0, "b": 3.0, "dead": 8.0, "leaves": 8.0}
    state = SimpleNamespace(
        get_draining_nodes=lambda: {"leaves": 0},
        available_resources_per_node=lambda: {name: {"CPU": cpus} for name, cpus in free.items()},
    )
    monkeypatch.setattr(cluster, "state", state)
    context = SimpleNamespace(get_node_id=lambda: "here")
    monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
    nodes = [{"NodeID": name, "Alive": name != "dead", "Resources": {}} for name in free]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    resources = ResourcesConfig(workers=(1, 4), cpus_per_worker=2, gpus_per_worker=0)
    assert free_workers(resources) == 2 + 1


class Growing:
    """A cluster of nodes with so many CPUs each, which may grow at every look."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *looks: list[int], grows: bool) -> None:
        self.looks, self.asked, self.withdrawn = list(looks), 0, False
        monkeypatch.setattr(ray, "nodes", self.nodes)
        monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": float(sum(self.looks[0]))})
        context = SimpleNamespace(get_node_id=lambda: "here")
        monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
        monkeypatch.setattr(cluster.state, "get_draining_nodes", lambda: {"leaving": 0})
        monkeypatch.setattr(cluster, "grows", lambda: grows)
        monkeypatch.setattr(cluster, "POLL_SECONDS", 0.0)
        monkeypatch.setattr(cluster, "free_workers", lambda _: 0)
        monkeypatch.setattr(cluster, "Demand", lambda *asked: self.asks(*asked))

    def nodes(self) -> list[dict[str, object]]:
        return [
            {"NodeID": "", "Alive": True, "Resources": {"CPU": float(cpus)}}
            for cpus in self.looks[0]
        ]

    def asks(self, worker: dict[str, float], least: int, most: int) -> "Growing":
        assert (worker, least, most) == ({"CPU": 2.0}, 2, 2)
        return self

    def ask(self, there: int, free: int) -> bool:
        assert (there, free) == (sum(cpus // 2 for cpus in self.looks[0]), 0)
        self.asked += 1
        if len(self.looks) > 1:
            self.looks.pop(0)
        return True

    def withdraw(self) -> None:
        self.withdrawn = True


TWO_OF_TWO = ResourcesConfig(workers=2, cpus_per_worker=2, gpus_per_worker=0)


def test_a_worker_that_fits_on_no_node_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though all nodes together have as much."""
    Growing(monkeypatch, [1, 1, 1, 1], grows=False)
    with pytest.raises(ConfigError, match=r"2 workers with 2 CPU each, .* of the cluster hold 0;"):
        cluster._measure(TWO_OF_TWO)
    Growing(monkeypatch, [3, 1], grows=False)
    with pytest.raises(ConfigError, match="hold 1; ask for fewer workers"):
        cluster._measure(TWO_OF_TWO)


def test_trials_are_counted_by_node(monkeypatch: pytest.MonkeyPatch) -> None:
    Growing(monkeypatch, [5, 5, 3, 1], grows=False)  # 2, 2, 1 and no worker
    assert cluster._measure(TWO_OF_TWO).trials == 2


def test_a_cluster_that_grows_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Growing(monkeypatch, [], [], [2], [2, 2], grows=True)
    assert cluster._measure(TWO_OF_TWO).trials == 1
    assert made.asked == 3
    assert made.withdrawn


def test_a_cluster_that_does_not_grow_enough_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Growing(monkeypatch, [0], grows=True)
    monkeypatch.setattr(cluster, "GROWTH_SECONDS", 0.05)
    with pytest.raises(ConfigError, match=r"needs 4 CPU \(2 workers\), but the cluster has 0"):
        cluster._measure(TWO_OF_TWO)
    assert made.asked
    assert made.withdrawn
