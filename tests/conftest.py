"""A run of a few seconds, in this process or in one of its own."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]

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


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("may not mount a disk of its own")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def _launcher(ranks: int) -> list[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = ["-m", "deepspeed.launcher.runner", "--num_accelerators", str(ranks)]
    return [*launcher, "--master_port", str(port), "dpot_scale/train.py"]


def _torchrun(ranks: int) -> list[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    return [*launcher, "-m", "dpot_scale.train"]


def _environment() -> dict[str, str]:
    launched = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_SIZE", "MASTER_ADDR", "MASTER_PORT"}
    inherited = {key: value for key, value in os.environ.items() if key not in launched}
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"  # ninja
    return inherited | {"OMP_NUM_THREADS": "1", "PATH": path}
