"""The MLflow run of a training or a sweep: opened when MLflow answers, closed with a status.

MLflow may be absent, slow or broken: that costs a warning, never the training.
"""

import contextlib
import functools
import logging
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dpot_scale.config.load import dump
from dpot_scale.config.places import SQLITE, absolute_uri
from dpot_scale.config.schema import Section, TrackingConfig
from dpot_scale.files import held, write_whole

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

RUN_ID_FILE = "mlflow_run_id"
EXPERIMENT_ID_FILE = "mlflow_experiment_id"  # with the run's id it makes the link

RETRY_SECONDS = 5.0  # between attempts to open a run
LARGEST_PARAM_BATCH = 100
LARGEST_NOTE = 8000  # characters, MLflow's limit for a tag
ENVIRONMENT = {
    # MLflow tries a server that does not answer for many minutes. We try again ourselves.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    # The link that MLflow prints at the end of a run opens an empty page.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
UI = "http://127.0.0.1:5000"  # where `mlflow ui` listens
# MLflow shows an experiment as one of generative AI, whose pages are empty for ours, unless the
# link says otherwise or the browser remembers it. Nothing that a run or an experiment holds counts.
WORKFLOW = "workflowType=machine_learning"

Status = Literal["FINISHED", "FAILED", "KILLED"]

log = logging.getLogger(__name__)


class ExperimentDeletedError(Exception):
    """The experiment to which a run should belong was deleted."""


class MlflowRun:
    """The MLflow run of a directory, for the one process that opens and closes it.

    The directory remembers the id, for restarts and for the mirrors that send metrics.

    Args:
        directory: Of the run or the sweep.
        config: Becomes the parameters of the MLflow run.
        tracking: Where MLflow is; without an address nothing is done.
        name: Of the MLflow run.
        tags: Of the MLflow run.
        parent: The MLflow run under which it is shown; it is opened first.
    """

    def __init__(
        self,
        directory: Path,
        config: Section,
        tracking: TrackingConfig,
        *,
        name: str,
        tags: Mapping[str, str] | None = None,
        parent: "MlflowRun | None" = None,
    ) -> None:
        self.run_id: str | None = None
        self._directory = directory
        self._config = config
        self._tracking = tracking
        self._name = name
        self._tags = dict(tags or {})
        self._parent = parent
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._warned_of: type[Exception] | None = None

    def open(self) -> str | None:
        """Open the run and return its id; if MLflow does not answer, return None and keep trying.

        The first call makes the MLflow run of a directory; later ones, in other processes too, find
        it. One that was deleted in MLflow is replaced by a new one.
        """
        if self._tracking.mlflow_uri is not None and not self._try_to_open():
            threading.Thread(target=self._open_later, name="mlflow run", daemon=True).start()
        return self.run_id

    def close(self, status: Status, *, artifacts: Mapping[Path, str] | None = None) -> None:
        """End the run, with files to attach (path -> folder there)."""
        self._closing.set()
        with self._lock:
            uri, run_id = self._tracking.mlflow_uri, self.run_id
        if uri is None or run_id is None:
            return
        with _never_fatal(f"could not close the MLflow run {run_id}"):
            mlflow_client = client(uri)
            if not warn_if_deleted(mlflow_client, run_id):
                # The status first: files may have a store of their own, which may be out of reach.
                mlflow_client.set_terminated(run_id, status=status)
                _attach(mlflow_client, run_id, artifacts or {})

    def _open_later(self) -> None:
        while not self._closing.wait(RETRY_SECONDS):
            if self._try_to_open():
                return

    def _try_to_open(self) -> bool:
        with self._lock:
            if self._closing.is_set() or (self._parent is not None and not self._parent.run_id):
                return False
            try:
                self.run_id = self._opened()
            except Exception as error:
                if type(error) is not self._warned_of:
                    self._warned_of = type(error)
                    uri = self._tracking.mlflow_uri
                    log.warning("no MLflow mirror at %s yet, trying again: %s", uri, error)
                return False
        return True

    def _opened(self) -> str:
        mlflow_client = client(self._tracking.mlflow_uri or "")
        run = self._known(mlflow_client)
        tags = self._tags
        if self._parent is not None:
            tags = tags | {"mlflow.parentRunId": self._parent.run_id or ""}
        if run is None:
            experiment = _experiment(mlflow_client, self._tracking)
            run = mlflow_client.create_run(experiment, run_name=self._name, tags=tags)
            self._remember(run)
            with _never_fatal(f"the MLflow run {run.info.run_id} lacks its config"):
                _log_config(mlflow_client, run.info.run_id, self._config)
        else:
            self._remember(run)
            for key, value in tags.items():  # its parent may be a new one
                mlflow_client.set_tag(run.info.run_id, key, value)
        mlflow_client.update_run(run.info.run_id, status="RUNNING")
        return str(run.info.run_id)

    def _known(self, mlflow_client: "MlflowClient") -> "Run | None":
        """Return the run that the directory remembers, if it can be used."""
        known = remembered_run(self._directory)
        run = None if known is None else _run(mlflow_client, known)
        if run is None or run.info.lifecycle_stage == "active":
            return run
        # Its experiment may be deleted as well: then a restored experiment brings it back.
        _experiment(mlflow_client, self._tracking)
        log.warning("the MLflow run %s was deleted; a new one takes its place", known)
        return None

    def _remember(self, run: "Run") -> None:
        write_whole(self._directory / EXPERIMENT_ID_FILE, run.info.experiment_id)
        write_whole(self._directory / RUN_ID_FILE, run.info.run_id)


def annotate(
    directory: Path,
    tracking: TrackingConfig,
    *,
    artifacts: Mapping[Path, str],
    note: Callable[[str], str],
    is_finished: bool,
) -> None:
    """Give files and a note to the MLflow run of a directory; the time of its end stays.

    Args:
        directory: Of the run or the sweep; without an MLflow run, nothing is done.
        tracking: Where MLflow is.
        artifacts: Path -> folder there.
        note: From the id of the run to Markdown.
        is_finished: Whether nothing is left to do. A run whose owner was killed before it could
            say so is ended now.
    """
    run_id = remembered_run(directory)
    if run_id is None or tracking.mlflow_uri is None:
        return
    with _never_fatal(f"the MLflow run {run_id} lacks its report"):
        mlflow_client = client(tracking.mlflow_uri)
        if not warn_if_deleted(mlflow_client, run_id):
            if is_finished and mlflow_client.get_run(run_id).info.status != "FINISHED":
                mlflow_client.set_terminated(run_id)
            mlflow_client.set_tag(run_id, "mlflow.note.content", note(run_id))
            _attach(mlflow_client, run_id, artifacts)


def remembered_run(directory: Path) -> str | None:
    """Return the id of the MLflow run of a directory; None before it was opened."""
    return _remembered(directory / RUN_ID_FILE)


def review(
    directory: Path, tracking: TrackingConfig, *, page: Literal["run", "experiment"]
) -> list[str]:
    """Return, in lines for a terminal, how to see the MLflow run of a directory.

    Args:
        directory: Of the run or the sweep; without an MLflow run there are no lines.
        tracking: Where MLflow is.
        page: Which one to open: that of the run, or that of all runs of its experiment.
    """
    uri, run = tracking.mlflow_uri, remembered_run(directory)
    experiment = _remembered(directory / EXPERIMENT_ID_FILE)
    if uri is None or run is None or experiment is None:
        return []
    place = f"experiments/{experiment}" + (f"/runs/{run}" if page == "run" else "")
    if uri.startswith("http"):
        return [f"curves: {uri.rstrip('/')}/#/{place}?{WORKFLOW}"]
    return [
        f"curves: mlflow ui --backend-store-uri {absolute_uri(uri, Path.cwd())}",
        f"        then open {UI}/#/{place}?{WORKFLOW}",
    ]


def client(uri: str) -> "MlflowClient":
    """Return a client for a tracking server or sqlite database, quiet and not too patient."""
    # Imported where it is used: it takes more than a second, and 115 MiB of every rank.
    from mlflow.tracking import MlflowClient

    for variable, value in ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.WARNING)
    uri = absolute_uri(uri, Path.cwd())
    if uri.startswith(SQLITE):
        _make_database(Path(uri.removeprefix(SQLITE)))
    return MlflowClient(tracking_uri=uri)


def warn_if_deleted(mlflow_client: "MlflowClient", run_id: str) -> bool:
    """Return whether a run was deleted in MLflow; if so, say once how to bring it back."""
    run = _run(mlflow_client, run_id)
    if run is not None and run.info.lifecycle_stage == "active":
        return False
    _warn_once(
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
    return f"`MLFLOW_TRACKING_URI={uri} mlflow {command}`"


@functools.cache
def _warn_once(sentence: str) -> None:
    """Say it once in a process: a mirror and the end of its run find the same."""
    log.warning(sentence)


@contextlib.contextmanager
def _never_fatal(consequence: str) -> Iterator[None]:
    """Turn any failure of MLflow into a warning."""
    try:
        yield
    except Exception as error:
        log.warning("%s: %s", consequence, error)


def _make_database(path: Path) -> None:
    """Make the tables of a database that does not exist.

    One process makes them, in another place, and they appear at once: MLflow's migrations, run by
    two processes together or killed half-way, leave a file that can never be used.
    """
    if path.exists():
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    with held(path.with_name(f"{path.name}.lock"), wait=True):
        if path.exists():
            return
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}_") as folder:
            made = Path(folder) / path.name
            store = SqlAlchemyStore(f"{SQLITE}{made}", (path.parent / "mlruns").as_uri())
            store.engine.dispose()
            made.rename(path)


def _experiment(mlflow_client: "MlflowClient", tracking: TrackingConfig) -> str:
    """Return the id of the experiment, which is made if there is none of that name.

    Raises:
        ExperimentDeletedError: it was deleted, and its name is still taken.
    """
    from mlflow.exceptions import MlflowException

    name, uri = tracking.experiment, mlflow_client.tracking_uri
    found = mlflow_client.get_experiment_by_name(name)
    if found is None:
        location = None
        if uri.startswith(SQLITE):
            # Beside the database, wherever the training was started from.
            location = (Path(uri.removeprefix(SQLITE)).parent / "mlruns").as_uri()
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


def _run(mlflow_client: "MlflowClient", run_id: str) -> "Run | None":
    """Return a run, a deleted one too; None if there is none."""
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode

    try:
        return mlflow_client.get_run(run_id)
    except MlflowException as error:
        if error.error_code == ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            return None
        raise


def _attach(mlflow_client: "MlflowClient", run_id: str, artifacts: Mapping[Path, str]) -> None:
    for path, folder in artifacts.items():
        mlflow_client.log_artifact(run_id, str(path), folder or None)


def _log_config(mlflow_client: "MlflowClient", run_id: str, config: Section) -> None:
    from mlflow.entities import Param

    params = [Param(key, str(value)) for key, value in _flat(config.model_dump(mode="json"))]
    for first in range(0, len(params), LARGEST_PARAM_BATCH):
        mlflow_client.log_batch(run_id, params=params[first : first + LARGEST_PARAM_BATCH])
    mlflow_client.log_text(run_id, dump(config), "config.yaml")


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in values.items():
        if isinstance(value, dict):
            pairs.extend(_flat(value, f"{prefix}{key}."))
        else:
            pairs.append((f"{prefix}{key}", value))
    return pairs


def _remembered(file: Path) -> str | None:
    with contextlib.suppress(FileNotFoundError):
        return file.read_text().strip() or None
    return None
