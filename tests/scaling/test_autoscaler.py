"""What an autoscaler is asked for, and says. With Ray itself: tests/end_to_end."""

import json
from collections.abc import Callable

import pytest
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply

from dpot_scale.scaling import autoscaler
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


class Autoscaler:
    """An autoscaler that can add so many workers at most, and what it was asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
        self.most, self.now = most, 100.0
        self.asked: list[list[dict[str, float]]] = []
        self.of_others = False
        monkeypatch.setattr(autoscaler, "time", self)
        monkeypatch.setattr(autoscaler, "request_resources", self.request)
        monkeypatch.setattr(autoscaler, "_status", self.status)

    def monotonic(self) -> float:
        return self.now

    def request(self, bundles: list[dict[str, float]]) -> None:
        self.asked.append(bundles)

    def status(self) -> GetClusterStatusReply:
        reply = GetClusterStatusReply()
        if len(self.asked[-1]) > self.most:
            refused = reply.autoscaling_state.infeasible_cluster_resource_constraints.add()
            resources = {"CPU": 64.0} if self.of_others else self.asked[-1][0]
            refused.resource_requests.add(
                request={"resources_bundle": resources}, count=len(self.asked[-1])
            )
        return reply

    def workers_after(self, seconds: float, ask: Callable[[], bool]) -> int:
        """Return for how many it was asked after a while; 0 if there is no hope."""
        self.now += seconds
        return len(self.asked[-1]) if ask() else 0


def test_the_most_is_asked_for_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made, demand = Autoscaler(monkeypatch, 4), Demand(ONE, 2, 4)
    for _ in range(5):
        assert made.workers_after(SURE_SECONDS, demand.ask) == 4
    assert made.asked == [[ONE] * 4] * 5
    demand.withdraw()
    assert made.asked[-1] == []


def test_the_least_is_asked_for_where_the_most_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """An autoscaler that cannot add all of it adds nothing."""
    made, demand = Autoscaler(monkeypatch, 3), Demand(ONE, 2, 4)
    assert made.workers_after(0, demand.ask) == 4
    assert made.workers_after(SURE_SECONDS / 2, demand.ask) == 4, "it may not know all nodes yet"
    for _ in range(3):
        assert made.workers_after(2 * SURE_SECONDS, demand.ask) == 2


def test_there_is_no_hope_where_the_least_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    made, demand = Autoscaler(monkeypatch, 1), Demand(ONE, 2, 4)
    sizes = [made.workers_after(2 * SURE_SECONDS, demand.ask) for _ in range(3)]
    assert sizes == [4, 2, 0]


def test_what_others_are_refused_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    made, demand = Autoscaler(monkeypatch, 1), Demand(ONE, 2, 2)
    made.of_others = True
    for _ in range(4):
        assert made.workers_after(2 * SURE_SECONDS, demand.ask) == 2
