"""What is one number for a run, as metrics: its size, which runs are plotted by, and its end."""

from collections.abc import Mapping

from dpot_scale.data.store.dataset import DatasetStore
from dpot_scale.evaluation.monitor import Monitor, final_metrics
from dpot_scale.runs.resolved import ResolvedRun
from dpot_scale.tracking import names


def size(run: ResolvedRun, stores: Mapping[str, DatasetStore]) -> dict[str, float]:
    """Return the size of the model and of its data."""
    trajectories = 0
    for name, store in stores.items():
        stored, most = store.num_trajectories("train"), run.config.data.most_trajectories(name)
        trajectories += stored if most is None else min(stored, most)
    return {
        names.PARAMETERS: run.parameters.total,
        names.BLOCK_PARAMETERS: run.parameters.blocks,
        names.TRAJECTORIES: trajectories,
    }


def end(monitor: Monitor, seconds: float) -> dict[str, float]:
    """Return the scores at the end, and what the run took."""
    tested = {name: found.score for name, found in monitor.latest.items()}
    valid = {name: found.score for name, found in monitor.valid.items()}
    return final_metrics(tested, valid) | {names.SECONDS: seconds}
