"""What does a sweep of 500 trials ask of its driver, and of the MLflow server?

python benchmarks/large_sweep.py [--requests 40] [--workers-of-a-trial 8]

It plans the trials and lets the controller see them to their ends, with a cluster on which each
ends at once; and it prints what reaches the MLflow server from 8, 64 and 512 GPUs.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from dpot_scale.config.load import load_sweep
from dpot_scale.config.places import resolve_sweep_paths
from dpot_scale.config.sweep import ResourcesConfig, SweepConfig
from dpot_scale.evaluation.scores import DatasetScore
from dpot_scale.runs.result import TrainingResult, save_result
from dpot_scale.scaling.cluster import Cluster
from dpot_scale.scaling.controller import Controller
from dpot_scale.scaling.plan import Trial, plan
from dpot_scale.tracking.mirror import MIRROR_INTERVAL_SECONDS
from dpot_scale.tracking.mlflow_run import MlflowRun

GPUS = (8, 64, 512)


def print_sweep(seeds: int = 100) -> None:
    """Print what a sweep of 500 trials asks of its own driver."""
    sizes = {"ladder": {"parameters": [1e6, 2e6, 4e6, 8e6, 16e6]}}
    design = [sizes, {"seeds": list(range(seeds))}]
    settings = ["ladder=null", "windows=null", f"design={json.dumps(design)}"]
    quiet = ["run.tracking.mlflow_uri=null", "run.data.suite=null"]
    with tempfile.TemporaryDirectory() as folder:
        sweep = resolve_sweep_paths(load_sweep("quickstart", [*settings, *quiet]), Path(folder))
        sweep.directory.mkdir(parents=True)
        begun = time.process_time()
        trials = plan(sweep)
        planned = time.process_time()
        control(sweep, trials)
        controlled = time.process_time()
    print(f"\n{len(trials)} trials: planned in {planned - begun:.1f} CPU seconds; begun, noted and "
          f"ended, 64 at a time, in {controlled - planned:.1f}")  # fmt: skip


def print_requests(requests: float, workers: int) -> None:
    """Print what the trials of a sweep ask of the MLflow server."""
    for gpus in GPUS:
        together = gpus // workers
        rate = together / MIRROR_INTERVAL_SECONDS
        verdict = "fits" if rate <= requests else "too many: raise tracking.log_every"
        print(f"\n{gpus} GPUs train {together} trials of {workers} workers at a time: at most "
              f"{rate:.3g} requests/s to MLflow of {requests:g}: {verdict}")  # fmt: skip


class Instant:
    """A cluster on which every trial has ended when it begins."""

    def __init__(self) -> None:
        self.cluster = Cluster(resources=ResourcesConfig(gpus_per_worker=0), trials=64)

    def wait_for_room(
        self,
        sizes: Sequence[int],
        give_up: Callable[[], bool],  # noqa: ARG002
        say: Callable[[str], None],  # noqa: ARG002
    ) -> int:
        """There is always room."""
        return sizes[0]

    def free_workers(self) -> int:
        """None is needed."""
        return 0

    def train(self, trial: Trial, attempt: int, workers: int) -> bool:  # noqa: ARG002
        """Write the result of a trial."""
        score = DatasetScore(rel_l2=0.1, one_step_rel_l2=0.1, persistence_rel_l2=0.2,
                             persistence_one_step_rel_l2=0.2)  # fmt: skip
        result = TrainingResult(
            name=trial.id, identity="0" * 12, datasets={}, world_size=1,
            parameters=trial.parameters, block_parameters=trial.block_parameters,
            windows=trial.run.windows, steps=trial.run.steps, seconds=1.0,
            train_flops=trial.train_flops, windows_per_second=1.0, peak_memory_gib=1.0,
            final_train_loss=0.1, evaluation={"pde": score},
        )  # fmt: skip
        save_result(trial.run.directory, result)
        return True

    def abandon(self) -> None:
        """Nothing runs."""


def control(sweep: SweepConfig, trials: Sequence[Trial]) -> None:
    """Let the controller of a sweep see all its trials to their ends."""
    parent_run = MlflowRun(sweep.directory, sweep, sweep.run.tracking, name=sweep.name)
    launcher = Instant()
    Controller(
        sweep=sweep, trials=trials, parent_run=parent_run, launcher=launcher, say=lambda _: None
    ).run()


def main() -> None:
    """Print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--requests", type=float, default=40, help="a second, of MLflow")
    parser.add_argument("--workers-of-a-trial", type=int, default=8)
    args = parser.parse_args()
    print_sweep()
    print_requests(args.requests, args.workers_of_a_trial)


if __name__ == "__main__":
    main()
