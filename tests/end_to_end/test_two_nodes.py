"""A sweep as a Ray job on two nodes: its lines in the job's log, a stop, and the same job again.

The cluster asks for a token, which lies in a file and comes to light nowhere else.
"""

import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from dpot_scale.runs.result import read_result
from tests.end_to_end.test_secrets import holding_it
from tests.end_to_end.test_sweep import (
    REPOSITORY,
    STEPS,
    Cluster,
    Home,
    Submission,
    accepted,
    free_ports,
    script,
    wait_for_dashboard,
)

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

# A node has one core, and a trial two workers of one core each. Told to end, it ends: else it waits
# half a minute for what its jobs left.
NODE = ["--block", "--num-cpus=1", "--num-gpus=0", "--disable-usage-stats"]
STOP_SECONDS = "120"


@pytest.fixture
def token(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a cluster asks for, in a file that the environment names and only its user can read."""
    file, token = tmp_path_factory.mktemp("token") / "auth_token", secrets.token_hex(32)
    file.touch(mode=0o600)
    file.write_text(token)
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    return token


@pytest.fixture
def two_nodes(tmp_path: Path, token: str) -> Iterator[Cluster]:
    """A Ray cluster of two nodes, which ends with the test, and has written its token nowhere."""
    gcs, dashboard, client, *agents = free_ports(5)
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        head = ["--head", "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1"]
        head += [f"--port={gcs}", f"--dashboard-port={dashboard}"]
        head += [f"--ray-client-server-port={client}"]
        nodes = []
        try:
            for options, agent in zip((head, [f"--address=127.0.0.1:{gcs}"]), agents, strict=True):
                log = tmp_path / f"ray_{len(nodes)}.log"
                own = [f"--dashboard-agent-listen-port={agent}"]
                # As on a machine of its own: each node removes the job's files where it finds them
                # and unpacks them anew, under the feet of a driver that another node started there.
                own += [f"--temp-dir={folder}/{len(nodes)}"]
                nodes.append(started(["start", *options, *NODE, *own], log))
                wait_for_node(nodes[-1], log)
            wait_for_dashboard(dashboard, nodes[0], log)
            yield Cluster(f"127.0.0.1:{gcs}", f"http://127.0.0.1:{dashboard}")
        finally:
            for node in reversed(nodes):
                node.terminate()
                node.wait(timeout=60)
        assert holding_it(Path(folder), token) == []


def started(words: list[str], log: Path) -> "subprocess.Popen[bytes]":
    with log.open("w") as file:
        return subprocess.Popen(
            [script("ray"), *words],
            env=os.environ | {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"},
            stdout=file,
            stderr=file,
        )


def wait_for_node(node: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 180
    while "Ray runtime started" not in log.read_text():
        assert node.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)


class Jobs:
    """`ray job ...` as people type it."""

    def __init__(self, cluster: Cluster, home: Home) -> None:
        self._cluster = cluster
        self._home = home

    def submit(self, number: str) -> Submission:
        """Submit the sweep, and follow its log."""
        environment = {
            "DPOT_SCALE_HOME": str(self._home.folder),
            "RAY_JOB_STOP_WAIT_TIME_S": STOP_SECONDS,
        }
        options = ["--submission-id", number, "--working-dir", "."]
        options += ["--runtime-env-json", json.dumps({"env_vars": environment})]
        sweep = [sys.executable, *self._home.command("run"), "resources.workers=2"]
        return accepted(self._home.folder, self._command("submit", *options, "--", *sweep))

    def ask(self, *words: str) -> str:
        done = subprocess.run(
            self._command(*words),
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout + done.stderr

    def known(self, token: str) -> str:
        """What the cluster tells of its jobs to those who have its token."""
        headers = {"Authorization": f"Bearer {token}"}
        with urlopen(Request(f"{self._cluster.dashboard}/api/jobs/", headers=headers)) as answer:
            return str(answer.read().decode())

    def _command(self, word: str, *words: str) -> list[str]:
        return [script("ray"), "job", word, "--address", self._cluster.dashboard, *words]


def test_a_job_on_two_nodes_is_stopped_and_submitted_again(
    two_nodes: Cluster, token: str, tmp_path: Path, tiny_yaml: Path
) -> None:
    home = Home(tmp_path, tiny_yaml)
    jobs, (first, second) = Jobs(two_nodes, home), home.trials
    job = jobs.submit("one")
    home.wait_for_step(first, 20, job)
    assert first.id in jobs.ask("logs", "one")
    jobs.ask("stop", "one")
    assert "was stopped" in jobs.ask("status", "one")
    saved = home.saved_step(first)
    assert 20 <= saved == home.last_step(first) < STEPS, "the step of the stop is saved"
    assert "interrupted; to continue: " in jobs.ask("logs", "one")
    assert home.events(first) == [("started", 1), ("interrupted", 1)]

    code, log = jobs.submit("two").ended()
    assert code == 0, log
    assert "succeeded" in log
    assert home.events(first)[2:] == [("started", 2), ("finished", 2)]
    assert home.events(second) == [("started", 1), ("finished", 1)]
    for trial in home.trials:
        result = read_result(trial.run.directory)
        assert result is not None
        assert result.world_size == 2, "a worker on each node, as one has no room for two"

    with pytest.raises(HTTPError, match="403"):
        jobs.known("another")
    known = jobs.known(token)
    assert '"two"' in known
    assert token not in known
    assert holding_it(tmp_path, token) == []  # runs, MLflow's database, what was printed
