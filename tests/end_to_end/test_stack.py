"""MLflow as cluster/mlflow/compose.yaml starts it, on a real PostgreSQL and an S3 server.

Runs log to it through a restart of its database, and archive their checkpoints to the same store.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import pytest
import yaml

from dpot_scale.config.run import TrackingConfig
from dpot_scale.diagnosis.tracking import mlflow
from dpot_scale.tracking.mlflow_client import client as client_of
from dpot_scale.tracking.spool import SPOOL, read_metrics
from tests.conftest import free_port
from tests.end_to_end.test_sweep import STEPS, Home, Submission

pytestmark = [pytest.mark.ray, pytest.mark.server, pytest.mark.timeout(600)]

FILES = Path(__file__).parents[2] / "cluster" / "mlflow"
SERVICES = yaml.safe_load((FILES / "compose.yaml").read_text(encoding="utf-8"))["services"]
PASSWORD = "of-the-stack-0123456789"  # all its secrets
KEYS = {"AWS_ACCESS_KEY_ID": PASSWORD, "AWS_SECRET_ACCESS_KEY": PASSWORD}
LOGIN = {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": PASSWORD}


def program(name: str) -> str | None:
    """A program of PostgreSQL; Debian keeps those of the server outside of the path."""
    folders = [os.environ["PATH"], *map(str, Path("/usr/lib/postgresql").glob("*/bin"))]
    return shutil.which(name, path=os.pathsep.join(folders))


class Postgres:
    """A PostgreSQL with the databases of the stack, as a user that is not root."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._user: dict[str, Any] = {"cwd": folder}
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres", "postgres")
            self._user |= {"user": "postgres", "group": "postgres", "extra_groups": []}
        (folder / "password").write_text(PASSWORD)
        (folder / "password").chmod(0o644)
        self._run(
            "initdb", "-D", "data", "-U", "mlflow", "-A", "scram-sha-256", "--pwfile=password"
        )
        self.start()
        self._sql("CREATE DATABASE mlflow OWNER mlflow;", database="postgres")
        self._sql((FILES / "databases.sql").read_text(encoding="utf-8"))

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = ["-p", str(self.port), "-k", str(self._folder), "-h", "127.0.0.1"]
        with (self._folder / "log").open("a") as log:
            self._process = subprocess.Popen(
                [program("postgres"), "-D", "data", *options],
                stdout=log,
                stderr=log,
                **self._user,
            )
        wait_until(lambda: self._sql(";", database="postgres", check=False) == 0)

    def stop(self) -> None:
        """End its connections and itself, as a restart of its machine does."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait()

    def _sql(self, text: str, database: str = "mlflow", *, check: bool = True) -> int:
        place = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "mlflow", "-d", database]
        return self._run("psql", *place, "-c", text, check=check)

    def _run(self, name: str, *words: str, check: bool = True) -> int:
        environment = os.environ | {"PGPASSWORD": PASSWORD}
        done = subprocess.run(
            [program(name), *words],
            env=environment,
            capture_output=True,
            check=False,
            **self._user,
        )
        assert done.returncode == 0 or not check, done.stderr
        return done.returncode


@dataclass(frozen=True)
class Stack:
    """The three services on this machine."""

    address: str
    database: Postgres
    store: Any  # the file system of the S3 server


def wait_until(happened: Any, seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture(scope="module")
def environment() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    if program("initdb") is None:
        pytest.skip("PostgreSQL is not installed")
    with tempfile.TemporaryDirectory(prefix="postgres") as folder:
        made = Postgres(Path(folder))
        yield made
        made.stop()


@pytest.fixture(scope="module")
def store(environment: pytest.MonkeyPatch) -> Iterator[Any]:
    """The file system of an S3 server with the buckets `mlflow` and `checkpoints`."""
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    pytest.importorskip("boto3", reason="boto3 is not installed")
    moto = pytest.importorskip("moto.server", reason="moto is not installed")
    server = moto.ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": address}.items():
        environment.setenv(name, value)
    files = fsspec.filesystem("s3")
    for bucket in ("mlflow", "checkpoints"):
        files.mkdir(bucket)
    yield files
    files.clear_instance_cache()
    server.stop()


@pytest.fixture(scope="module")
def stack(
    postgres: Postgres, store: Any, environment: pytest.MonkeyPatch, tmp_path_factory: Any
) -> Iterator[Stack]:
    pytest.importorskip("flask_wtf", reason="mlflow[auth] is not installed")
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    place = f"127.0.0.1:{postgres.port}"
    (folder / "basic_auth.ini").write_text(here((FILES / "basic_auth.ini").read_text(), place))
    words = [here(word, place) for word in SERVICES["mlflow"]["command"]]
    words = [re.sub(r"^--port=5000$", f"--port={port}", word) for word in words]
    words = [re.sub(r"^(--allowed-hosts)=.*", rf"\1=127.0.0.1:{port}", word) for word in words]
    variables = dict.fromkeys(SERVICES["mlflow"]["environment"], PASSWORD)
    variables |= {
        "AWS_DEFAULT_REGION": SERVICES["mlflow"]["environment"]["AWS_DEFAULT_REGION"],
        "MLFLOW_AUTH_ADMIN_USERNAME": "admin",
        "MLFLOW_S3_ENDPOINT_URL": os.environ["AWS_ENDPOINT_URL"],
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "basic_auth.ini"),
    }
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *words, "--workers=1"],
            env=os.environ | variables,
            stdout=log,
            stderr=log,
            start_new_session=True,  # so that it can be ended with all its children
        )
    try:
        address = f"http://127.0.0.1:{port}"
        wait_until(lambda: server.poll() is not None or answers(f"{address}/health"))
        assert server.poll() is None, (folder / "log").read_text()
        for name, value in LOGIN.items():
            environment.setenv(name, value)
        yield Stack(address, postgres, store)
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def here(text: str, place: str) -> str:
    """A line of the stack, with this machine in the place of its containers."""
    return text.replace("mlflow@postgres/", f"mlflow@{place}/").replace("0.0.0.0", "127.0.0.1")


def answers(address: str) -> bool:
    try:
        return bool(urllib.request.urlopen(address, timeout=5).status == 200)
    except OSError:
        return False


def test_a_sweep_outlives_a_database_that_is_restarted(
    stack: Stack, tmp_path: Path, tiny_yaml: Path
) -> None:
    home = Home(tmp_path, tiny_yaml)
    home.overrides += [f"run.tracking.mlflow_uri={stack.address}"]
    first = home.trials[0]
    driver = Submission(tmp_path, [sys.executable, *home.command("run")])
    home.wait_for_step(first, 20, driver)
    stack.database.stop()
    home.wait_for_step(first, home.last_step(first) + 20, driver)
    stack.database.start()
    code, log = driver.ended()
    assert code == 0, log
    assert "Traceback" not in log

    client = client_of(stack.address)
    experiment = client.get_experiment_by_name("tests")
    runs = {one.info.run_name: one for one in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"ladder", *(trial.id for trial in home.trials)}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    for trial in home.trials:
        points = client.get_metric_history(runs[trial.id].info.run_id, "train/loss")
        assert [point.step for point in points] == list(range(1, STEPS + 1)), "each once"
    kept = "\n".join(stack.store.find("mlflow"))
    assert "report/scaling.png" in kept
    assert runs["ladder"].info.run_id in kept
    assert PASSWORD not in log


def test_a_user_that_the_documentation_makes_changes_what_is_theirs_alone(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (FILES.parents[1] / "docs" / "cluster.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^python -c .*create_user.*$", page, re.M)
    of_admin = TrackingConfig(mlflow_uri=stack.address, experiment="of admin")
    assert mlflow(of_admin).verdict == "ok"
    done = subprocess.run(
        ["bash", "-c", command],
        env=os.environ | LOGIN | {"MLFLOW_TRACKING_URI": stack.address},
        input=f"{PASSWORD}-of-sweeps\n",
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,  # no terminal, so that it reads its input
    )
    assert done.returncode == 0, done.stderr
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "sweeps")
    assert "the server asks for a login" in mlflow(of_admin).found
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", f"{PASSWORD}-of-sweeps")
    own = TrackingConfig(mlflow_uri=stack.address, experiment="of sweeps")
    assert mlflow(own).verdict == "ok", mlflow(own).found
    found = mlflow(of_admin)
    assert (found.verdict, found.found) == ("note", f"{stack.address}: not allowed")
    assert client_of(stack.address).get_experiment_by_name("of admin") is not None, "it may read"


def test_a_run_goes_on_from_the_store_on_an_empty_disk(
    store: Any, start: Any, finished: Any
) -> None:
    options = ["checkpoint.archive=s3://checkpoints/runs", "tracking.mlflow_uri=null"]
    stopped = start("archived", *options)
    spool = stopped.directory / SPOOL
    wait_until(lambda: spool.exists() and spool.read_text().count('"train/loss"') >= 6)
    stopped.process.send_signal(signal.SIGTERM)
    ended = stopped.ended()
    assert ended.code == 2, ended.err
    before = read_metrics(spool)["train/loss"]
    shutil.rmtree(stopped.directory)

    ended = start("archived", *options).ended()
    assert ended.code == 0, ended.err
    after = read_metrics(spool)["train/loss"]
    assert before.items() <= after.items(), "the metrics came back with the checkpoint"
    assert spool.read_text().count('"train/loss"') == len(after), "no step is repeated"
    assert after == read_metrics(finished.directory / SPOOL)["train/loss"], "to the bit"
