"""The autoscaler of the connected cluster, if it has one: what it is asked for, and what it says.

Ray has two versions of it. The first one writes a report of its own. The second one, which KubeRay
and `ray up` start, answers through the head node, and adds nothing at all if it cannot add all that
it is asked for.
"""

import json
import re
import time
from collections.abc import Mapping

from ray._private.state import state
from ray.autoscaler.v2.utils import is_autoscaler_v2
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply
from ray.experimental import internal_kv

from dpot_scale.scaling.held import Held

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


class Demand:
    """Workers that an autoscaler is asked to make room for, beside what others ask it for.

    Ray has a simpler way, `request_resources`, but only one such request for a whole cluster: each
    takes the place of another's, as of Ray Train's own for what trains, and stays when the process
    that made it was killed.

    Args:
        worker: The resources of one.
        least: As many are needed.
        most: As many may be used.
    """

    def __init__(self, worker: Mapping[str, float], least: int, most: int) -> None:
        self._worker = worker
        self._least = least
        self._wanted = most
        self._held = Held(worker)
        self._hopeful = 0.0  # when it was not refused, last

    def ask(self, there: int, free: int) -> bool:
        """Ask for as many workers as may be used, else for the least; return if there is hope.

        To be called again and again. What others use is not asked for, but counts: there will be
        room on it when they have ended.

        Args:
            there: How many workers the nodes hold if nobody uses them; fewer than the least.
            free: How many workers nodes have free resources for.
        """
        now = time.monotonic()
        if not self._is_refused():
            self._hopeful = now
        elif now - self._hopeful > SURE_SECONDS:
            if self._wanted == self._least:
                return False
            self._wanted, self._hopeful = self._least, now
        if self._held.is_there():
            free += self._held.workers
        self._held.ask(self._wanted - max(0, there - free))
        return True

    def withdraw(self) -> None:
        """Ask for nothing any more: what trials use holds the nodes from now on."""
        self._held.release()

    def _is_refused(self) -> bool:
        """Return whether the autoscaler cannot add as much, and adds nothing for others."""
        status = _status()
        refused = {
            request.details
            for request in status.autoscaling_state.infeasible_gang_resource_requests
        }
        asked = {
            request.details
            for request in status.cluster_resource_state.pending_gang_resource_requests
        }
        is_own = any(self._held.id in details for details in refused)
        return bool(self._held.id) and is_own and asked <= refused


def _status() -> GetClusterStatusReply:
    """Return the nodes of the cluster, and what an autoscaler of the second version said last."""
    reply = GetClusterStatusReply()
    reply.ParseFromString(internal_kv.internal_kv_get_gcs_client().get_cluster_status())
    return reply
