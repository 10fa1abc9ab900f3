"""What each Ray Train worker of a trial executes: the same training as `train.py`."""

import contextlib
from collections.abc import Callable
from typing import Any, TypedDict

from ray.train import get_context

from dpot_scale.config.run import RunConfig
from dpot_scale.scaling.gauges import shown_metrics
from dpot_scale.scaling.stopping import listen

# What a worker returns in place of a result where its node is about to be taken away.
PREEMPTED = {"preempted": True}


class TrialTask(TypedDict):
    """What the driver sends to its workers: the frozen config, not a file."""

    run: RunConfig


def train_trial(task: TrialTask) -> dict[str, Any] | None:
    """Train a trial in the process group that Ray Train has made.

    Returns:
        Its result; None if it was told to stop, and has saved; `PREEMPTED` if it has saved because
        a node of it is about to be taken away.
    """
    # Imported in the worker: the module is also imported by the driver, which trains nothing.
    from dpot_scale.runs.endings import TrainingPreemptedError, TrainingStoppedError
    from dpot_scale.runs.resolved import identify
    from dpot_scale.runs.run import run_training
    from dpot_scale.training.watch import never

    run = task["run"]
    is_main = get_context().get_world_rank() == 0
    told_to_stop, preempted = (listen(run.directory), _preempted()) if is_main else (never, never)
    shown = shown_metrics(run.directory) if is_main else contextlib.nullcontext()
    try:
        # Identified here, by what this machine reads: ranks that read other data must be found.
        with shown:
            result = run_training(
                identify(run),
                opens_mlflow_run=False,
                told_to_stop=told_to_stop,
                preempted=preempted,
            )
    except TrainingPreemptedError:
        return PREEMPTED
    except TrainingStoppedError:
        # Returned, not raised: at the first error Ray would kill the ranks that still end.
        return None
    return result.model_dump()


def _preempted() -> Callable[[], bool]:
    """Return a function that says whether a node of this trial is about to be taken away.

    Ray tells every worker. Its public function for it waits for all of them, at every step.
    """
    from ray.train.v2._internal.execution.context import get_train_context

    context = get_train_context()
    return lambda: context.preemption_context.preemption_info is not None
