"""Trains one trial at a time on a Ray cluster, through Ray Train."""

import logging
import math
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import ray
from ray.exceptions import RayError
from ray.train import FailureConfig, ScalingConfig
from ray.train import RunConfig as RayRunConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError

from dpot_scale.config.sweep import ResourcesConfig, SweepConfig
from dpot_scale.engine.runtime import PATIENCE
from dpot_scale.errors import ConfigError, UserError
from dpot_scale.runs.signs import given_up, newest_attempt
from dpot_scale.scaling.cluster import (
    START_LIMIT,
    Cluster,
    free_workers,
    join_cluster,
    worker_environment,
    worker_resources,
)
from dpot_scale.scaling.endings import (
    AttemptFailedError,
    diagnose,
    failed_attempt,
    is_killed_alone,
    lost_peer,
    tells_of_death,
)
from dpot_scale.scaling.held import Held
from dpot_scale.scaling.plan import Trial
from dpot_scale.scaling.room import (
    LOSS_SECONDS,
    living,
    lost_one,
    room_in_words,
    wait_for_room,
)
from dpot_scale.scaling.silence import Forgiveness, answer_seconds, silence
from dpot_scale.scaling.worker import PREEMPTED, TrialTask, train_trial

# Ray's own limit is no limit: a controller that cannot start would be tried for ever.
CONTROLLER_FAILURES = 2
LOST = "a node of its workers is gone"
TAKEN = "a node of its workers is about to be taken away; it saved"
STORAGE = "ray"  # in the folder of a sweep: what Ray insists on while trials train

log = logging.getLogger(__name__)


class Launcher(Protocol):
    """Where the trials of a sweep train."""

    @property
    def cluster(self) -> Cluster:
        """The resources of a trial, and how many trials there is room for."""

    def wait_for_room(
        self, sizes: Sequence[int], give_up: Callable[[], bool], say: Callable[[str], None]
    ) -> int | None:
        """Wait until there is room for a trial; return its workers, None if `give_up` said so.

        Args:
            sizes: The numbers of workers that the trial may have, the largest first.
            give_up: Asked now and then whether to stop waiting.
            say: Takes one line for the user.
        """

    def free_workers(self) -> int:
        """Return how many workers more there is room for."""

    def train(self, trial: Trial, attempt: int, workers: int) -> bool:
        """Train a trial; return whether it came to its end, or was told to stop and has saved.

        Raises:
            AttemptFailedError: the attempt failed.
        """

    def abandon(self) -> None:
        """End all that trains without waiting, so that `train` returns."""


class RayLauncher:
    """Trains on a Ray cluster.

    Args:
        sweep: The sweep, with absolute paths.
        cluster: The connected cluster.
    """

    def __init__(self, sweep: SweepConfig, cluster: Cluster) -> None:
        self.cluster = cluster
        self._storage = sweep.directory / STORAGE
        # What a cluster that grows is asked for, for trials that have fewer workers than they may.
        self._asked: list[Held] = []
        self._asking = threading.Lock()

    def wait_for_room(
        self, sizes: Sequence[int], give_up: Callable[[], bool], say: Callable[[str], None]
    ) -> int | None:
        """Wait for what others use."""
        return wait_for_room(self.cluster.resources, sizes, give_up=give_up, say=say)

    def free_workers(self) -> int:
        """Return how many workers nodes have free resources for, or hold them back for trials."""
        with self._asking:
            held = sum(asked.workers for asked in self._asked if asked.is_there())
        return free_workers(self.cluster.resources) + held

    def train(self, trial: Trial, attempt: int, workers: int) -> bool:
        """Train a trial through Ray Train."""
        # Unique: under a name it knows, Ray would restore its own state of that run.
        name = f"{trial.id}_{attempt}_{int(time.time())}"
        before, nodes = newest_attempt(trial.run.directory), living()
        task: TrialTask = {"run": trial.run}
        resources, limits = self.cluster.resources.on(workers), trial.run.limits
        try:
            made = trainer(
                train_trial,
                task,
                resources,
                name=name,
                storage=self._storage,
                patience=limits.patience,
                forgiveness=Forgiveness(answer_seconds(limits.hang)),
            )
            with self._more_is_asked_for(workers):
                returned = made.fit().return_value
        except (TrainingFailedError, RayError) as error:
            verdict = given_up(trial.run.directory, before) or silence(
                error, trial.run.directory, before, limits.hang
            )
            raise self._failed(error, verdict, nodes) from error
        finally:
            # Ray insists on a folder of its own, into which this training puts nothing.
            shutil.rmtree(self._storage / name, ignore_errors=True)
        if returned == PREEMPTED:
            raise AttemptFailedError(TAKEN, is_final=False, is_preemption=True)
        return returned is not None

    @contextmanager
    def _more_is_asked_for(self, workers: int) -> Iterator[None]:
        """Let a cluster that grows add nodes for the workers that a trial lacks, if any."""
        lacking = self.cluster.resources.most_workers - workers
        asked = Held(worker_resources(self.cluster.resources))
        if self.cluster.grows and lacking:
            asked.ask(lacking)
        with self._asking:
            self._asked.append(asked)
        try:
            yield
        finally:
            with self._asking:
                self._asked.remove(asked)
                asked.release()

    def _failed(
        self, error: Exception, verdict: str | None, nodes: frozenset[str]
    ) -> AttemptFailedError:
        """Return why an attempt failed; it may take a while to find out that a node is gone.

        Args:
            error: What Ray raised.
            verdict: Why its ranks gave it up, if they did. Those end themselves.
            nodes: Those that were there when it began.
        """
        failed = failed_attempt(error, verdict)
        patience = 0.0 if is_killed_alone(error) and verdict is None else LOSS_SECONDS
        is_lost = failed.is_preemption or (
            tells_of_death(error) and not failed.is_final and lost_one(nodes, patience=patience)
        )
        return AttemptFailedError(LOST, is_final=False, is_preemption=True) if is_lost else failed

    def abandon(self) -> None:
        """Leave the cluster, which ends what this process started there."""
        ray.shutdown()


def trainer(
    function: Callable[..., Any],
    task: Mapping[str, Any],
    resources: ResourcesConfig,
    *,
    name: str,
    storage: Path,
    patience: timedelta = PATIENCE,
    forgiveness: Forgiveness | None = None,
) -> TorchTrainer:
    """Return what runs a function on the workers of a trial, in one process group.

    Args:
        function: Called with the task on each worker.
        task: What the driver sends.
        resources: The workers, their kind settled; of a range of numbers, the largest.
        name: Under a name that it knows, Ray would restore its own state.
        storage: A folder that all nodes see; Ray makes one of that name in it.
        patience: How long a worker waits for the others.
        forgiveness: Of workers that do not answer; None: Ray's own limit holds.
    """
    return TorchTrainer(
        function,
        train_loop_config=dict(task),
        torch_config=TorchConfig(timeout_s=math.ceil(patience.total_seconds())),
        scaling_config=ScalingConfig(
            num_workers=resources.most_workers,
            use_gpu=resources.gpus_per_worker == 1,
            resources_per_worker=worker_resources(resources),
        ),
        run_config=RayRunConfig(
            name=name,
            storage_path=str(storage),
            worker_runtime_env=worker_environment(resources),
            callbacks=[forgiveness] if forgiveness else [],
            # Attempts are counted by the controller, which knows a user's mistake, and with how
            # many workers a trial may go on.
            failure_config=FailureConfig(
                max_failures=0,
                max_preemption_failures=0,
                controller_failure_limit=CONTROLLER_FAILURES,
            ),
        ),
    )


def on_workers(
    function: Callable[..., Any],
    task: Mapping[str, Any],
    resources: ResourcesConfig,
    storage: Path,
    *,
    patience: timedelta,
) -> Any:  # noqa: ANN401 - of the function
    """Run a function on workers of the Ray cluster; return what it returns on the first one.

    Args:
        function: Called with the task on each worker, in one process group.
        task: What the driver sends.
        resources: The workers: one number of them.
        storage: A folder that all nodes see; it is removed at the end.
        patience: How long to wait for room, and a worker for the others.

    Raises:
        UserError: there is no cluster, it is too small or has no room, or the workers failed.
    """
    os.environ.setdefault(START_LIMIT, str(patience.total_seconds()))
    with join_cluster(resources) as cluster:
        _require_gpus(resources, cluster)
        _await_room(cluster.resources, patience)
        name = f"workers_{time.time_ns()}"
        try:
            made = trainer(
                function, task, cluster.resources, name=name, storage=storage, patience=patience
            )
            return made.fit().return_value
        except (TrainingFailedError, RayError) as error:
            reason = lost_peer(error) or diagnose(error)[0]
            raise UserError(f"the workers failed: {reason}") from error
        finally:
            shutil.rmtree(storage, ignore_errors=True)


def _require_gpus(asked: ResourcesConfig, cluster: Cluster) -> None:
    """Make sure that workers are not on CPUs because the cluster has some GPUs, but too few."""
    gpus = sum(node.gpus for node in cluster.nodes)
    if gpus and asked.gpus_per_worker == "auto" and not cluster.resources.gpus_per_worker:
        raise ConfigError(
            f"{asked.least_workers} workers need a GPU each, but the cluster has {gpus:g}: ask for "
            "fewer workers, or start more nodes"
        )


def _await_room(resources: ResourcesConfig, patience: timedelta) -> None:
    """Wait until there is room for workers, and say so."""
    until = time.monotonic() + patience.total_seconds()
    sizes = [resources.least_workers]
    if wait_for_room(resources, sizes, lambda: time.monotonic() > until, log.warning) is None:
        raise UserError(
            f"the cluster has no room for {resources.share_in_words(resources.least_workers)}, "
            f"{room_in_words(resources)}; wait for what others use, or ask for fewer"
        )


@contextmanager
def ray_launcher(sweep: SweepConfig) -> Iterator[RayLauncher]:
    """Connect to the running cluster, or start one here that ends with the block.

    The sweep is held by this process, so what lies in its folder for Ray is of killed ones.

    Raises:
        ConfigError: it is too small for one trial.
        UserError: there is none at RAY_ADDRESS, or it refuses this process.
    """
    shutil.rmtree(sweep.directory / STORAGE, ignore_errors=True)
    with join_cluster(sweep.resources) as cluster:
        yield RayLauncher(sweep, cluster)
    shutil.rmtree(sweep.directory / STORAGE, ignore_errors=True)
