"""Whether MLflow can be reached, lets this process in and takes a run. No training needs it."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from dpot_scale.config.places import SQLITE
from dpot_scale.config.run import TrackingConfig
from dpot_scale.diagnosis.finding import Finding
from dpot_scale.tracking.artifacts import beside
from dpot_scale.tracking.mlflow_client import client, experiment_of, reason

CHECK = "MLflow"
KEPT = "until then metrics stay in the run's folder, and are sent when it continues"


def mlflow(tracking: TrackingConfig, nodes: int = 1) -> Finding:
    """Make a run, log a metric and a file, and delete the run again.

    A database in a file that is not there yet is not made: one beside it takes its place.

    Args:
        tracking: The address and the experiment.
        nodes: How many machines train.
    """
    uri = tracking.mlflow_uri
    if uri is None:
        return Finding(CHECK, "ok", "not used: tracking.mlflow_uri is null")
    try:
        with _tried(uri) as address:
            _try(address, tracking)
    except Exception as error:
        found, to_do = _refused(urlsplit(uri).netloc, error)
        return Finding(CHECK, "note", f"{uri}: {found}", f"{to_do}; {KEPT}")
    if uri.startswith(SQLITE) and nodes > 1:
        to_do = (
            "start an MLflow server and name it in tracking.mlflow_uri (docs/cluster.md): locks of "
            "SQLite are not sure on a file system of several machines"
        )
        return Finding(CHECK, "note", f"{uri} is a file that {nodes} nodes would write to", to_do)
    return Finding(CHECK, "ok", f"{uri} takes runs, metrics and files")


@contextmanager
def _tried(uri: str) -> Iterator[str]:
    """Yield the address to try in the place of one of which nothing is to be left."""
    database = Path(uri.removeprefix(SQLITE))
    if not uri.startswith(SQLITE) or database.exists():
        yield uri
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=database.parent, prefix=".doctor_") as folder:
        yield f"{SQLITE}{Path(folder) / database.name}"


def _try(uri: str, tracking: TrackingConfig) -> None:
    server = client(uri)
    run = server.create_run(experiment_of(server, tracking), run_name="doctor")
    run_id = run.info.run_id
    try:
        server.log_metric(run_id, "doctor", 1.0)
        server.log_text(run_id, "written by the doctor", "doctor.txt")
    finally:
        server.delete_run(run_id)
        if uri.startswith(SQLITE):  # MLflow keeps the files of a deleted run
            place = PurePosixPath(urlsplit(run.info.artifact_uri).path.lstrip("/"))
            files = beside(Path(uri.removeprefix(SQLITE))) / place
            shutil.rmtree(files.parent, ignore_errors=True)


def _short(sentence: str, most: int = 120) -> str:
    return sentence if len(sentence) <= most else sentence[: most - 4] + " ..."


def _refused(host: str, error: Exception) -> tuple[str, str]:
    """Return why MLflow took no run, and what to do."""
    said = str(error)
    if "Invalid Host header" in said:
        to_do = f"start the server with --allowed-hosts {host} beside the names it has"
        return f"the server does not answer to the name {host}", to_do
    if "code 401" in said or "not authenticated" in said.lower():
        to_do = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        return "the server asks for a login, or knows another one", to_do
    if "code 403" in said:
        return "not allowed", "give this user the right to write to the experiment"
    to_do = "start the server, or correct tracking.mlflow_uri and the firewall"
    return _short(reason(error)), to_do
