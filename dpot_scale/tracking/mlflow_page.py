"""What people see of a run in MLflow: its report, and the link that leads to it."""

import shlex
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dpot_scale.config.places import SQLITE, absolute_uri, in_job
from dpot_scale.config.run import TrackingConfig
from dpot_scale.tracking.artifacts import beside
from dpot_scale.tracking.experiment import NOTE_TAG, VIEW, share_charts
from dpot_scale.tracking.mlflow_client import (
    EXPERIMENT_ID_FILE,
    attach,
    client,
    never_fatal,
    read_id,
    read_run_id,
    warn_if_deleted,
)
from dpot_scale.tracking.patience import Beat, in_time

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

JOBS_OFF = "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false"
UI = "http://127.0.0.1:5000"  # where `mlflow ui` listens
# MLflow shows an experiment as one of generative AI, whose pages are empty for ours, unless the
# link says otherwise or the browser remembers it. Nothing that a run or an experiment holds counts.
WORKFLOW = "workflowType=machine_learning"


def annotate(
    directory: Path,
    tracking: TrackingConfig,
    *,
    artifacts: Mapping[Path, str],
    note: Callable[[str, str], str],
    numbers: Mapping[str, float],
    is_finished: bool,
) -> None:
    """Attach files and a note to the MLflow run of a directory, without changing when it ended.

    Args:
        directory: The directory of the run or the sweep; without an MLflow run nothing is done.
        tracking: The address of MLflow.
        artifacts: Path -> folder in MLflow.
        note: Makes the note, in Markdown, from the id of the run and the address of the charts of
            its trials.
        numbers: The metrics of the run, one number each.
        is_finished: Whether nothing is left to do. If the owner of the run was killed before it
            could end the run, the run is ended now.
    """
    run_id = read_run_id(directory)
    if run_id is None or tracking.mlflow_uri is None:
        return
    uri = tracking.mlflow_uri

    def send(beat: Beat) -> None:
        mlflow_client = client(uri)
        if warn_if_deleted(mlflow_client, run_id):
            return
        info = mlflow_client.get_run(run_id).info
        if is_finished and info.status != "FINISHED":
            mlflow_client.set_terminated(run_id)
        charts = share_charts(mlflow_client, info.experiment_id, run_id)
        mlflow_client.set_tag(run_id, NOTE_TAG, note(run_id, f"{charts}&{WORKFLOW}"))
        _log_numbers(mlflow_client, run_id, numbers)
        for path, folder in artifacts.items():
            beat()
            attach(mlflow_client, run_id, {path: folder})

    with never_fatal(f"the MLflow run {run_id} lacks its report"):
        if (error := in_time(uri, send)) is not None:
            raise error


def _log_numbers(mlflow_client: "MlflowClient", run_id: str, numbers: Mapping[str, float]) -> None:
    """Give an MLflow run numbers; a report that is written again replaces them."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    metrics = [Metric(key, value, now, 0) for key, value in numbers.items()]
    mlflow_client.log_batch(run_id, metrics=metrics)


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
    uri = absolute_uri(uri, Path.cwd())
    page_of = f"/runs/{run}?" if page == "run" else f"/runs?viewStateShareKey={VIEW}&"
    link = f"#/experiments/{experiment}{page_of}{WORKFLOW}"
    if uri.startswith("http"):
        return [f"curves: {uri.rstrip('/')}/{link}"]
    opened = f"        then open {UI}/{link}"
    if not in_job():
        return [f"curves: {ui_command(uri)}", opened]
    # Who submitted the job is on another machine, and the shell of this one may know no `mlflow`.
    host, port = socket.gethostname(), UI.rpartition(":")[2]
    command = ui_command(uri, f"{shlex.quote(sys.executable)} -m mlflow")
    forward = f"ssh -L {port}:127.0.0.1:{port} {host} (a pod: kubectl port-forward {host} {port})"
    return [f"curves: on {host}, {command}", f"        from elsewhere, {forward}", opened]


def ui_command(uri: str, program: str = "mlflow") -> str:
    """Return the command that shows a database: without the processes for generative AI.

    MLflow starts seven that wait for jobs of its own and four that answer, of 170 MB each.
    """
    command = f"{JOBS_OFF} {program} ui --workers 1 --backend-store-uri {shlex.quote(uri)}"
    if not uri.startswith(SQLITE):
        return command
    folder = beside(Path(uri.removeprefix(SQLITE)))
    return f"{command} --artifacts-destination {shlex.quote(str(folder))}"
