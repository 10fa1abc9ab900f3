"""Finds attempts whose workers are all silent, as that of one worker which is stopped.

Ranks find each other (`runs.hangs`), so nobody is left who would find the last one. Ray asks each
worker every 2 seconds whether it still trains, and gives an attempt up where one does not answer
for a while. That while follows here from `limits.hang`: it is longer, so that ranks which are left
can say more than Ray knows. Ray kills the workers, also stopped ones.
"""

import math
import os
import time
from pathlib import Path

from ray.train.v2._internal.exceptions import WorkerHealthCheckTimeoutError
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback
from ray.train.v2._internal.execution.context import TrainRunContext
from ray.train.v2._internal.execution.worker_group.poll import WorkerGroupPollStatus
from ray.train.v2.api.exceptions import WorkerGroupError

from dpot_scale.runs.signs import read_sign

ANSWER_LIMIT = "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"
# In which ranks that are left find, by `limits.hang`, who is silent, and write their stacks: it may
# take them 40 seconds.
MARGIN_SECONDS = 60.0
LATE_SECONDS = 15.0  # between two looks, beyond which the process that looks was stopped itself


def answer_seconds(hang: float | None) -> float:
    """Return for how long a worker may not answer.

    Args:
        hang: Minutes of `limits.hang`; None: for ever.
    """
    return math.inf if hang is None else 60 * hang + MARGIN_SECONDS


class Forgiveness(ControllerCallback, WorkerGroupCallback):
    """Tells Ray for how long a worker of a trial may not answer, and counts that fairly.

    Each trial has an actor of Ray's that asks its workers. Ray calls this there, when it begins and
    each time that it has asked. After that process was stopped itself, workers have the whole limit
    again.

    Args:
        limit: Seconds, as of `answer_seconds`.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._since = self._looked = -math.inf

    def after_controller_start(self, train_run_context: TrainRunContext) -> None:  # noqa: ARG002
        """Set the limit, which Ray reads where it starts workers."""
        os.environ[ANSWER_LIMIT] = str(self._limit)

    def after_worker_group_poll_status(self, worker_group_status: WorkerGroupPollStatus) -> None:
        """Take back what Ray says of workers that it has not watched for the whole limit."""
        self.look(time.monotonic(), worker_group_status)

    def look(self, now: float, status: WorkerGroupPollStatus) -> None:
        """Do that, by a clock in seconds."""
        if now - self._looked > LATE_SECONDS:
            self._since = now
        self._looked = now
        if now - self._since < self._limit:
            for worker in status.worker_statuses.values():
                if isinstance(worker.error, WorkerHealthCheckTimeoutError):
                    worker.error = None


def silence(error: Exception, directory: Path, before: int, hang: float | None) -> str | None:
    """Return why an attempt was given up whose workers did not answer; None if they did.

    Args:
        error: What Ray raised.
        directory: The folder of the run.
        before: The attempt before, as `signs.newest_attempt` returned it.
        hang: Minutes of `limits.hang`.

    Returns:
        A word and, behind ": ", a sentence.
    """
    failures = error.worker_failures if isinstance(error, WorkerGroupError) else {}
    silent = [
        rank for rank, one in failures.items() if isinstance(one, WorkerHealthCheckTimeoutError)
    ]
    if not silent or hang is None:
        return None
    sign = read_sign(directory, silent[0])
    is_known = sign is not None and sign.attempt > before
    who = sign.who if sign is not None and is_known else f"rank {silent[0]}"
    why = "it was stopped, or its machine or one call hangs"
    limit = f"{hang:g} minutes (limits.hang) and {MARGIN_SECONDS:g} s more"
    return f"hung: no answer of {who} for {limit}: {why}"
