"""The autoscaler of the connected cluster, if it has one: what it is asked for, and what it says.

Ray has two versions of it. The first one writes a report of its own. The second one, which KubeRay
and `ray up` start, answers through the head node, and adds nothing at all if it cannot add all that
it is asked for.
"""

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass

from ray._private.state import state
from ray.autoscaler.sdk import request_resources
from ray.autoscaler.v2.utils import is_autoscaler_v2
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply
from ray.experimental import internal_kv

# The report of the first version.
AUTOSCALER_STATUS = b"__autoscaling_status"
OF_ITSELF = re.compile("node_[0-9a-f]+")
# In which the second version, which looks every 5 seconds, knows all nodes and what is asked for.
SURE_SECONDS = 15.0


def grows() -> bool:
    """Return whether the cluster adds nodes as they are asked for, as far as it says.

    Every head runs something like an autoscaler. Where nothing grows, each node is of a kind of its
    own there, which is named after it, or has no kind. KubeRay alone names a kind also where
    nothing grows; then the answer to a `Demand` tells.
    """
    settings = state.get_cluster_config()
    if settings is not None and settings.node_group_configs:
        return True
    if is_autoscaler_v2(fetch_from_server=True):
        nodes = _status().cluster_resource_state.node_states
        return any(node.ray_node_type_name for node in nodes)
    written = internal_kv._internal_kv_get(AUTOSCALER_STATUS)
    report = json.loads(written or b"{}").get("autoscaler_report") or {}
    kinds = {*report.get("active_nodes", ()), *(report.get("node_type_mapping") or {}).values()}
    return any(not OF_ITSELF.fullmatch(kind) for kind in kinds)


@dataclass
class Demand:
    """Workers that an autoscaler is asked to make room for.

    Args:
        worker: The resources of one.
        least: As many are needed.
        most: As many may be used.
    """

    worker: Mapping[str, float]
    least: int
    most: int
    _asked_for: int = 0
    _since: float = 0.0

    def ask(self) -> bool:
        """Ask for as many workers as may be used, else for the least; return if there is hope.

        To be called again and again: whoever else asks takes the place of this one.
        """
        if not self._asked_for:
            self._asked_for, self._since = self.most, time.monotonic()
        elif time.monotonic() - self._since > SURE_SECONDS and self._is_refused():
            if self._asked_for == self.least:
                return False
            self._asked_for, self._since = self.least, time.monotonic()
        request_resources(bundles=[dict(self.worker)] * self._asked_for)
        return True

    def withdraw(self) -> None:
        """Ask for nothing any more: what trials use holds the nodes from now on."""
        request_resources(bundles=[])

    def _is_refused(self) -> bool:
        """Return whether the autoscaler has said that it cannot add as much."""
        refused = _status().autoscaling_state.infeasible_cluster_resource_constraints
        asked = {tuple(sorted(self.worker.items())): self._asked_for}
        return any(
            asked == {tuple(sorted(one.request.resources_bundle.items())): one.count}
            for constraint in refused
            for one in constraint.resource_requests
        )


def _status() -> GetClusterStatusReply:
    """Return the nodes of the cluster, and what an autoscaler of the second version said last."""
    reply = GetClusterStatusReply()
    reply.ParseFromString(internal_kv.internal_kv_get_gcs_client().get_cluster_status())
    return reply
