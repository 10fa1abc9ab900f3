"""What people see of a run in MLflow: its report, and the link that leads to it."""

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from dpot_scale.config.places import absolute_uri
from dpot_scale.config.run import TrackingConfig
from dpot_scale.tracking.mlflow_client import (
    EXPERIMENT_ID_FILE,
    attach,
    client,
    never_fatal,
    read_id,
    read_run_id,
    warn_if_deleted,
)

LARGEST_NOTE = 8000  # characters, MLflow's limit for a tag
UI = "http://127.0.0.1:5000"  # where `mlflow ui` listens
# MLflow shows an experiment as one of generative AI, whose pages are empty for ours, unless the
# link says otherwise or the browser remembers it. Nothing that a run or an experiment holds counts.
WORKFLOW = "workflowType=machine_learning"


def annotate(
    directory: Path,
    tracking: TrackingConfig,
    *,
    artifacts: Mapping[Path, str],
    note: Callable[[str], str],
    is_finished: bool,
) -> None:
    """Attach files and a note to the MLflow run of a directory, without changing when it ended.

    Args:
        directory: The directory of the run or the sweep; without an MLflow run nothing is done.
        tracking: The address of MLflow.
        artifacts: Path -> folder in MLflow.
        note: Makes the note, in Markdown, from the id of the run.
        is_finished: Whether nothing is left to do. If the owner of the run was killed before it
            could end the run, the run is ended now.
    """
    run_id = read_run_id(directory)
    if run_id is None or tracking.mlflow_uri is None:
        return
    with never_fatal(f"the MLflow run {run_id} lacks its report"):
        mlflow_client = client(tracking.mlflow_uri)
        if not warn_if_deleted(mlflow_client, run_id):
            if is_finished and mlflow_client.get_run(run_id).info.status != "FINISHED":
                mlflow_client.set_terminated(run_id)
            mlflow_client.set_tag(run_id, "mlflow.note.content", note(run_id))
            attach(mlflow_client, run_id, artifacts)


def review(
    directory: Path, tracking: TrackingConfig, *, page: Literal["run", "experiment"]
) -> list[str]:
    """Return lines for a terminal that say how to see the MLflow run of a directory.

    Args:
        directory: The directory of the run or the sweep; without an MLflow run: no lines.
        tracking: The address of MLflow.
        page: The page to open: that of the run, or that of all runs of its experiment.
    """
    uri, run = tracking.mlflow_uri, read_run_id(directory)
    experiment = read_id(directory / EXPERIMENT_ID_FILE)
    if uri is None or run is None or experiment is None:
        return []
    place = f"experiments/{experiment}" + (f"/runs/{run}" if page == "run" else "")
    if uri.startswith("http"):
        return [f"curves: {uri.rstrip('/')}/#/{place}?{WORKFLOW}"]
    return [
        f"curves: mlflow ui --backend-store-uri {shlex.quote(absolute_uri(uri, Path.cwd()))}",
        f"        then open {UI}/#/{place}?{WORKFLOW}",
    ]
