"""A quiet MLflow client, the making of a fresh database, and runs deleted in MLflow."""

import contextlib
import functools
import logging
import os
import shlex
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dpot_scale.config.places import SQLITE, absolute_uri
from dpot_scale.config.run import TrackingConfig
from dpot_scale.errors import UserError, without_secrets
from dpot_scale.files import held
from dpot_scale.tracking.artifacts import ROOT, follow_without_server

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

RUN_ID_FILE = "mlflow_run_id"
LARGEST_TAG = 8000  # characters, MLflow's limit
EXPERIMENT_ID_FILE = "mlflow_experiment_id"  # with the run's id it makes the link

TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
LARGE_FILE_SECONDS = 600
ENVIRONMENT = {
    # MLflow tries a server that does not answer for many minutes. We try again ourselves.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    TIMEOUT: "20",
    # The link that MLflow prints at the end of a run opens an empty page.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}

log = logging.getLogger(__name__)


class ExperimentDeletedError(Exception):
    """The experiment to which a run should belong was deleted."""


def client(uri: str) -> "MlflowClient":
    """Return a quiet client for a tracking server or sqlite database, with short timeouts."""
    # Imported where it is used: it takes more than a second, and 115 MiB of every rank.
    from mlflow.tracking import MlflowClient

    for variable, value in ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.WARNING)
    uri = absolute_uri(uri, Path.cwd())
    _forget_places(uri)
    if uri.startswith(SQLITE):
        follow_without_server()
        _make_database(Path(uri.removeprefix(SQLITE)))
    return MlflowClient(tracking_uri=uri)


@functools.lru_cache(maxsize=1)
def _forget_places(uri: str) -> None:
    """Let MLflow look anew where files of runs are, if the client before had another address.

    It remembers that by the id of a run, which is the same in a copy of a database.
    """
    from mlflow.tracking._tracking_service import utils

    log.debug("files of runs are sought at %s", uri)
    utils._artifact_repos_cache.clear()


def warn_if_deleted(mlflow_client: "MlflowClient", run_id: str) -> bool:
    """Return whether a run was deleted in MLflow; if so, say once how to bring it back."""
    run = run_of(mlflow_client, run_id)
    if run is not None and run.info.lifecycle_stage == "active":
        return False
    warn_once(
        f"the MLflow run {run_id} was deleted and gets no more{_way_back(mlflow_client, run)}"
    )
    return True


def _way_back(mlflow_client: "MlflowClient", run: "Run | None") -> str:
    if run is None:
        return ""
    uri, experiment = mlflow_client.tracking_uri, run.info.experiment_id
    if mlflow_client.get_experiment(experiment).lifecycle_stage == "active":
        command = _command(uri, f"runs restore --run-id {run.info.run_id}")
        return f": {command} brings it back"
    command = _command(uri, f"experiments restore --experiment-id {experiment}")
    return f", like its experiment: {command} brings both back"


def _command(uri: str, command: str) -> str:
    return f"`MLFLOW_TRACKING_URI={shlex.quote(uri)} mlflow {command}`"


@functools.cache
def warn_once(sentence: str) -> None:
    """Print a warning once per process: the mirror and the end of a run may both notice it."""
    log.warning(sentence)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep to itself what MLflow prints of its own success."""
    # Counts who wants silence. `disable_logging` does not: while a model is logged, the first such
    # block that ends would let everything speak again.
    from mlflow.utils.autologging_utils.logging_and_warnings import (
        MlflowEventsAndWarningsBehaviorGlobally,
    )

    with MlflowEventsAndWarningsBehaviorGlobally(
        disable_event_logs=True, disable_warnings=False, reroute_warnings=False
    ):
        yield


@contextlib.contextmanager
def patient() -> Iterator[None]:
    """Wait longer for an answer: a server moves a large file to or from its store before it."""
    before = os.environ.get(TIMEOUT)
    os.environ[TIMEOUT] = str(max(int(before or 0), LARGE_FILE_SECONDS))
    try:
        yield
    finally:
        if before is None:
            del os.environ[TIMEOUT]
        else:
            os.environ[TIMEOUT] = before


@contextlib.contextmanager
def never_fatal(consequence: str) -> Iterator[None]:
    """Turn any failure of MLflow into a warning."""
    try:
        yield
    except Exception as error:
        log.warning("%s: %s", consequence, reason(error))


def reason(error: BaseException) -> str:
    """Return in one line the innermost cause of an error, which MLflow wraps in many layers.

    A sentence of ours is whole: what lies below it may be what went wrong before. Without the
    secrets of the addresses in it: it is logged and shown.
    """
    while not isinstance(error, UserError) and (below := error.__cause__ or error.__context__):
        error = below
    return without_secrets(" ".join(str(error).split())) or type(error).__name__


def is_refusal(error: Exception) -> bool:
    """Return whether MLflow will never take what was sent; else it may once it is well again."""
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, ErrorCode

    refused = ErrorCode.Name(INVALID_PARAMETER_VALUE)
    return isinstance(error, MlflowException) and error.error_code == refused


def _make_database(path: Path) -> None:
    """Make the tables of a database that does not exist.

    The tables are made in a temporary file, which is then renamed. MLflow's migrations would leave
    an unusable file if two processes ran them together or one was killed half-way.
    """
    if path.exists():
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    with held(path.with_name(f"{path.name}.lock"), wait=True):
        if path.exists():
            return
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}_") as folder:
            made = Path(folder) / path.name
            store = SqlAlchemyStore(f"{SQLITE}{made}", ROOT)
            store.engine.dispose()
            made.rename(path)


def experiment_of(mlflow_client: "MlflowClient", tracking: TrackingConfig) -> str:
    """Return the id of the experiment, which is made if there is none of that name.

    Raises:
        ExperimentDeletedError: it was deleted, and its name is still taken.
    """
    from mlflow.exceptions import MlflowException

    name, uri = tracking.experiment, mlflow_client.tracking_uri
    found = mlflow_client.get_experiment_by_name(name)
    if found is None:
        location = ROOT if uri.startswith(SQLITE) else None  # a server has a place of its own
        try:
            return str(mlflow_client.create_experiment(name, artifact_location=location))
        except MlflowException:
            found = mlflow_client.get_experiment_by_name(name)  # another process was first
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        command = _command(uri, f"experiments restore --experiment-id {found.experiment_id}")
        raise ExperimentDeletedError(
            f"the experiment {name!r} was deleted there; {command} brings it back, or choose "
            "another tracking.experiment"
        )
    return str(found.experiment_id)


def run_of(mlflow_client: "MlflowClient", run_id: str) -> "Run | None":
    """Return a run, a deleted one too; None if there is none."""
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode

    try:
        return mlflow_client.get_run(run_id)
    except MlflowException as error:
        if error.error_code == ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            return None
        raise


def read_run_id(directory: Path) -> str | None:
    """Return the id of the MLflow run of a directory; None before it was opened."""
    return read_id(directory / RUN_ID_FILE)


def read_id(file: Path) -> str | None:
    """Return the id in a file; None if there is none yet."""
    with contextlib.suppress(FileNotFoundError):
        return file.read_text(encoding="utf-8", errors="replace").strip() or None
    return None


def attach(mlflow_client: "MlflowClient", run_id: str, artifacts: Mapping[Path, str]) -> None:
    """Attach files (path -> folder there) to a run."""
    for path, folder in artifacts.items():
        mlflow_client.log_artifact(run_id, str(path), folder or None)
