"""A run of a few seconds, in this process or in one of its own."""

import contextlib
import io
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[1]
LONG = ("distributed", "ray")  # marks of tests that start other processes
RANK_SCRIPT = Path(__file__).with_name("ranks.py")
# In which ranks answer; compiling DeepSpeed's operator may come first on a fresh machine.
CASE_SECONDS = 240

# Tests that a script starts in the background inherit from its shell that Ctrl-C is ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Equations that take a fraction of a second; trajectories of unequal kinds and channels.
SUITE = """
name: tiny
datasets:
  dr_pdb_generated:
    {equation: reaction_diffusion, train: 5, test: 3, grid: 16, frames: 9, frame_interval: 0.5}
  swe_pdb_generated:
    {equation: shallow_water, train: 4, test: 2, grid: 16, frames: 9, frame_interval: 0.1}
  swe_coarse:
    {equation: shallow_water, train: 4, test: 2, grid: 8, frames: 9, frame_interval: 0.2}
"""
# Noise strong enough to be seen in the loss.
RUN = """
name: tiny
output: {folder}/runs
windows: 96
model: {{size: debug, width: 16, depth: 2, heads: 2, out_layer_dim: 8, grid: 16, patch: 4,
  channels: 2, history: 4, normalize: true}}
data:
  root: {folder}/data
  suite: {folder}/suite.yaml
  weights: {{dr_pdb_generated: 2, swe_pdb_generated: 1, swe_coarse: 1}}
objective: {{noise: 0.01}}
optim: {{lr: 1e-2, betas: [0.9, 0.95], gradient_clipping: 1.0}}
batch: {{global_batch: 4, micro_batch: 2}}
engine: {{deepspeed: zero3_fp32}}
evaluation: {{every: 8}}
checkpoint: {{every: 4}}
tracking: {{log_every: 1}}
"""


def pytest_configure(config: pytest.Config) -> None:
    """Give each of several workers one core: most tests are of one process with one thread."""
    if config.getoption("numprocesses", None):
        os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where several processes share the tests, let files that start others come first.

    They take longest, and one of them alone at the end would leave a core idle.
    """
    if hasattr(config, "workerinput"):
        long = {item.path for item in items if any(map(item.get_closest_marker, LONG))}
        items.sort(key=lambda item: item.path not in long)


@pytest.fixture(scope="session")
def tiny_yaml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config of a run that generates its data: 24 steps of a model with few parameters."""
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "suite.yaml").write_text(SUITE)
    (folder / "run.yaml").write_text(RUN.format(folder=folder))
    return folder / "run.yaml"


@dataclass(frozen=True)
class Ended:
    """A training process that has ended."""

    code: int
    out: str
    err: str
    directory: Path

    @property
    def errors(self) -> list[str]:
        """The sentences it left for its user."""
        return [line for line in self.err.splitlines() if line.startswith("error: ")]


class Training:
    """`python -m dpot_scale.train`; for several ranks under the deepspeed launcher or torchrun."""

    def __init__(
        self, config: Path, name: str, *overrides: str, ranks: int = 0, torchrun: bool = False
    ) -> None:
        self.directory = config.parent / "runs" / name
        attempt = len(list(config.parent.glob(f"{name}_*.out")))
        self.out = config.parent / f"{name}_{attempt}.out"
        self.err = self.out.with_suffix(".err")
        arguments = ["--config", str(config), f"name={name}", *overrides]
        launcher = ["-m", "dpot_scale.train"]
        if ranks:
            launcher = _torchrun(ranks) if torchrun else _launcher(ranks)
        # Files: a pipe would stay open as long as a child of a killed launcher lives.
        with self.out.open("w") as out, self.err.open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, *launcher, *arguments],
                cwd=REPOSITORY,
                env=_environment(),
                stdout=out,
                stderr=err,
                start_new_session=True,  # so that it can be killed with all its children
            )

    def ended(self, timeout: float = 200) -> Ended:
        """Wait for its end."""
        code = self.process.wait(timeout)
        return Ended(code, self.out.read_text(), self.err.read_text(), self.directory)

    def kill(self) -> None:
        """Kill its launcher and all ranks at once, as a failing machine does."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


Start = Callable[..., Training]


@pytest.fixture(scope="session")
def start(tiny_yaml: Path) -> Iterator[Start]:
    """Start a training of the tiny config; none outlives the tests."""
    started: list[Training] = []

    def start(name: str, *overrides: str, ranks: int = 0, torchrun: bool = False) -> Training:
        started.append(Training(tiny_yaml, name, *overrides, ranks=ranks, torchrun=torchrun))
        return started[-1]

    yield start
    for training in started:
        training.kill()


@pytest.fixture(scope="session")
def database(tiny_yaml: Path) -> str:
    """The MLflow database of all runs that mirror to one."""
    return f"sqlite:///{tiny_yaml.with_name('mlflow.db')}"


@pytest.fixture(scope="session")
def finished(start: Start, database: str) -> Ended:
    """A run without a launcher that has reached its end."""
    return start("alone", f"tracking.mlflow_uri={database}").ended()


class RanksError(Exception):
    """What went wrong on a rank, with its traceback."""


class Ranks:
    """Processes in one process group, which run what tests ask for, one case after another.

    They start with the first case. A case that fails ends them: the next one gets new ones.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        self.SIZE = size
        self.processes: list[subprocess.Popen[bytes]] = []
        self.connections: list[Connection] = []
        self.ports: list[int] = []  # of their process groups

    def run(self, file: Path, function: str, *arguments: object) -> Any:
        """What rank 0 returns of a function in a file, called on each with its `World` first.

        Raises:
            RanksError: it raised on a rank, or a rank has ended or not answered in time.
        """
        if not self.processes:
            self._start()
        for connection in self.connections:
            connection.send((str(file), function, arguments))
        try:
            return self._answers()[0]
        except BaseException:
            self._kill()
            raise

    def printed(self) -> str:
        """All that went to the standard output of the ranks."""
        return "".join(path.read_text() for path in sorted(self.folder.glob("*.out")))

    def end(self) -> None:
        """Let them end, which they do without an error."""
        for connection in self.connections:
            connection.close()
        codes = [process.wait(60) for process in self.processes]
        assert codes == [0] * len(codes), self._complaints()

    def _start(self) -> None:
        self.ports.append(free_port())
        for rank in range(self.SIZE):
            here, there = Pipe()
            of_rank = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": self.SIZE}
            of_rank |= {"LOCAL_SIZE": self.SIZE, "MASTER_PORT": self.ports[-1]}
            environment = _environment() | {name: str(value) for name, value in of_rank.items()}
            output = self.folder / f"group{len(self.ports)}_rank{rank}.out"
            with output.open("w") as out, output.with_suffix(".err").open("w") as err:
                process = subprocess.Popen(
                    [sys.executable, str(RANK_SCRIPT), str(there.fileno())],
                    env=environment | {"MASTER_ADDR": "127.0.0.1"},
                    pass_fds=[there.fileno()],
                    stdout=out,
                    stderr=err,
                )
            self.processes.append(process)
            there.close()
            self.connections.append(here)

    def _answers(self) -> list[Any]:
        """Wait for all; where one fails, another may wait for it in a collective."""
        import torch

        answers: dict[Connection, Any] = {}
        while len(answers) < self.SIZE:
            waiting = [one for one in self.connections if one not in answers]
            for connection in wait(waiting, timeout=CASE_SECONDS):
                try:
                    received = connection.recv_bytes()
                except EOFError:
                    raise RanksError(f"a rank has ended: {self._complaints()}") from None
                error, answers[connection] = torch.load(io.BytesIO(received), weights_only=False)
                if error:
                    raise RanksError(error)
            if len(waiting) == self.SIZE - len(answers):
                raise RanksError(f"{len(waiting)} ranks did not answer in {CASE_SECONDS} s")
        return [answers[connection] for connection in self.connections]

    def _complaints(self) -> str:
        return "".join(path.read_text()[-3000:] for path in sorted(self.folder.glob("*.err")))

    def _kill(self) -> None:
        for process, connection in zip(self.processes, self.connections, strict=True):
            process.kill()
            process.wait()
            connection.close()
        self.processes, self.connections = [], []


@pytest.fixture(scope="session")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    """Two ranks for all tests that need some."""
    ranks = Ranks(tmp_path_factory.mktemp("ranks"), 2)
    yield ranks
    ranks.end()


@pytest.fixture(scope="session")
def three_ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    """Three ranks, which no parameter of the tests' models divides among evenly."""
    ranks = Ranks(tmp_path_factory.mktemp("three_ranks"), 3)
    yield ranks
    ranks.end()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte."""
    with disk_of(1, tmp_path / "disk") as disk:
        yield disk


@contextlib.contextmanager
def disk_of(megabytes: int, disk: Path) -> Iterator[Path]:
    """Mount a disk of some size; the test is skipped where that is not allowed."""
    disk.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={megabytes}m"]
    mounted = subprocess.run(["mount", *options, "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("may not mount a disk of its own")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@contextlib.contextmanager
def no_more_open_files() -> Iterator[None]:
    """Let the system refuse to open one more file in this process."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def _launcher(ranks: int) -> list[str]:
    launcher = ["-m", "deepspeed.launcher.runner", "--num_accelerators", str(ranks)]
    return [*launcher, "--master_port", str(free_port()), "dpot_scale/train.py"]


def _torchrun(ranks: int) -> list[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    return [*launcher, "-m", "dpot_scale.train"]


def _environment() -> dict[str, str]:
    launched = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_SIZE", "MASTER_ADDR", "MASTER_PORT"}
    inherited = {key: value for key, value in os.environ.items() if key not in launched}
    return inherited | {"OMP_NUM_THREADS": "1"}
