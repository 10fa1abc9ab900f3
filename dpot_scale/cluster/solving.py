"""Solves the parts of a dataset on a Ray cluster: one task per shard, on whatever node is free.

Tasks read and write no files. What they solve comes back through Ray to the process that asked for
it, and this one writes it, so the nodes need no common file system.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import ray

from dpot_scale.cluster.connection import connection
from dpot_scale.config.data import GeneratedDataset
from dpot_scale.data.generation.workers import Workers, frame_values, solve
from dpot_scale.data.store.writer import SHARD_BYTES

BYTES_PER_VALUE = 4


@contextmanager
def ray_tasks(say: Callable[[str], None]) -> Iterator[Workers]:
    """Solve on the cluster: a task per GPU at a time, or per core where it has no GPUs.

    Args:
        say: Takes one line of text for the user.

    Raises:
        UserError: there is no cluster at RAY_ADDRESS, or it refuses this process.
    """
    with connection(cpus=1):
        resources = ray.cluster_resources()
        gpus = int(resources.get("GPU", 0))
        number = gpus or int(resources["CPU"])
        place = ray.get_runtime_context().gcs_address
        say(f"solving on the Ray cluster at {place}, on {number} {'GPUs' if gpus else 'cores'}")
        task = ray.remote(num_cpus=1, num_gpus=1 if gpus else 0)(solve)
        yield Workers(
            lambda part: task.remote(part).future(), number, partial(_part_size, workers=number)
        )


def has_room() -> bool:
    """Return whether the cluster that this process is connected to could start a task at once."""
    free, there = ray.available_resources(), ray.cluster_resources()
    return all(free.get(kind, 0) >= 1 for kind in ("CPU", "GPU") if kind in there)


def _part_size(recipe: GeneratedDataset, *, workers: int) -> int:
    """Return the trajectories of a shard, or of a share of the cluster where that is less."""
    trajectory_bytes = BYTES_PER_VALUE * recipe.frames * frame_values(recipe)
    return max(1, min(SHARD_BYTES // trajectory_bytes, recipe.train // workers))
