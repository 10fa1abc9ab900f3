"""What benchmarks/soak.py starts beside trainings: an MLflow server and a cluster of Ray."""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from soak_leaks import family

REPOSITORY = Path(__file__).parents[1]
START_SECONDS = 900.0  # of a server or a node, on a busy machine
TRY_SECONDS = 120.0  # in which a node of Ray has started, or is started again
STARTED = b"Ray runtime started"  # says `ray start` then


class StartError(Exception):
    """A server or a cluster did not start."""


def environment(**more: str) -> dict[str, str]:
    """Return the environment of all that is started."""
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
    own = {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "TMPDIR": "/tmp", "PATH": path}
    own["PYTHONFAULTHANDLER"] = "1"  # what crashes says where
    return dict(os.environ) | own | more


def started(command: Sequence[str], log: Path, **more: str) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own, which is killed as a whole."""
    with log.open("ab") as file:
        return subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env=environment(**more),
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def killed(process: subprocess.Popen[bytes] | None) -> None:
    """Kill a process with its session, if it was started."""
    if process is not None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def killed_with_all_below(process: subprocess.Popen[bytes]) -> None:
    """Kill a process, its session, and what it has started in other sessions."""
    below = family([process.pid]) - {process.pid}
    killed(process)
    for pid in below:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Server:
    """An MLflow server on this machine; `process` is the living one."""

    process: subprocess.Popen[bytes]

    def __init__(self, folder: Path) -> None:
        self._folder, self._port, self._lock = folder, free_port(), threading.Lock()
        self.address = f"http://127.0.0.1:{self._port}"
        self.start()
        self.wait()

    def start(self) -> None:
        """Start it on what it has stored, once the one before has ended."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
        command += ["--port", str(self._port), "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{self._folder}/mlflow.db"]
        command += ["--artifacts-destination", str(self._folder / "artifacts")]
        without_jobs = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with self._lock:  # two outages may end at once
            if hasattr(self, "process"):
                killed(self.process)
            self.process = started(command, self._folder / "server.log", **without_jobs)

    def wait(self) -> None:
        """Wait for its answer.

        Raises:
            StartError: it ended, or does not answer.
        """
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{self.address}/health", timeout=5).close()
                return
            time.sleep(0.2)
        raise StartError((self._folder / "server.log").read_text()[-2000:])

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all of its processes."""
        os.killpg(self.process.pid, number)


class RayCluster:
    """Two nodes of one CPU each; the second can be lost."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._starts = folder, 0
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self._port = free_port()
        self.environment = token | {"RAY_ADDRESS": f"127.0.0.1:{self._port}"}
        # Without it an actor of Ray Train does not learn that its driver was killed, and stays.
        head = ["--head", f"--port={self._port}", f"--dashboard-port={free_port()}"]
        self.head = self._start(*head, f"--temp-dir={folder}/ray", "--disable-usage-stats")
        self.start_node()

    def start_node(self) -> None:
        """Start the second node; it is there when this returns."""
        self.node = self._start(f"--address=127.0.0.1:{self._port}")

    def lose_node(self) -> None:
        """Kill the second node, with the workers that it has started."""
        killed_with_all_below(self.node)

    def close(self) -> None:
        """End both nodes."""
        for node in (self.node, self.head):
            killed_with_all_below(node)

    def family(self) -> set[int]:
        """Return all processes of both nodes."""
        return family([self.head.pid, self.node.pid])

    def _start(self, *words: str) -> subprocess.Popen[bytes]:
        """Start a node; again where it gives up, as it does on a busy machine, or waits in vain."""
        ray = str(Path(sys.executable).with_name("ray"))
        command = [ray, "start", "--block", "--num-cpus=1", "--node-ip-address=127.0.0.1"]
        command += [f"--object-store-memory={2**27}", *words]
        own = self.environment.items() - {("RAY_ADDRESS", self.environment["RAY_ADDRESS"])}
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            self._starts += 1
            log = self._folder / f"ray_{self._starts}.log"
            node, tried = started(command, log, **dict(own)), time.monotonic()
            while node.poll() is None and time.monotonic() < tried + TRY_SECONDS:
                if STARTED in log.read_bytes():
                    return node
                time.sleep(0.2)
            killed_with_all_below(node)
        raise StartError(log.read_text()[-2000:])
