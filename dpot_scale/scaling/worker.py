"""What each Ray Train worker of a trial executes: the same training as `train.py`."""

from typing import Any, TypedDict

from dpot_scale.config.schema import RunConfig


class TrialTask(TypedDict):
    """What the driver sends to its workers: the frozen config, not a file."""

    run: RunConfig


def train_trial(task: TrialTask) -> dict[str, Any]:
    """Train a trial in the process group that Ray Train has made; return its result."""
    # Imported in the worker: the module is also imported by the driver, which trains nothing.
    from dpot_scale.runs.run import run_training

    result = run_training(task["run"], opens_mlflow_run=False)
    return result.model_dump()
