"""What an autoscaler is asked for, and says. With Ray itself: tests/end_to_end."""

import json
from types import SimpleNamespace

import pytest
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply

from dpot_scale.scaling import autoscaler, held
from dpot_scale.scaling.autoscaler import SURE_SECONDS, Demand

ONE = {"CPU": 2.0, "GPU": 1.0}


@pytest.mark.parametrize(
    ("report", "grows"),
    [
        (None, False),
        ({"active_nodes": {}, "node_type_mapping": None}, False),
        ({"active_nodes": {f"node_{'6170e2a6' * 7}": 1}}, False),
        ({"active_nodes": {}, "node_type_mapping": {"0f": "ray.head.default"}}, True),
        ({"active_nodes": {"ray.head.default": 1, "ray.worker.cpu": 2}}, True),
    ],
)
def test_a_cluster_grows_if_its_nodes_are_of_configured_kinds(
    report: dict[str, object] | None, grows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As reports of Ray 2.60 are: without an autoscaler, each node is a kind."""
    written = json.dumps({"monitor_pid": 7, "autoscaler_report": report}).encode()
    monkeypatch.setattr(autoscaler.state, "get_cluster_config", lambda: None)
    monkeypatch.setattr(autoscaler, "is_autoscaler_v2", lambda **_: False)
    monkeypatch.setattr(autoscaler.internal_kv, "_internal_kv_get", lambda _: written)
    assert autoscaler.grows() is grows


@pytest.mark.parametrize(
    ("kinds", "grows"),
    [([""], False), (["", ""], False), (["headgroup"], True), (["head", "gpu"], True)],
)
def test_a_second_version_grows_if_its_nodes_have_kinds(
    kinds: list[str], grows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`ray start` alone names none."""
    status = GetClusterStatusReply()
    for kind in kinds:
        status.cluster_resource_state.node_states.add(ray_node_type_name=kind)
    monkeypatch.setattr(autoscaler.state, "get_cluster_config", lambda: None)
    monkeypatch.setattr(autoscaler, "is_autoscaler_v2", lambda **_: True)
    monkeypatch.setattr(autoscaler, "_status", lambda: status)
    assert autoscaler.grows() is grows


class Cluster:
    """A cluster whose autoscaler can add nodes for so many workers beside what others use."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
        self.most, self.now = most, 100.0
        self.groups: dict[str, int] = {}  # workers that are asked for, by the name of the request
        self.made = 0
        self.holds = False  # what it is asked for
        monkeypatch.setattr(autoscaler, "time", self)
        monkeypatch.setattr(autoscaler, "_status", self.status)
        monkeypatch.setattr(held, "placement_group", self.group)
        monkeypatch.setattr(
            held, "remove_placement_group", lambda group: self.groups.pop(group.id.hex())
        )

    def monotonic(self) -> float:
        return self.now

    def group(self, bundles: list[dict[str, float]]) -> SimpleNamespace:
        assert bundles == [ONE] * len(bundles)
        self.made += 1
        name = f"group{self.made}"
        self.groups[name] = len(bundles)
        identity = SimpleNamespace(hex=lambda: name)
        return SimpleNamespace(id=identity, wait=lambda _: self.holds)

    def status(self) -> GetClusterStatusReply:
        """As Ray's second version says it: the largest request first, each as a whole."""
        reply, left = GetClusterStatusReply(), self.most
        for name, workers in sorted(self.groups.items(), key=lambda group: -group[1]):
            details = f"{name}:PACK|PENDING"
            reply.cluster_resource_state.pending_gang_resource_requests.add(details=details)
            if workers > left:
                refused = reply.autoscaling_state.infeasible_gang_resource_requests
                refused.add(details=details)
            else:
                left -= workers
        return reply

    def after(self, seconds: float, demand: Demand, there: int = 0, free: int = 0) -> list[int]:
        """Return for how many it was asked after a while; for none if there is no hope."""
        self.now += seconds
        return list(self.groups.values()) if demand.ask(there, free) else []


def test_the_most_is_asked_for_until_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    made, demand = Cluster(monkeypatch, 4), Demand(ONE, 2, 4)
    for _ in range(5):
        assert made.after(SURE_SECONDS, demand) == [4]
    assert made.made == 1
    demand.withdraw()
    assert not made.groups


def test_the_least_is_asked_for_where_the_most_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """An autoscaler that cannot add all of it adds nothing."""
    made, demand = Cluster(monkeypatch, 3), Demand(ONE, 2, 4)
    assert made.after(0, demand) == [4]
    assert made.after(SURE_SECONDS / 2, demand) == [4], "it may not know all nodes yet"
    for _ in range(3):
        assert made.after(2 * SURE_SECONDS, demand) == [2]


def test_there_is_no_hope_where_the_least_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    made, demand = Cluster(monkeypatch, 1), Demand(ONE, 2, 4)
    asked = [made.after(2 * SURE_SECONDS, demand) for _ in range(3)]
    assert asked == [[4], [2], []]


def test_what_others_are_refused_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    made, demand = Cluster(monkeypatch, 2), Demand(ONE, 2, 2)
    made.groups["of others"] = 64
    for _ in range(4):
        assert made.after(2 * SURE_SECONDS, demand) == [64, 2]


def test_two_wait_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither takes back what the other one asks for, or loses hope while that is added."""
    made, one, other = Cluster(monkeypatch, 3), Demand(ONE, 3, 3), Demand(ONE, 2, 2)
    for _ in range(4):
        made.after(0, one)
        assert made.after(2 * SURE_SECONDS, other) == [3, 2]
    one.withdraw()
    assert made.after(0, other) == [2]
    other.withdraw()
    assert not made.groups


def test_what_others_use_is_waited_for_and_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else an autoscaler at its limit would refuse what there is room for once they have ended."""
    made, demand = Cluster(monkeypatch, 4), Demand(ONE, 4, 4)
    assert made.after(0, demand) == [4]
    assert made.after(0, demand, there=3, free=0) == [1]
    assert made.after(0, demand, there=3, free=2) == [3]
    made.holds = True  # of the nodes that are there, nothing is left then
    assert made.after(0, demand, there=3, free=0) == [4]
