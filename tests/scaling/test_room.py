"""For how many workers there is room on a cluster. With Ray itself: tests/end_to_end."""

from types import SimpleNamespace

import pytest
import ray

from dpot_scale.config.sweep import ResourcesConfig
from dpot_scale.scaling import cluster, held, room
from dpot_scale.scaling.room import living, lost_one, wait_for_room

ONE_TO_FOUR = ResourcesConfig(workers=(1, 4), cpus_per_worker=2, gpus_per_worker=0)


class Nodes:
    """Nodes of a cluster, by their CPUs in all and those that are free."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **cpus: tuple[float, float]) -> None:
        self.cpus = cpus
        self.leaving: list[str] = []
        self.now = 0.0
        self.groups: list[int] = []  # of so many workers each, as Ray was asked for them
        self.holds = 0  # workers in a group that Ray holds at most
        context = SimpleNamespace(get_node_id=lambda: "here")
        monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
        monkeypatch.setattr(ray, "nodes", self.nodes)
        monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": 0.0})
        state = SimpleNamespace(
            get_draining_nodes=lambda: dict.fromkeys(self.leaving, 0),
            available_resources_per_node=self.free,
        )
        monkeypatch.setattr(cluster, "state", state)
        monkeypatch.setattr(room, "time", SimpleNamespace(monotonic=self.tick, sleep=self.sleep))
        monkeypatch.setattr(held, "placement_group", self.group)
        monkeypatch.setattr(held, "remove_placement_group", lambda _: None)

    def nodes(self) -> list[dict[str, object]]:
        return [
            {"NodeID": name, "Alive": cpus > 0, "Resources": {"CPU": cpus}}
            for name, (cpus, _) in self.cpus.items()
        ]

    def free(self) -> dict[str, dict[str, float]]:
        return {name: {"CPU": free} for name, (_, free) in self.cpus.items()}

    def tick(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def group(self, bundles: list[dict[str, float]]) -> SimpleNamespace:
        self.groups.append(len(bundles))

        def wait(seconds: float) -> bool:
            self.sleep(seconds)
            return len(bundles) <= self.holds

        return SimpleNamespace(wait=wait)


def test_a_node_that_dies_or_leaves_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = Nodes(monkeypatch, a=(8, 8), b=(8, 8))
    before = living()
    assert not lost_one(before, patience=0.0)
    assert nodes.now == 0
    assert not lost_one(before)
    assert nodes.now >= room.LOSS_SECONDS, "Ray finds out late"
    nodes.cpus["new"] = (8, 8)
    assert not lost_one(before, patience=0.0), "another one came"
    nodes.leaving.append("b")
    assert lost_one(before, patience=0.0)
    nodes.leaving.clear()
    nodes.cpus["b"] = (0, 0)
    assert lost_one(before, patience=0.0)


def wait(resources: ResourcesConfig, *sizes: int) -> int | None:
    return wait_for_room(resources, sizes, give_up=lambda: False, say=lambda _: None)


def test_a_trial_gets_as_many_workers_as_the_nodes_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = Nodes(monkeypatch, a=(4, 0), b=(2, 0))  # an earlier trial is about to leave
    nodes.holds = 3
    assert wait(ONE_TO_FOUR, 4, 2, 1) == 2
    assert nodes.groups == [2]


def test_what_others_keep_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = Nodes(monkeypatch, a=(8, 5))
    nodes.holds = 2
    assert wait(ONE_TO_FOUR, 4, 2, 1) == 2
    assert nodes.groups == [4, 2]
    assert room.LEAVING_SECONDS <= nodes.now <= room.LEAVING_SECONDS + 2


def test_where_nothing_is_free_the_least_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = Nodes(monkeypatch, a=(0, 0))
    said: list[str] = []

    def say(words: str) -> None:
        said.append(words)
        nodes.cpus["a"] = (8, 8)
        nodes.holds = 4

    waited = wait_for_room(ONE_TO_FOUR, (4, 2, 1), give_up=lambda: False, say=say)
    assert waited in (1, 4)
    assert nodes.groups[0] == 1
    assert said[0] == "waiting for 2 CPU (0 free), which others use"
    assert said[1].startswith("starts after ")


def test_a_fixed_number_is_waited_for_whatever_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = Nodes(monkeypatch, a=(4, 4))
    asked = iter([False, False, True])
    fixed = ONE_TO_FOUR.on(4)
    assert wait_for_room(fixed, (4,), give_up=lambda: next(asked), say=lambda _: None) is None
    assert nodes.groups == [4]
