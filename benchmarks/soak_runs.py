"""What benchmarks/soak.py starts: trainings, a sweep on Ray, an MLflow server, a small disk."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import psutil
from soak_leaks import family

from dpot_scale.config.load import load_sweep
from dpot_scale.config.places import CHECKPOINTS
from dpot_scale.scaling.plan import plan

REPOSITORY = Path(__file__).parents[1]
STEPS, CHECKPOINT_EVERY = 150, 10
DISK_MIB = 64
START_SECONDS = 900.0  # of a server or a node, on a busy machine
SUITE = """
name: soak
datasets:
  swe_pdb_generated:
    {equation: shallow_water, train: 8, test: 2, grid: 32, frames: 12, frame_interval: 0.1}
"""
RUN = """
name: soak
output: {disk}/runs
windows: {windows}
model: {{size: debug, width: 64, depth: 3, heads: 4, out_layer_dim: 16, grid: 32, patch: 4,
  channels: 1, history: 4, normalize: true}}
data:
  root: {folder}/data
  suite: {folder}/suite.yaml
  weights: {{swe_pdb_generated: 1}}
objective: {{noise: 0.01}}
optim: {{lr: 3e-3, betas: [0.9, 0.95], gradient_clipping: 1.0}}
batch: {{global_batch: 8, micro_batch: 4}}
engine: {{deepspeed: zero3_fp32}}
evaluation: {{every: 50}}
checkpoint: {{every: {every}}}
limits: {{hang: 0.5}}
tracking: {{log_every: 1, mlflow_uri: "{server}"}}
"""
SWEEP = """
name: {name}
run: {{extends: {folder}/run.yaml, tracking: {{experiment: {name}}}}}
ladder:
  same: {{width: 64, depth: 3, heads: 4, out_layer_dim: 16}}
windows: [{windows}]
max_attempts: 9
resources: {{workers: 2, gpus_per_worker: 0}}
"""
RAY_WORKER = "RayTrainWorker"
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
        """Start a node; again where it gives up, as it does after 30 s on a busy machine."""
        ray = str(Path(sys.executable).with_name("ray"))
        command = [ray, "start", "--block", "--num-cpus=1", "--node-ip-address=127.0.0.1"]
        command += [f"--object-store-memory={2**27}", *words]
        own = self.environment.items() - {("RAY_ADDRESS", self.environment["RAY_ADDRESS"])}
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            self._starts += 1
            log = self._folder / f"ray_{self._starts}.log"
            node = started(command, log, **dict(own))
            while node.poll() is None:
                if STARTED in log.read_bytes():
                    return node
                time.sleep(0.2)
            killed_with_all_below(node)
        raise StartError(log.read_text()[-2000:])


class Training:
    """A run that a launcher, or a driver of a sweep, trains: the same command again and again.

    Args:
        folder: Of the soak.
        name: Of the run.
        launcher: deepspeed, torchrun or ray.
        server: The MLflow server; None: nothing is mirrored.
        ray: The cluster for a driver.

    Attributes:
        name: Of the run or sweep, and of its experiment in MLflow.
        directory: Of the run.
        results: Of the run or the sweep.
        runs: That MLflow is to have of it.
    """

    process: subprocess.Popen[bytes]

    def __init__(
        self,
        folder: Path,
        name: str,
        launcher: str,
        server: Server | None = None,
        ray: RayCluster | None = None,
    ) -> None:
        self._server, self._ray, self._is_sweep = server, ray, launcher == "ray"
        self._folder, self.name = folder, name
        self.log = folder / f"{name}.log"
        self.results = self.directory = folder / "disk" / "runs" / name
        self.runs = 2 if self._is_sweep else 1
        if self._is_sweep:
            self._command = self._sweep()
        else:
            changes = [f"name={name}", f"tracking.experiment={name}"]
            changes += [] if server else ["tracking.mlflow_uri=null"]
            entry = [*_launcher(launcher, folder), "--config", str(folder / "run.yaml")]
            self._command = [sys.executable, *entry, *changes]

    def start(self) -> None:
        """Start it, or start it again."""
        more = self._ray.environment if self._ray is not None and self._is_sweep else {}
        self.process = started(self._command, self.log, **more)

    def ranks(self) -> list[psutil.Process]:
        """Return the ranks that live, by number: those of this training alone."""
        found: dict[int, psutil.Process] = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                words = process.cmdline()
                if self._is_sweep and self._ray is not None and RAY_WORKER in " ".join(words):
                    found |= {len(found): process} if process.pid in self._ray.family() else {}
                elif not self._is_sweep and f"name={self.name}" in words:
                    rank = process.environ().get("LOCAL_RANK")
                    found |= {} if rank is None else {int(rank): process}
        return [found[number] for number in sorted(found)]

    def starter(self) -> psutil.Process:
        """Return the launcher of the ranks, or the driver of the sweep."""
        return psutil.Process(self.process.pid)

    def kill(self) -> None:
        """Kill the starter and all that it has started."""
        killed_with_all_below(self.process)

    def checkpoints(self) -> Path:
        """Return where the checkpoints of the run lie."""
        return self.directory / CHECKPOINTS

    def signal_server(self, number: signal.Signals) -> None:
        """Send a signal to the MLflow server."""
        assert self._server is not None
        self._server.signal(number)

    def start_server(self) -> None:
        """Start the MLflow server again; it answers some seconds later."""
        assert self._server is not None
        self._server.start()

    def lose_node(self) -> None:
        """Kill the second node of the Ray cluster, with all that runs there."""
        assert self._ray is not None
        self._ray.lose_node()

    def start_node(self) -> None:
        """Start it again."""
        assert self._ray is not None
        self._ray.start_node()

    def filler(self) -> Path:
        """Return a file that takes all of the disk of the run when it grows."""
        return self._folder / "disk" / "filler"

    def _sweep(self) -> list[str]:
        config = self._folder / f"{self.name}.yaml"
        text = SWEEP.format(name=self.name, folder=self._folder, windows=STEPS * 8)
        config.write_text(text, encoding="utf-8")
        (trial,) = plan(load_sweep(str(config)))
        self.directory = trial.run.directory
        return [sys.executable, "-m", "dpot_scale.sweep", "run", "--config", str(config)]


def prepare(folder: Path, server: str) -> None:
    """Write the configs of a soak, and mount the disk of its runs."""
    (folder / "suite.yaml").write_text(SUITE, encoding="utf-8")
    run = RUN.format(
        folder=folder,
        disk=folder / "disk",
        windows=STEPS * 8,
        every=CHECKPOINT_EVERY,
        server=server,
    )
    (folder / "run.yaml").write_text(run, encoding="utf-8")
    (folder / "disk").mkdir()
    mount(folder / "disk", f"{DISK_MIB}m")


def mount(place: Path, size: str) -> None:
    """Mount an empty disk in memory."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    subprocess.run(command, check=True)


def remove(training: Training) -> None:
    """Remove the results of a training: the disk is small."""
    shutil.rmtree(training.results, ignore_errors=True)


def _launcher(name: str, folder: Path) -> list[str]:
    if name == "torchrun":
        # Else it leaves a folder in /tmp at each start, also where nothing goes wrong.
        ranks = ["--log-dir", str(folder / "torchrun"), "--standalone", "--nproc-per-node", "2"]
        return ["-m", "torch.distributed.run", *ranks, "-m", "dpot_scale.train"]
    ranks = ["--num_accelerators", "2", "--master_port", str(free_port())]
    return ["-m", "deepspeed.launcher.runner", *ranks, "dpot_scale/train.py"]
