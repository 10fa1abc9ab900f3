"""Room for the workers of a trial on the connected cluster: how many have it, and since when."""

import time
from collections.abc import Callable, Collection, Sequence

import ray

from dpot_scale.config.sweep import ResourcesConfig
from dpot_scale.errors import UserError
from dpot_scale.scaling.cluster import (
    ROOM_SECONDS,
    as_node,
    free_workers,
    living_nodes,
    worker_resources,
)
from dpot_scale.scaling.held import POLL_SECONDS, Held
from dpot_scale.terminal import duration

# An earlier trial takes a moment to leave: so long one waits for as many workers as there may be.
LEAVING_SECONDS = 8.0
UNSAID_SECONDS = 10.0
# In which Ray finds out that a node is gone: it asks each one every 3 seconds, 5 times.
LOSS_SECONDS = 30.0


def living() -> frozenset[str]:
    """Return the ids of the nodes that take workers."""
    return frozenset(node["NodeID"] for node in living_nodes())


def lost_one(before: Collection[str], *, patience: float = LOSS_SECONDS) -> bool:
    """Return whether a node is gone, or about to be; wait a while, for Ray finds out late.

    Args:
        before: The ids of the nodes that were there.
        patience: Seconds to wait.
    """
    deadline = time.monotonic() + patience
    while living().issuperset(before):
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def wait_for_room(
    resources: ResourcesConfig,
    sizes: Sequence[int],
    give_up: Callable[[], bool],
    say: Callable[[str], None],
) -> int | None:
    """Wait until the cluster has room for a trial, and say so if it takes a while.

    Args:
        resources: The resources of the trial.
        sizes: The numbers of workers that it may have, the largest first.
        give_up: Asked every second whether to stop waiting.
        say: Takes one line for the user.

    Returns:
        For how many workers there is room; None if `give_up` said so.

    Raises:
        UserError: there was none for ROOM_SECONDS.
    """
    started, said = time.monotonic(), False
    held = Held(worker_resources(resources))
    try:
        while not held.wait(_wanted(resources, sizes, time.monotonic() - started)):
            waited = time.monotonic() - started
            if give_up():
                return None
            if waited > ROOM_SECONDS:
                raise UserError(
                    f"the cluster had no room for a trial in {duration(ROOM_SECONDS)}; start the "
                    "sweep again when it has"
                )
            if waited > UNSAID_SECONDS and not said:
                said = True
                say(f"waiting for {room_in_words(resources.on(sizes[-1]))}, which others use")
    finally:
        held.release()
    if said:
        say(f"starts after {duration(time.monotonic() - started)} of waiting")
    return held.workers


def _wanted(resources: ResourcesConfig, sizes: Sequence[int], waited: float) -> int:
    """Return how many workers to ask for.

    At first as many as the nodes hold if nobody else uses them, then as many as are free.
    """
    if len(sizes) == 1:
        return sizes[0]
    if waited < LEAVING_SECONDS:
        there = sum(as_node(node).workers(resources) for node in living_nodes())
    else:
        there = free_workers(resources)
    return next((size for size in sizes if size <= there), sizes[-1])


def room_in_words(resources: ResourcesConfig) -> str:
    """Return in words what the least workers need, and how much of it is free."""
    free, workers = ray.available_resources(), resources.least_workers
    needed = {key: n * workers for key, n in worker_resources(resources).items()}
    return " and ".join(f"{n:g} {key} ({free.get(key, 0):g} free)" for key, n in needed.items())
