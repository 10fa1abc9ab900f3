"""The Ray cluster that trials run on: the one that is there, or one on this machine."""

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from dpot_scale.config.schema import ResourcesConfig
from dpot_scale.errors import ConfigError
from dpot_scale.ray_connection import connect

# Only small control messages pass through Ray: metrics and checkpoints go to disk.
OBJECT_STORE_BYTES = 100 * 2**20


@contextmanager
def connected(resources: ResourcesConfig) -> Iterator[int]:
    """Connect to the running cluster or start one here; give the number of trials it can hold.

    SIGTERM is an interrupt meanwhile, as Ctrl-C is.

    Raises:
        ConfigError: it is too small for one trial.
        UserError: there is none at RAY_ADDRESS, or it refuses this process.
    """
    needed = {key: n * resources.workers for key, n in worker_resources(resources).items()}
    # Progress is read from the trials' directories, so that workers need not print.
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    connect(int(needed["CPU"]), object_store_memory=OBJECT_STORE_BYTES)
    # `ray job stop` ends a driver so. Ray's own handler would not let it say what it was doing.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        there = ray.cluster_resources()
        for key, amount in needed.items():
            # Ray would wait for ever for what nobody will add.
            if there.get(key, 0) < amount:
                raise ConfigError(
                    f"a trial needs {amount:g} {key} ({resources.workers} workers), but the "
                    f"cluster has {there.get(key, 0):g}; lower resources.workers or start a "
                    "larger cluster"
                )
        yield min(int(there[key] // amount) for key, amount in needed.items())
    finally:
        ray.shutdown()
        signal.signal(signal.SIGTERM, before)


def worker_resources(resources: ResourcesConfig) -> dict[str, float]:
    """Return what one worker takes, in Ray's names for it."""
    gpus = {"GPU": float(resources.gpus_per_worker)} if resources.gpus_per_worker else {}
    return {"CPU": float(resources.cpus_per_worker)} | gpus
