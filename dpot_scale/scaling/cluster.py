"""The Ray cluster that trials run on: a running one, or one that is started on this machine."""

import logging
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray._private.state import state

from dpot_scale.cluster.connection import connection
from dpot_scale.config.engine import ACCELERATOR
from dpot_scale.config.sweep import ResourcesConfig
from dpot_scale.engine.memory import GIB
from dpot_scale.errors import ConfigError
from dpot_scale.scaling.autoscaler import Demand, grows
from dpot_scale.scaling.cost import DEVICES
from dpot_scale.scaling.fitting import NO_NODES, Node, machine_gib
from dpot_scale.scaling.held import POLL_SECONDS
from dpot_scale.terminal import under_way

log = logging.getLogger(__name__)

# Only small control messages pass through Ray: metrics and checkpoints go to disk.
OBJECT_STORE_BYTES = 100 * 2**20
# How long a trial waits for what others use: a queue of a shared cluster takes hours, not days.
ROOM_SECONDS = 24 * 3600.0
# How long a cluster may take to grow to the size of a trial: machines of a cloud start in minutes.
GROWTH_SECONDS = 1800.0
# How a sweep, and how the doctor is asked for them.
FEWER = "fewer workers (resources.workers, of the doctor --workers)"
KIND = "accelerator_type:"  # begins the resource of a node that names its GPUs
# Ray's own limits for the start of workers, 60 s both, are limits of an idle cluster.
START_LIMIT = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"  # read by the driver of a trial
PATIENCE = {
    START_LIMIT: str(ROOM_SECONDS),
    "RAY_worker_register_timeout_seconds": "600",  # read by the node that `ray.init` starts
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """The resources of a trial on the connected cluster, and how many trials it has room for."""

    resources: ResourcesConfig  # with the kind of workers settled
    trials: int  # that it holds at a time, with the most workers, when nobody else uses it
    nodes: Sequence[Node] = NO_NODES
    grows: bool = False  # it adds nodes as they are asked for


@contextmanager
def join_cluster(resources: ResourcesConfig) -> Iterator[Cluster]:
    """Connect to the running cluster, or start one here that ends with the block.

    Raises:
        ConfigError: it is too small for one trial, and does not grow.
        UserError: there is none at RAY_ADDRESS, or it refuses this process.
    """
    for variable, value in PATIENCE.items():
        os.environ.setdefault(variable, value)
    # Progress is read from the trials' directories, so that workers need not print.
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    # Ray's own handler would end the driver before it can say what it was doing.
    before = signal.getsignal(signal.SIGTERM)
    cpus = resources.cpus_per_worker * resources.least_workers
    with connection(cpus, object_store_memory=OBJECT_STORE_BYTES):
        signal.signal(signal.SIGTERM, before)
        with under_way("waiting for the nodes of the Ray cluster"):
            cluster = _measure(resources)
        yield cluster


def _measure(resources: ResourcesConfig) -> Cluster:
    """Return what the connected cluster means for the trials; wait for one that grows."""
    deadline, demand = time.monotonic() + GROWTH_SECONDS, None
    while True:
        there = ray.cluster_resources()
        settled = settle(resources, there)
        nodes = [as_node(node) for node in living_nodes()]
        # Each worker has all of its resources from one node.
        workers = sum(node.workers(settled) for node in nodes)
        if workers >= settled.least_workers:
            if demand is not None:
                demand.withdraw()
            trials = max(1, workers // settled.most_workers)
            return Cluster(resources=settled, trials=trials, nodes=nodes, grows=grows())
        # Ray would wait for ever for what nobody will add.
        too_small = _too_small(settled, there, workers)
        if not grows():
            raise too_small
        if demand is None:
            log.warning("waiting for the cluster to grow: %s", too_small)
            one = worker_resources(settled)
            demand = Demand(one, settled.least_workers, settled.most_workers)
        if not demand.ask(workers, free_workers(settled)) or time.monotonic() > deadline:
            demand.withdraw()
            raise too_small
        time.sleep(POLL_SECONDS)


def _too_small(resources: ResourcesConfig, there: Mapping[str, float], workers: int) -> ConfigError:
    """Return the error for a cluster that does not hold a trial."""
    one, least = worker_resources(resources), resources.least_workers
    for key, amount in one.items():
        if there.get(key, 0) < amount * least:
            return ConfigError(
                f"a trial needs {amount * least:g} {key} ({least} workers), but the cluster has "
                f"{there.get(key, 0):g}; ask for {FEWER}, or start a larger cluster"
            )
    needs = " and ".join(f"{amount:g} {key}" for key, amount in one.items())
    return ConfigError(
        f"a trial needs {least} workers with {needs} each, on one node each, but the "
        f"nodes of the cluster hold {workers}; ask for {FEWER}, lower "
        "resources.cpus_per_worker, or start larger nodes"
    )


def living_nodes() -> list[Mapping[str, Any]]:
    """Return what Ray says of each node that takes workers: it lives, and nobody takes it away."""
    leaving = state.get_draining_nodes()
    return [node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in leaving]


def free_workers(resources: ResourcesConfig) -> int:
    """Return how many workers nodes have free resources for."""
    free = state.available_resources_per_node()
    nodes = ({**node, "Resources": free.get(node["NodeID"], {})} for node in living_nodes())
    return sum(as_node(node).workers(resources) for node in nodes)


def as_node(described: Mapping[str, Any]) -> Node:
    """Return what Ray says of one of its nodes.

    That is the memory which was free when it was started, and as much as there is on this machine:
    others may have used some of it. Of a GPU Ray names the kind.
    """
    there = described["Resources"]
    memory = there.get("memory", 0.0) + there.get("object_store_memory", 0.0)
    is_here = described["NodeID"] == ray.get_runtime_context().get_node_id()
    kinds = [key.removeprefix(KIND).lower() for key in there if key.startswith(KIND)]
    known = [DEVICES[name].gib for name in DEVICES if name in kinds]
    return Node(
        cpus=there.get("CPU", 0.0),
        gpus=there.get("GPU", 0.0),
        gib=machine_gib() if is_here else memory / GIB or None,
        gpu_gib=known[0] if len(kinds) == 1 == len(known) else None,
    )


def settle(resources: ResourcesConfig, there: Mapping[str, float]) -> ResourcesConfig:
    """Return the resources with `auto` replaced by what a cluster has: a GPU for each worker.

    Of a number of workers that may change, the least count. DS_ACCELERATOR=cpu means none.
    """
    if resources.gpus_per_worker != "auto":
        return resources
    wanted = os.environ.get(ACCELERATOR) != "cpu"
    gpus = 1 if wanted and there.get("GPU", 0) >= resources.least_workers else 0
    return resources.model_copy(update={"gpus_per_worker": gpus})


def worker_resources(resources: ResourcesConfig) -> dict[str, float]:
    """Return the resources of one worker, by Ray's names."""
    assert resources.gpus_per_worker != "auto"
    gpus = {"GPU": 1.0} if resources.gpus_per_worker else {}
    return {"CPU": float(resources.cpus_per_worker)} | gpus


def worker_environment(resources: ResourcesConfig) -> dict[str, Any]:
    """Return the runtime environment of a worker, which hides GPUs from workers on CPUs."""
    return {} if resources.gpus_per_worker else {"env_vars": {"CUDA_VISIBLE_DEVICES": ""}}
