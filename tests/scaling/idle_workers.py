"""A sweep whose workers train nothing, for tests of its controller."""

import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dpot_scale.config.load import load_sweep
from dpot_scale.config.places import resolve_sweep_paths
from dpot_scale.config.sweep import ResourcesConfig, SweepConfig
from dpot_scale.scaling.cluster import Cluster
from dpot_scale.scaling.controller import Controller
from dpot_scale.scaling.plan import Trial, plan
from dpot_scale.tracking.mlflow_run import MlflowRun

NO_SERVICES = ["run.tracking.mlflow_uri=null", "run.data.suite=null"]


class FakeLauncher:
    """A cluster in this process: a trial takes as long as `train` says."""

    def __init__(self, trials: int, train: Callable[[Trial, int], bool]) -> None:
        self.cluster = Cluster(resources=ResourcesConfig(gpus_per_worker=0), trials=trials)
        self.free = 0
        self.workers: list[int] = []
        self._train = train
        self._lock = threading.Lock()
        self.running: list[str] = []
        self.most = 0  # trials at a time
        self.begun: list[str] = []
        self.abandoned = threading.Event()

    def wait_for_room(
        self, sizes: Sequence[int], give_up: Callable[[], bool], say: Callable[[str], None]
    ) -> int | None:
        assert callable(say)
        return None if give_up() else sizes[0]

    def free_workers(self) -> int:
        return self.free

    def train(self, trial: Trial, attempt: int, workers: int) -> bool:
        with self._lock:
            self.workers.append(workers)
            self.begun.append(trial.id)
            self.running.append(trial.id)
            self.most = max(self.most, len(self.running))
        try:
            return self._train(trial, attempt)
        finally:
            with self._lock:
                self.running.remove(trial.id)

    def abandon(self) -> None:
        self.abandoned.set()


def designed(folder: Path, *design: dict[str, Any], settings: Sequence[str] = ()) -> SweepConfig:
    own = [*NO_SERVICES, f"design={json.dumps(design)}", "windows=null", "max_attempts=1"]
    sweep = resolve_sweep_paths(load_sweep("quickstart", [*own, *settings]), folder)
    sweep.directory.mkdir(parents=True, exist_ok=True)
    return sweep


def control(
    sweep: SweepConfig, at_a_time: int, train: Callable[[Trial, int], bool]
) -> tuple[Controller, FakeLauncher]:
    launcher = FakeLauncher(at_a_time, train)
    mlflow_run = MlflowRun(sweep.directory, sweep, sweep.run.tracking, name=sweep.name)
    controller = Controller(
        sweep=sweep, trials=plan(sweep), parent_run=mlflow_run, launcher=launcher, say=print
    )
    return controller, launcher
