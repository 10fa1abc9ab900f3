"""Makes the MLflow run of a folder, and gives it what the record of the folder says."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from dpot_scale.config.places import WEIGHTS
from dpot_scale.config.run import TrackingConfig
from dpot_scale.files import write_whole
from dpot_scale.tracking.ending import tags_of
from dpot_scale.tracking.experiment import NOTE_TAG, describe
from dpot_scale.tracking.logged_model import log_model
from dpot_scale.tracking.mlflow_client import (
    EXPERIMENT_ID_FILE,
    LARGEST_TAG,
    RUN_ID_FILE,
    attach,
    experiment_of,
    is_refusal,
    never_fatal,
    read_run_id,
    reason,
    run_of,
    warn_once,
)
from dpot_scale.tracking.note import note_of
from dpot_scale.tracking.patience import Beat
from dpot_scale.tracking.points import Points
from dpot_scale.tracking.record import MlflowRecord, read_mlflow_record, write_mlflow_record
from dpot_scale.tracking.spool import SPOOL
from dpot_scale.tracking.trained_on import log_datasets

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

CONFIG_FILE = "config.yaml"
KEY_TAG = "dpot_scale.key"
PARENT_TAG = "mlflow.parentRunId"
LARGEST_PARAM_BATCH = 100  # MLflow's limit, for tags as well

T = TypeVar("T")


def known_run(mlflow_client: "MlflowClient", directory: Path, record: MlflowRecord) -> "Run | None":
    """Return the MLflow run of a folder, a deleted one too; None if there is none.

    Args:
        mlflow_client: Where it is sought.
        directory: The folder, which may remember its id.
        record: That of the folder: a run may have been made while nobody waited for the answer.
    """
    known = read_run_id(directory)
    run = None if known is None else run_of(mlflow_client, known)
    if run is not None:
        return run
    found = _with_key(mlflow_client, record)
    return found[0] if found else None


def make_run(mlflow_client: "MlflowClient", record: MlflowRecord) -> "Run":
    """Make the MLflow run of a record, as yet with nothing but its name and key.

    Raises:
        ExperimentDeletedError: its experiment was deleted.
    """
    return mlflow_client.create_run(
        experiment_of(mlflow_client, _tracking(record)),
        start_time=_milliseconds(record.begun),
        run_name=record.name,
        tags={KEY_TAG: record.key},
    )


def remember(directory: Path, run: "Run") -> None:
    """Write the ids of an MLflow run into a folder, for restarts and mirrors.

    Raises:
        DiskError: they cannot be written.
    """
    write_whole(directory / EXPERIMENT_ID_FILE, run.info.experiment_id)
    write_whole(directory / RUN_ID_FILE, run.info.run_id)


def complete(
    mlflow_client: "MlflowClient", run_id: str, record: MlflowRecord, parent: str | None
) -> None:
    """Give an MLflow run the tags, parameters, config and datasets that it lacks.

    What MLflow refuses costs only itself.

    Args:
        mlflow_client: Where the run is.
        run_id: The run.
        record: What it is to have.
        parent: The id of the run under which it is shown.
    """
    from mlflow.entities import Param, RunTag

    def log_tags(tags: Sequence[RunTag]) -> None:
        mlflow_client.log_batch(run_id, tags=tags)

    def log_params(params: Sequence[Param]) -> None:
        mlflow_client.log_batch(run_id, params=params)

    run = mlflow_client.get_run(run_id)
    tags = record.tags | ({} if parent is None else {PARENT_TAG: parent})
    new = [RunTag(key, text[:LARGEST_TAG]) for key, text in tags.items()]
    _log_each(log_tags, [tag for tag in new if run.data.tags.get(tag.key) != tag.value])
    # A parameter is never changed.
    missing = [Param(k, text) for k, text in record.params.items() if k not in run.data.params]
    _log_each(log_params, missing)
    if record.datasets and not run.inputs.dataset_inputs:
        log_datasets(mlflow_client, run_id, record.datasets)
    describe(mlflow_client, run.info.experiment_id)
    if CONFIG_FILE not in [file.path for file in mlflow_client.list_artifacts(run_id)]:
        mlflow_client.log_text(run_id, record.config, CONFIG_FILE)


def send_all(
    mlflow_client: "MlflowClient", run_id: str, directory: Path, record: MlflowRecord, beat: Beat
) -> int:
    """Send the end of a run that has ended, its points and its files; return how many points.

    Args:
        mlflow_client: Where the run is.
        run_id: The run.
        directory: The folder.
        record: That of the folder.
        beat: Called at each answer.
    """
    # The status first: files may have a store of their own, which may be out of reach.
    if record.status is not None:
        end = _milliseconds(record.ended)
        mlflow_client.set_terminated(run_id, status=record.status, end_time=end)
        beat()
        for key, text in tags_of(record.stop, record.status).items():
            _set_tag(mlflow_client, run_id, key, text)
            beat()
    sent = Points(mlflow_client, run_id, directory / SPOOL).send(beat)
    if record.status == "FINISHED":
        _log_outcome(mlflow_client, run_id, directory, record)
        beat()
    for path, folder in record.artifacts.items():
        attach(mlflow_client, run_id, {directory / path: folder})
        beat()
    for twin in _with_key(mlflow_client, record):
        # Made while nobody waited for the answer any more. One with parameters may be restored.
        if twin.info.run_id != run_id and not twin.data.params and not twin.data.metrics:
            mlflow_client.delete_run(twin.info.run_id)
    return sent


def parent_of(mlflow_client: "MlflowClient", directory: Path, record: MlflowRecord) -> str | None:
    """Return the id of the MLflow run under which that of a folder is shown, if there is one."""
    if record.parent is None:
        return None
    above = directory / record.parent
    if (of_parent := read_mlflow_record(above)) is None:
        return None
    run = known_run(mlflow_client, above, of_parent)
    return None if run is None else str(run.info.run_id)


def mark_as_sent(directory: Path, record: MlflowRecord) -> None:
    """Note that MLflow has all of a run.

    Raises:
        DiskError: it cannot be written.
    """
    write_mlflow_record(directory, record.model_copy(update={"is_sent": True}))


def _log_outcome(
    mlflow_client: "MlflowClient", run_id: str, directory: Path, record: MlflowRecord
) -> None:
    """Show the errors and the weights of a training; a sweep has none of its own."""
    weights, spool = directory / WEIGHTS, directory / SPOOL
    if not weights.is_file() or not spool.is_file():
        return
    with never_fatal(f"the MLflow run {run_id} lacks its model"):
        tags = mlflow_client.get_run(run_id).data.tags
        if NOTE_TAG not in tags and (note := note_of(spool)):
            mlflow_client.set_tag(run_id, NOTE_TAG, note[:LARGEST_TAG])
        log_model(mlflow_client, run_id, weights=weights, spool=spool, params=record.params)


def _set_tag(mlflow_client: "MlflowClient", run_id: str, key: str, text: str) -> None:
    """Set a tag; remove it where there is no text, if an earlier attempt has left it."""
    if text:
        mlflow_client.set_tag(run_id, key, text[:LARGEST_TAG])
    elif key in mlflow_client.get_run(run_id).data.tags:
        mlflow_client.delete_tag(run_id, key)


def _log_each(log_batch: Callable[[Sequence[T]], None], entries: Sequence[T]) -> None:
    """Log entries in batches; of a batch that MLflow refuses, each by itself."""
    for first in range(0, len(entries), LARGEST_PARAM_BATCH):
        batch = entries[first : first + LARGEST_PARAM_BATCH]
        try:
            log_batch(batch)
        except Exception as error:
            if not is_refusal(error):
                raise
            if len(batch) == 1:
                warn_once(f"MLflow refuses {batch[0]}: {reason(error)}")
                continue
            for entry in batch:
                _log_each(log_batch, [entry])


def _with_key(mlflow_client: "MlflowClient", record: MlflowRecord) -> "Sequence[Run]":
    """Return the MLflow runs that were made for a record; the first of them is the one."""
    found = mlflow_client.get_experiment_by_name(record.experiment)
    if found is None:
        return []
    runs: Sequence[Run] = mlflow_client.search_runs(
        [found.experiment_id], f"tags.`{KEY_TAG}` = '{record.key}'", order_by=["created ASC"]
    )
    return runs


def _tracking(record: MlflowRecord) -> TrackingConfig:
    return TrackingConfig(mlflow_uri=record.uri, experiment=record.experiment)


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds * 1000)
