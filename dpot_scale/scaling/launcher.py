"""Trains one trial at a time on a Ray cluster, through Ray Train."""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import ray
from ray.exceptions import RayError
from ray.train import FailureConfig, ScalingConfig
from ray.train import RunConfig as RayRunConfig
from ray.train.torch import TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError

from dpot_scale.config.sweep import SweepConfig
from dpot_scale.scaling.cluster import (
    Cluster,
    join_cluster,
    wait_for_room,
    worker_environment,
    worker_resources,
)
from dpot_scale.scaling.endings import AttemptFailedError, diagnose
from dpot_scale.scaling.plan import Trial
from dpot_scale.scaling.worker import TrialTask, train_trial

# Ray's own limit is no limit: a controller that cannot start would be tried for ever.
CONTROLLER_FAILURES = 2


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
        self._storage = sweep.directory / "ray"

    def wait_for_room(self, give_up: Callable[[], bool], say: Callable[[str], None]) -> bool:
        """Wait for what others use."""
        return wait_for_room(self.cluster.resources, give_up=give_up, say=say)

    def train(self, trial: Trial, attempt: int) -> bool:
        """Train a trial through Ray Train."""
        # Unique: under a name it knows, Ray would restore its own state of that run.
        name = f"{trial.id}_{attempt}_{int(time.time())}"
        try:
            return self._trainer(trial, name).fit().return_value is not None
        except (TrainingFailedError, RayError) as error:
            raise AttemptFailedError(*diagnose(error)) from error
        finally:
            # Ray insists on a folder of its own, into which this training puts nothing.
            shutil.rmtree(self._storage / name, ignore_errors=True)

    def abandon(self) -> None:
        """Leave the cluster, which ends what this process started there."""
        ray.shutdown()

    def _trainer(self, trial: Trial, name: str) -> TorchTrainer:
        resources = self.cluster.resources
        task: TrialTask = {"run": trial.run}
        return TorchTrainer(
            train_trial,
            train_loop_config=task,
            scaling_config=ScalingConfig(
                num_workers=resources.workers,
                use_gpu=resources.gpus_per_worker == 1,
                resources_per_worker=worker_resources(resources),
            ),
            run_config=RayRunConfig(
                name=name,
                storage_path=str(self._storage),
                worker_runtime_env=worker_environment(resources),
                # Attempts are counted by the controller, which knows a user's mistake.
                failure_config=FailureConfig(
                    max_failures=0, controller_failure_limit=CONTROLLER_FAILURES
                ),
            ),
        )


@contextmanager
def ray_launcher(sweep: SweepConfig) -> Iterator[RayLauncher]:
    """Connect to the running cluster, or start one here that ends with the block.

    Raises:
        ConfigError: it is too small for one trial.
        UserError: there is none at RAY_ADDRESS, or it refuses this process.
    """
    with join_cluster(sweep.resources) as cluster:
        yield RayLauncher(sweep, cluster)
