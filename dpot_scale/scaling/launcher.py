"""Trains one trial at a time on a Ray cluster, through Ray Train."""

import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
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
from dpot_scale.errors import UserError
from dpot_scale.runs.signs import given_up, newest_attempt
from dpot_scale.scaling.cluster import (
    Cluster,
    join_cluster,
    wait_for_room,
    worker_environment,
    worker_resources,
)
from dpot_scale.scaling.endings import AttemptFailedError, diagnose, failed_attempt
from dpot_scale.scaling.plan import Trial
from dpot_scale.scaling.worker import PREEMPTED, TrialTask, train_trial

# Ray's own limit is no limit: a controller that cannot start would be tried for ever.
CONTROLLER_FAILURES = 2
STORAGE = "ray"  # in the folder of a sweep: what Ray insists on while trials train


class Launcher(Protocol):
    """Where the trials of a sweep train."""

    @property
    def cluster(self) -> Cluster:
        """The resources of a trial, and how many trials there is room for."""

    def wait_for_room(self, give_up: Callable[[], bool], say: Callable[[str], None]) -> bool:
        """Wait until there is room for a trial; return whether there is, or `give_up` said so."""

    def train(self, trial: Trial, attempt: int) -> bool:
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

    def wait_for_room(self, give_up: Callable[[], bool], say: Callable[[str], None]) -> bool:
        """Wait for what others use."""
        return wait_for_room(self.cluster.resources, give_up=give_up, say=say)

    def train(self, trial: Trial, attempt: int) -> bool:
        """Train a trial through Ray Train."""
        # Unique: under a name it knows, Ray would restore its own state of that run.
        name = f"{trial.id}_{attempt}_{int(time.time())}"
        before = newest_attempt(trial.run.directory)
        try:
            task: TrialTask = {"run": trial.run}
            resources = self.cluster.resources
            patience = trial.run.limits.patience
            made = trainer(
                train_trial, task, resources, name=name, storage=self._storage, patience=patience
            )
            returned = made.fit().return_value
        except (TrainingFailedError, RayError) as error:
            raise failed_attempt(error, given_up(trial.run.directory, before)) from error
        finally:
            # Ray insists on a folder of its own, into which this training puts nothing.
            shutil.rmtree(self._storage / name, ignore_errors=True)
        if returned == PREEMPTED:
            raise AttemptFailedError("its node is about to be taken away; it saved", False, True)
        return returned is not None

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
) -> TorchTrainer:
    """Return what runs a function on the workers of a trial, in one process group.

    Args:
        function: Called with the task on each worker.
        task: What the driver sends.
        resources: The workers, their kind settled.
        name: Under a name that it knows, Ray would restore its own state.
        storage: A folder that all nodes see; Ray makes one of that name in it.
        patience: How long a worker waits for the others.
    """
    return TorchTrainer(
        function,
        train_loop_config=dict(task),
        torch_config=TorchConfig(timeout_s=math.ceil(patience.total_seconds())),
        scaling_config=ScalingConfig(
            num_workers=resources.workers,
            use_gpu=resources.gpus_per_worker == 1,
            resources_per_worker=worker_resources(resources),
        ),
        run_config=RayRunConfig(
            name=name,
            storage_path=str(storage),
            worker_runtime_env=worker_environment(resources),
            # Attempts are counted by the controller, which knows a user's mistake.
            failure_config=FailureConfig(
                max_failures=0, controller_failure_limit=CONTROLLER_FAILURES
            ),
        ),
    )


def on_workers(
    function: Callable[..., Any],
    task: Mapping[str, Any],
    resources: ResourcesConfig,
    storage: Path,
) -> Any:  # noqa: ANN401 - of the function
    """Run a function on workers of the Ray cluster; return what it returns on the first one.

    Args:
        function: Called with the task on each worker, in one process group.
        task: What the driver sends.
        resources: The workers.
        storage: A folder that all nodes see; it is removed at the end.

    Raises:
        UserError: there is no cluster, it is too small, or the workers failed.
    """
    with join_cluster(resources) as cluster:
        try:
            made = trainer(
                function, task, cluster.resources, name=f"workers_{time.time_ns()}", storage=storage
            )
            return made.fit().return_value
        except (TrainingFailedError, RayError) as error:
            raise UserError(f"the workers failed: {diagnose(error)[0]}") from error
        finally:
            shutil.rmtree(storage, ignore_errors=True)


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
