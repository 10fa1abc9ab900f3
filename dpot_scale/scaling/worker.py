"""What each Ray Train worker of a trial executes: the same training as `train.py`."""

import contextlib
from typing import Any, TypedDict

from ray.train import get_context

from dpot_scale.config.run import RunConfig
from dpot_scale.scaling.gauges import shown_metrics
from dpot_scale.scaling.stopping import listen


class TrialTask(TypedDict):
    """What the driver sends to its workers: the frozen config, not a file."""

    run: RunConfig


def train_trial(task: TrialTask) -> dict[str, Any] | None:
    """Train a trial in the process group that Ray Train has made.

    Returns:
        Its result; None if it was told to stop, and has saved.
    """
    # Imported in the worker: the module is also imported by the driver, which trains nothing.
    from dpot_scale.runs.resolved import identify
    from dpot_scale.runs.run import TrainingStoppedError, run_training
    from dpot_scale.training.watch import never

    run = task["run"]
    is_main = get_context().get_world_rank() == 0
    told_to_stop = listen(run.directory) if is_main else never
    shown = shown_metrics(run.directory) if is_main else contextlib.nullcontext()
    try:
        # Identified here, by what this machine reads: ranks that read other data must be found.
        with shown:
            result = run_training(identify(run), opens_mlflow_run=False, told_to_stop=told_to_stop)
    except TrainingStoppedError:
        # Returned, not raised: at the first error Ray would kill the ranks that still end.
        return None
    return result.model_dump()
