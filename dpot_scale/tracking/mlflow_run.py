"""The MLflow run of a training or a sweep: opened when MLflow answers, closed with a status.

MLflow may be absent, slow or broken: that costs a warning, never the training.
"""

import logging
import os
import shlex
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from dpot_scale.config.base import Section
from dpot_scale.config.load import dump
from dpot_scale.config.places import MLFLOW_URI, SQLITE
from dpot_scale.config.run import TrackingConfig
from dpot_scale.errors import RecordError
from dpot_scale.terminal import under_way
from dpot_scale.tracking.ending import described
from dpot_scale.tracking.mlflow_client import (
    RUN_ID_FILE,
    client,
    experiment_of,
    never_fatal,
    read_run_id,
    reason,
    warn_if_deleted,
    warn_once,
)
from dpot_scale.tracking.opening import (
    complete,
    known_run,
    make_run,
    mark_as_sent,
    remember,
    send_all,
)
from dpot_scale.tracking.origin import origin
from dpot_scale.tracking.patience import Beat, in_time
from dpot_scale.tracking.record import (
    MlflowRecord,
    Status,
    original_of,
    read_mlflow_record,
    write_mlflow_record,
)
from dpot_scale.tracking.trained_on import TrainedOn

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

RETRY_SECONDS = 5.0  # between attempts to open a run
DATABASE_SECONDS = 30.0  # that a start waits for the first attempt, which may make a database
SERVER_SECONDS = 10.0  # the same, for a server

log = logging.getLogger(__name__)


class MlflowRun:
    """The MLflow run of a directory, for the one process that opens and closes it.

    The directory remembers the id, for restarts and for the mirrors that send metrics, and a record
    of all that it takes to make and to close it, so that `missing` can do so at any time.

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
        self.directory = directory
        self._config = config
        self._tracking = tracking
        self._name = name
        self._params = dict(params or {})
        self._datasets = datasets
        self._tags = dict(tags or {})
        self._parent = parent
        self._record: MlflowRecord | None = None  # from the moment it is opened
        self._made: Run | None = None
        self._is_open = False  # MLflow has all of the record
        self._opening = threading.Lock()
        self._tried = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._keep_trying, name="mlflow run", daemon=True)

    def open(self) -> str | None:
        """Open the run and return its id; if MLflow does not answer, return None and keep trying.

        The call waits for the first attempt, but at most half a minute.

        The first call makes the MLflow run of a directory; later calls, in other processes too,
        find it. A run that was deleted in MLflow is replaced by a new one.
        """
        if (uri := self._tracking.mlflow_uri) is not None:
            self._keep(self.record())
            self._thread.start()
            seconds = DATABASE_SECONDS if uri.startswith(SQLITE) else SERVER_SECONDS
            with under_way(f"opening {self._name} in MLflow"):
                self._tried.wait(seconds)
        return self.run_id

    def close(
        self, status: Status, *, stop: str = "", artifacts: Mapping[Path, str] | None = None
    ) -> None:
        """End the run, say why in its tags, and attach files (path -> folder in MLflow).

        What MLflow does not take in time, `missing` sends later.
        """
        self._closing.set()
        if self._record is None:
            return
        files = {os.path.relpath(at, self.directory): to for at, to in (artifacts or {}).items()}
        ended = {"status": status, "stop": stop, "artifacts": files, "ended": time.time()}
        self._keep(self._record.model_copy(update=ended))
        with under_way(f"closing {self._name} in MLflow"):
            error = in_time(self._record.uri, self._end)
        if error is not None:
            log.warning(
                "could not close the MLflow run %s: %s; `python -m dpot_scale.mirror %s` sends "
                "what it lacks",
                self.run_id or f"at {self._record.uri}",
                reason(error),
                shlex.quote(str(self.directory)),
            )

    def record(self) -> MlflowRecord:
        """Return what MLflow is to know of the run; it goes on with what its directory says."""
        before = None
        with suppress(RecordError):  # of another version: it costs no training
            before = read_mlflow_record(self.directory)
        if before and original_of(self.directory, before):
            (self.directory / RUN_ID_FILE).unlink(missing_ok=True)  # that of the original
            before = None
        parent = self._parent and os.path.relpath(self._parent.directory, self.directory)
        return MlflowRecord(
            directory=self.directory.absolute(),
            host=socket.gethostname(),
            uri=self._tracking.mlflow_uri or MLFLOW_URI,
            experiment=self._tracking.experiment,
            key=before.key if before else uuid4().hex,
            name=self._name,
            params=self._params,
            tags=origin() | self._tags,
            config=dump(self._config),
            datasets=tuple(self._datasets),
            parent=parent,
            begun=before.begun if before else time.time(),
        )

    def _keep(self, record: MlflowRecord) -> None:
        self._record = record
        with never_fatal("what MLflow lacks cannot be sent later"):
            write_mlflow_record(self.directory, record)

    def _keep_trying(self) -> None:
        warned_of: type[Exception] | None = None
        while not (self._is_open or self._closing.is_set()):
            try:
                with self._opening:
                    self._open()
            except Exception as error:
                if type(error) is not warned_of:
                    warned_of = type(error)
                    uri = self._tracking.mlflow_uri
                    log.warning("no MLflow mirror at %s yet, trying again: %s", uri, reason(error))
            self._tried.set()
            if not self._is_open:
                self._closing.wait(RETRY_SECONDS)

    def _open(self) -> None:
        """Find or make the run, and give it what it lacks; not before its parent is there."""
        record = self._record
        parent = None if self._parent is None else self._parent.run_id
        if self._is_open or record is None or (self._parent is not None and parent is None):
            return
        mlflow_client = client(record.uri)
        if self._made is None:
            self._made = self._find_or_make(mlflow_client, record)
            self.run_id = str(self._made.info.run_id)
        assert self.run_id is not None
        if read_run_id(self.directory) != self.run_id:
            remember(self.directory, self._made)
        if record.status is None:
            mlflow_client.update_run(self.run_id, status="RUNNING")
        complete(mlflow_client, self.run_id, record, parent)
        self._is_open = True

    def _find_or_make(self, mlflow_client: "MlflowClient", record: MlflowRecord) -> "Run":
        run = known_run(mlflow_client, self.directory, record)
        if run is None:
            return make_run(mlflow_client, record)
        if run.info.lifecycle_stage == "active":
            return run
        # Its experiment may be deleted as well: then a restored experiment brings it back.
        experiment_of(mlflow_client, self._tracking)
        warn_once(f"the MLflow run {run.info.run_id} was deleted; a new one takes its place")
        return make_run(mlflow_client, record)

    def _end(self, beat: Beat) -> None:
        record = self._record
        assert record is not None
        lacking: Exception | None = None
        with self._opening:
            try:
                self._open()
            except Exception as error:  # a store of files out of reach costs no status
                lacking = error
        beat()
        if self.run_id is None:
            raise lacking or LookupError("the run above it is not there")
        mlflow_client = client(record.uri)
        if not warn_if_deleted(mlflow_client, self.run_id):
            send_all(mlflow_client, self.run_id, self.directory, record, beat)
            if lacking is not None:
                raise lacking
            mark_as_sent(self.directory, record)


@contextmanager
def record_life(
    run: MlflowRun,
    *,
    opens: bool = True,
    stops: tuple[type[Exception], ...] = (),
    artifacts: Callable[[], Mapping[Path, str]] = dict,
) -> Iterator[MlflowRun]:
    """Open an MLflow run for a block, and close it with the status that tells how the block ended.

    FINISHED at its end, or FAILED if it has set `run.has_failed`; KILLED after an interrupt; FAILED
    after any other exception.

    Args:
        run: The MLflow run.
        opens: Whether to do so; else the MLflow run is left alone.
        stops: What is raised, besides an interrupt, when the block is ended from outside.
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
        stop = described(error)
        raise
    except BaseException as error:
        stop = described(error)
        raise
    finally:
        run.close(status, stop=stop, artifacts=artifacts())
