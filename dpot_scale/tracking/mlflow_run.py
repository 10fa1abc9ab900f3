"""The MLflow run of a training or a sweep: opened when MLflow answers, closed with a status.

MLflow may be absent, slow or broken: that costs a warning, never the training.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from dpot_scale.config.base import Section
from dpot_scale.config.load import dump
from dpot_scale.config.places import WEIGHTS
from dpot_scale.config.run import TrackingConfig
from dpot_scale.files import write_whole
from dpot_scale.terminal import under_way
from dpot_scale.tracking.experiment import NOTE_TAG, describe
from dpot_scale.tracking.logged_model import log_model
from dpot_scale.tracking.mirror import send_rest
from dpot_scale.tracking.mlflow_client import (
    EXPERIMENT_ID_FILE,
    LARGEST_TAG,
    RUN_ID_FILE,
    attach,
    client,
    experiment_of,
    never_fatal,
    read_run_id,
    reason,
    run_of,
    warn_if_deleted,
    warn_once,
)
from dpot_scale.tracking.note import note_of
from dpot_scale.tracking.origin import origin
from dpot_scale.tracking.spool import SPOOL
from dpot_scale.tracking.trained_on import TrainedOn, log_datasets

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

RETRY_SECONDS = 5.0  # between attempts to open a run
FIRST_SECONDS = 30.0  # how long a start waits for the first attempt, and an end for the last
LARGEST_PARAM_BATCH = 100
STOP_TAG = "stop"

Status = Literal["FINISHED", "FAILED", "KILLED"]

log = logging.getLogger(__name__)


class MlflowRun:
    """The MLflow run of a directory, for the one process that opens and closes it.

    The directory remembers the id, for restarts and for the mirrors that send metrics.

    Args:
        directory: The directory of the run or the sweep.
        config: It is attached as `config.yaml`.
        tracking: The address of MLflow; without one nothing is done.
        name: The name of the MLflow run.
        params: Its parameters.
        tags: Its tags, beside those that say where it comes from.
        datasets: What is trained on.
        parent: The MLflow run under which it is shown; it is opened first.
    """

    def __init__(
        self,
        directory: Path,
        config: Section,
        tracking: TrackingConfig,
        *,
        name: str,
        params: Mapping[str, str] | None = None,
        datasets: Sequence[TrainedOn] = (),
        tags: Mapping[str, str] | None = None,
        parent: "MlflowRun | None" = None,
    ) -> None:
        self.run_id: str | None = None
        self.has_failed = False  # set by whoever finds a failure that raises nothing
        self._made: str | None = None  # not to be made twice if the disk is too full to remember it
        self._directory = directory
        self._config = config
        self._tracking = tracking
        self._name = name
        self._params = dict(params or {})
        self._datasets = datasets
        self._tags = dict(tags or {})
        self._parent = parent
        self._is_late = False  # not opened at the first attempt
        self._tried = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._keep_trying, name="mlflow run", daemon=True)

    def open(self) -> str | None:
        """Open the run and return its id; if MLflow does not answer, return None and keep trying.

        The call waits for the first attempt, but at most half a minute.

        The first call makes the MLflow run of a directory; later calls, in other processes too,
        find it. A run that was deleted in MLflow is replaced by a new one.
        """
        if self._tracking.mlflow_uri is not None:
            self._thread.start()
            with under_way(f"opening {self._name} in MLflow"):
                self._tried.wait(FIRST_SECONDS)
        return self.run_id

    def close(
        self, status: Status, *, stop: str = "", artifacts: Mapping[Path, str] | None = None
    ) -> None:
        """End the run, say why in the tag `stop`, and attach files (path -> folder in MLflow)."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(FIRST_SECONDS)
        uri, run_id = self._tracking.mlflow_uri, self.run_id
        if uri is None or run_id is None:
            return
        failure = f"could not close the MLflow run {run_id}"
        with under_way(f"closing {self._name} in MLflow"), never_fatal(failure):
            mlflow_client = client(uri)
            if not warn_if_deleted(mlflow_client, run_id):
                # The status first: files may have a store of their own, which may be out of reach.
                mlflow_client.set_terminated(run_id, status=status)
                mlflow_client.set_tag(run_id, STOP_TAG, stop[:LARGEST_TAG] or status.lower())
                if self._is_late:  # whoever mirrors the metrics may have ended before
                    send_rest(self._directory, uri)
                if status == "FINISHED":
                    self._log_outcome(mlflow_client, run_id)
                attach(mlflow_client, run_id, artifacts or {})

    def _log_outcome(self, mlflow_client: "MlflowClient", run_id: str) -> None:
        """Show the errors and the weights of a training; a sweep has none of its own."""
        weights, spool = self._directory / WEIGHTS, self._directory / SPOOL
        if not weights.is_file() or not spool.is_file():
            return
        with never_fatal(f"the MLflow run {run_id} lacks its model"):
            tags = mlflow_client.get_run(run_id).data.tags
            if NOTE_TAG not in tags and (note := note_of(spool)):
                mlflow_client.set_tag(run_id, NOTE_TAG, note[:LARGEST_TAG])
            log_model(mlflow_client, run_id, weights=weights, spool=spool, params=self._params)

    def _keep_trying(self) -> None:
        warned_of: type[Exception] | None = None
        while self.run_id is None and not self._closing.is_set():
            try:
                if self._parent is None or self._parent.run_id is not None:
                    self.run_id = self._find_or_make()
            except Exception as error:
                if type(error) is not warned_of:
                    warned_of = type(error)
                    uri = self._tracking.mlflow_uri
                    log.warning("no MLflow mirror at %s yet, trying again: %s", uri, reason(error))
            self._tried.set()
            if self.run_id is None:
                self._is_late = True
                self._closing.wait(RETRY_SECONDS)

    def _find_or_make(self) -> str:
        mlflow_client = client(self._tracking.mlflow_uri or "")
        run = self._find_known(mlflow_client)
        tags = origin() | self._tags
        if self._parent is not None:
            tags = tags | {"mlflow.parentRunId": self._parent.run_id or ""}
        if run is None:
            experiment = experiment_of(mlflow_client, self._tracking)
            run = mlflow_client.create_run(experiment, run_name=self._name, tags=tags)
            self._made = str(run.info.run_id)
            self._remember(run)
            with never_fatal(f"the MLflow run {run.info.run_id} lacks its config"):
                _log_config(mlflow_client, run.info.run_id, self._config, self._params)
                log_datasets(mlflow_client, run.info.run_id, self._datasets)
                describe(mlflow_client, experiment)
        else:
            self._remember(run)
            for key, value in tags.items():  # its parent may be a new one
                mlflow_client.set_tag(run.info.run_id, key, value)
        mlflow_client.update_run(run.info.run_id, status="RUNNING")
        return str(run.info.run_id)

    def _find_known(self, mlflow_client: "MlflowClient") -> "Run | None":
        """Return the run that the directory remembers, if it can be used."""
        known = self._made or read_run_id(self._directory)
        run = None if known is None else run_of(mlflow_client, known)
        if run is None or run.info.lifecycle_stage == "active":
            return run
        # Its experiment may be deleted as well: then a restored experiment brings it back.
        experiment_of(mlflow_client, self._tracking)
        warn_once(f"the MLflow run {known} was deleted; a new one takes its place")
        return None

    def _remember(self, run: "Run") -> None:
        write_whole(self._directory / EXPERIMENT_ID_FILE, run.info.experiment_id)
        write_whole(self._directory / RUN_ID_FILE, run.info.run_id)


@contextmanager
def record_life(
    run: MlflowRun,
    *,
    opens: bool = True,
    stops: Mapping[type[Exception], str] = MappingProxyType({}),
    artifacts: Callable[[], Mapping[Path, str]] = dict,
) -> Iterator[MlflowRun]:
    """Open an MLflow run for a block, and close it with the status that tells how the block ended.

    FINISHED at its end, or FAILED if it has set `run.has_failed`; KILLED after an interrupt; FAILED
    after any other exception.

    Args:
        run: The MLflow run.
        opens: Whether to do so; else the MLflow run is left alone.
        stops: What is raised, besides an interrupt, when the user ends the block; a word for each.
        artifacts: Finds the files to attach at the end (path -> folder there).
    """
    if not opens:
        yield run
        return
    status: Status = "FAILED"
    stop = ""
    killed_by: tuple[type[BaseException], ...] = (KeyboardInterrupt, SystemExit, *stops)
    try:
        run.open()
        yield run
        status = "FAILED" if run.has_failed else "FINISHED"
    except killed_by as error:
        status = "KILLED"
        words = [word for kind, word in stops.items() if isinstance(error, kind)]
        stop = (words or ["interrupted"])[0] + f": {error}" * bool(str(error))
        raise
    except BaseException as error:
        stop = f"failed: {str(error) or type(error).__name__}"
        raise
    finally:
        run.close(status, stop=stop, artifacts=artifacts())


def _log_config(
    mlflow_client: "MlflowClient", run_id: str, config: Section, params: Mapping[str, str]
) -> None:
    from mlflow.entities import Param

    entries = [Param(key, text) for key, text in params.items()]
    for first in range(0, len(entries), LARGEST_PARAM_BATCH):
        batch = entries[first : first + LARGEST_PARAM_BATCH]
        mlflow_client.log_batch(run_id, params=batch)
    mlflow_client.log_text(run_id, dump(config), "config.yaml")
