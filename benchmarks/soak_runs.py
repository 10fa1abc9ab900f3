"""The trainings of benchmarks/soak.py, and the small disk that they write to."""

import contextlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import psutil
from soak_archive import ArchiveServer, url_of
from soak_data import DataDisk
from soak_servers import RayCluster, Server, free_port, killed_with_all_below, started

from dpot_scale.config.load import load_sweep
from dpot_scale.config.places import CHECKPOINTS
from dpot_scale.scaling.plan import plan
from dpot_scale.tracking.spool import SPOOL

STEPS, CHECKPOINT_EVERY = 150, 10
DISK_MIB = 64
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
limits: {{hang: 0.5, unreadable: 0.1}}
tracking: {{log_every: 1, mlflow_uri: "{server}"}}
"""
SWEEP = """
name: {name}
run: {{extends: {folder}/run.yaml, tracking: {{experiment: {name}}},
  checkpoint: {{archive: "{archive}"}}}}
ladder:
  same: {{width: 64, depth: 3, heads: 4, out_layer_dim: 16}}
windows: [{windows}]
max_attempts: 9
resources: {{workers: 2, gpus_per_worker: 0}}
"""
RAY_WORKER = "RayTrainWorker"


class Around(NamedTuple):
    """What trainings use."""

    mlflow: Server
    archive: ArchiveServer
    data: DataDisk
    ray: RayCluster


class Training:
    """A run that a launcher, or a driver of a sweep, trains: the same command again and again.

    Args:
        folder: Of the soak.
        name: Of the run.
        launcher: deepspeed, torchrun or ray.
        around: What it uses; None: nothing is mirrored or archived.

    Attributes:
        name: Of the run or sweep, and of its experiment in MLflow.
        directory: Of the run.
        results: Of the run or the sweep.
        runs: That MLflow is to have of it.
        is_sweep: Whether a driver trains it.
        lost: The steps that it had recorded on disks that were lost, as `recorded` returns them.
    """

    process: subprocess.Popen[bytes]

    def __init__(
        self,
        folder: Path,
        name: str,
        launcher: str,
        around: Around | None = None,
    ) -> None:
        self._around, self.is_sweep = around, launcher == "ray"
        self._folder, self.name = folder, name
        self.lost: list[tuple[int, float]] = []
        self.log = folder / f"{name}.log"
        self.results = self.directory = folder / "disk" / "runs" / name
        self.runs = 2 if self.is_sweep else 1
        if self.is_sweep:
            self._command = self._sweep()
        else:
            changes = [f"name={name}", f"tracking.experiment={name}"]
            if around is None:
                changes.append("tracking.mlflow_uri=null")
            else:
                changes.append(f"checkpoint.archive={url_of(name)}")
            entry = [*_launcher(launcher, folder), "--config", str(folder / "run.yaml")]
            self._command = [sys.executable, *entry, *changes]

    def start(self) -> None:
        """Start it, or start it again."""
        more = self.around.ray.environment if self.is_sweep else {}
        self.process = started(self._command, self.log, **more)

    @property
    def around(self) -> Around:
        """Return what it uses."""
        assert self._around is not None
        return self._around

    @property
    def archive_url(self) -> str:
        """Return where the archive of the run is."""
        return f"{url_of(self.name)}/{self.directory.name}"

    def ranks(self) -> list[psutil.Process]:
        """Return the ranks that live, by number: those of this training alone."""
        found: dict[int, psutil.Process] = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                words = process.cmdline()
                if self.is_sweep and RAY_WORKER in " ".join(words):
                    is_its = process.pid in self.around.ray.family()
                    found |= {len(found): process} if is_its else {}
                elif not self.is_sweep and f"name={self.name}" in words:
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

    def recorded(self) -> list[tuple[int, float]]:
        """Return each step that was recorded, with the time, also those that were made again."""
        spool = self.directory / SPOOL
        lines = spool.read_text().splitlines() if spool.exists() else []
        records = [json.loads(one) for one in lines if "train/loss" in one]
        found = {(record["step"], record["time"]) for record in records}
        return sorted(found | set(self.lost), key=lambda one: one[1])

    def lose_disk(self) -> None:
        """Remove all that the run has on its disk."""
        self.lost = self.recorded()
        shutil.rmtree(self.directory)

    def filler(self) -> Path:
        """Return a file that takes all of the disk of the run when it grows."""
        return self._folder / "disk" / "filler"

    def forget_archive(self) -> None:
        """Remove the archive of the run, if it has one."""
        if self._around is not None:
            self._around.archive.remove(self.archive_url)

    def _sweep(self) -> list[str]:
        config = self._folder / f"{self.name}.yaml"
        text = SWEEP.format(
            name=self.name,
            folder=self._folder,
            windows=STEPS * 8,
            archive=url_of(self.name),
        )
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
    training.forget_archive()


def _launcher(name: str, folder: Path) -> list[str]:
    if name == "torchrun":
        # Else it leaves a folder in /tmp at each start, also where nothing goes wrong.
        ranks = ["--log-dir", str(folder / "torchrun"), "--standalone", "--nproc-per-node", "2"]
        return ["-m", "torch.distributed.run", *ranks, "-m", "dpot_scale.train"]
    ranks = ["--num_accelerators", "2", "--master_port", str(free_port())]
    return ["-m", "deepspeed.launcher.runner", *ranks, "dpot_scale/train.py"]
