"""What tests of the spool and of its mirror have in common."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dpot_scale.config.run import TrackingConfig
from dpot_scale.tracking.tracker import Tracker


@pytest.fixture
def record() -> Callable[..., None]:
    """Record a loss of 1 / step for some steps, as one attempt at a run does."""

    def record_losses(directory: Path, tracking: TrackingConfig, *steps: int) -> None:
        tracker = Tracker(directory, tracking, is_main=True)
        for step in steps:
            tracker.log({"train/loss": 1 / step}, step=step)
        tracker.close()

    return record_losses


class LateServer:
    """A tracking server that is started when a test says so.

    Args:
        folder: Where it keeps everything.
    """

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.address = f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start it; it answers some seconds later."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
        command += ["--port", str(self._port), "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{self._folder}/server.db"]
        command += ["--artifacts-destination", str(self._folder / "artifacts")]
        self._process = subprocess.Popen(
            command,
            env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # so that it can be ended with all its children
        )

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to it and all its children."""
        assert self._process is not None
        os.killpg(self._process.pid, number)

    def end(self) -> None:
        """End it, if it was started."""
        if self._process is not None:
            self.signal(signal.SIGKILL)
            self._process.wait()


@pytest.fixture
def late_server(tmp_path: Path) -> Iterator[LateServer]:
    """A tracking server that is not started yet."""
    server = LateServer(tmp_path)
    yield server
    server.end()
