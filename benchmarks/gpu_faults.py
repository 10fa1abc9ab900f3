"""What faults do to a training on a GPU, what the doctor says there, and what a checkpoint costs.

    python benchmarks/gpu_faults.py [--wheels FOLDER] [--out FOLDER] [--seconds N] [--dry-run]

It is made for one GPU that is lent for some minutes, as first_gpu.py is, whose steps and time
limits it shares. Under each way to shard a small model trains undisturbed, and once more killed
twice: both must log the same numbers, bit for bit. A run moves from two ranks on CPUs to the GPU
and back. Another one is told to stop, one asks for more memory than there is, and a sweep on Ray
loses its worker. At last, alone: what it costs to save M and L.

The sweep needs Ray.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil
from first_gpu import ONE_THREAD, REPOSITORY, Runner, Step, free_port, settled_environment

from dpot_scale.config.load import load_sweep
from dpot_scale.scaling.plan import plan
from dpot_scale.tracking.spool import SPOOL, newest_record, read_metrics

STEPS, CHECKPOINT_EVERY = 200, 20
KILLED_AT = (50, 130)
CLOSE = 1e-4  # relative, of losses in fp32 on two kinds of devices
SUITE = """
name: faults
datasets:
  swe_pdb_generated:
    {{equation: shallow_water, train: {train}, test: 2, grid: {grid}, frames: 20,
      frame_interval: 0.1}}
"""
RUN = """
name: faults
output: {folder}/runs
windows: {windows}
model: {{size: debug, width: 64, depth: 3, heads: 4, out_layer_dim: 16, grid: {grid}, patch: 4,
  channels: 1, normalize: true}}
data:
  root: {folder}/data
  suite: {folder}/suite.yaml
  weights: {{swe_pdb_generated: 1}}
objective: {{noise: 0.01}}
optim: {{lr: 3e-3, betas: [0.9, 0.95], gradient_clipping: 1.0}}
batch: {{global_batch: 8, micro_batch: 4}}
evaluation: {{every: 100, trajectories: 2}}
checkpoint: {{every: {every}, minutes: 0}}
tracking: {{log_every: 1, mlflow_uri: null}}
"""
SWEEP = """
name: on_ray
run: {{extends: {folder}/run.yaml, engine: {{deepspeed: zero1_bf16}}}}
ladder:
  same: {{width: 64, depth: 3, heads: 4, out_layer_dim: 16}}
windows: [{windows}]
max_attempts: 5
resources: {{workers: 1}}
"""
# Ways to shard, and what else is given.
STRATEGIES: dict[str, tuple[str, ...]] = {
    "zero0_fp32": (),
    "zero1_bf16": (),
    "zero2_bf16": ("checkpoint.copy_gib=1",),
    "zero3_bf16": ("checkpoint.copy_gib=1", "engine.compile=true"),
    "zero3_bf16_offload": (),
    "zero3_fp16": (),
}
NOT_ON_CPUS = ("zero3_fp16",)
ON_CPUS = {"DS_ACCELERATOR": "cpu"}
RAY_WORKER = "RayTrainWorker"
GPU_TESTS = [
    *("tests/engine/test_gpu.py", "tests/training/test_noise.py", "tests/training/test_waits.py"),
    *("tests/data/stream/test_assembly.py", "tests/serving/test_forecaster.py"),
]


def main() -> int:
    """Run all steps; the exit code is the number of those that failed."""
    options = parsed()
    work = options.out / "work"
    if options.act:
        name, *rest = options.act.split(":")
        return ACTS[name](work, *rest)
    deadline = time.monotonic() + options.seconds
    if options.dry_run:
        os.environ.update(ONE_THREAD, DS_ACCELERATOR="cpu")
    write_configs(work, dry_run=options.dry_run)
    runner = Runner(options.out, deadline, settled_environment(options), forks=False)
    for together in phases(options):
        runner.run(together)
    with tarfile.open(options.out / "logs.tar.gz", "w:gz") as tar:
        for log in sorted([*options.out.glob("*.log"), *work.glob("*.log")]):
            tar.add(log, log.name)
    print(f"failed: {', '.join(runner.failed) or 'none'}", flush=True)
    return len(runner.failed)


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--wheels", type=Path, help="folder of what the machine lacks")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "gpu_faults")))
    parser.add_argument("--seconds", type=float, default=520)
    parser.add_argument("--dry-run", action="store_true", help="on a CPU, with tiny sizes")
    parser.add_argument("--only", nargs="+", help="the steps to run, by the start of their names")
    parser.add_argument("--act", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.out = options.out.resolve()
    return options


def write_configs(work: Path, *, dry_run: bool) -> None:
    """Write the suite, the run and the sweep of all trainings."""
    work.mkdir(parents=True, exist_ok=True)
    numbers = {"train": 6 if dry_run else 32, "grid": 16 if dry_run else 64, "folder": work}
    numbers |= {"windows": STEPS * 8, "every": CHECKPOINT_EVERY}
    for name, text in (("suite", SUITE), ("run", RUN), ("sweep", SWEEP)):
        (work / f"{name}.yaml").write_text(text.format(**numbers), encoding="utf-8")


def phases(options: argparse.Namespace) -> list[list[Step]]:
    """Return the steps in their order; those of a phase run side by side."""
    work, slowness = options.out / "work", 10 if options.dry_run else 1

    def act(name: str, seconds: float, *rest: str) -> Step:
        words = [sys.executable, str(Path(__file__).resolve()), "--out", str(options.out)]
        named = "_".join([name, *rest])
        return Step(
            named, slowness * seconds, [*words, "--act", ":".join([name, *rest])], ONE_THREAD
        )

    generate = ["generate", "--suite", str(work / "suite.yaml"), "--out", str(work / "data")]
    data = Step("data", 60, [sys.executable, "-m", "dpot_scale.prepare", *generate])
    ways = [name for name in STRATEGIES if not (options.dry_run and name in NOT_ON_CPUS)]
    tests = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "-m", "gpu"]
    tests += ["-k", "not runs_to_its_end", *GPU_TESTS]
    cost = [sys.executable, "benchmarks/checkpoint_cost.py", "--ours-alone", "--saves", "1"]
    cost += ["--folder", str(work), "--strategy", "zero1_bf16", "--sizes"]
    cost += ["debug"] if options.dry_run else ["M", "L"]
    found = [
        [] if options.dry_run else [Step("tests", 120, tests)],
        [data, *doctor_steps(work)],
        [
            *(act("kills", 240, way) for way in ways),
            *(act("moves", 240), act("stops", 240), act("sweep", 240)),
        ],
        [] if options.dry_run else [act("memory", 60)],  # a CPU would be killed
        [Step("cost", 200, cost)],
    ]
    if options.only is None:
        return found
    starts = tuple(options.only)
    return [[step for step in phase if step.name.startswith(starts)] for phase in found]


def doctor_steps(work: Path) -> list[Step]:
    """Return the doctor alone, and under a launcher."""
    config = ["--config", str(work / "run.yaml")]
    alone = [sys.executable, "-m", "dpot_scale.doctor", *config]
    launched = [sys.executable, "-m", "deepspeed.launcher.runner", "--num_accelerators", "1"]
    launched += ["--master_port", str(free_port()), "dpot_scale/doctor.py", *config]
    return [
        Step("doctor", 90, [*alone, "engine.compile=true"]),
        Step("doctor_launched", 90, launched),
    ]


class Run:
    """A training of the config of this script, in a process of its own.

    Args:
        work: The folder of the configs.
        name: Of the run.
        overrides: Of its config.
        command: That trains it; None: one process alone.
        environment: That differs from this one.
    """

    def __init__(
        self,
        work: Path,
        name: str,
        overrides: Sequence[str],
        command: Sequence[str] = ("-m", "dpot_scale.train"),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name, self.log = name, work / f"{name}.log"
        self.directory = work / "runs" / name
        config = ["--config", str(work / "run.yaml"), f"name={name}", *overrides]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, *command, *config],
                cwd=REPOSITORY,
                env=os.environ | (environment or {}),
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def wait_for(self, step: int) -> int:
        """Wait until the run has recorded a step, and return the newest one."""
        while self.process.poll() is None:
            if (newest := newest_step(self.directory)) >= step:
                return newest
            time.sleep(0.005)
        raise SystemExit(f"result: {self.name} ended before step {step}: {self.last_line()}")

    def kill(self) -> None:
        """Kill it with all that it has started."""
        itself = psutil.Process(self.process.pid)
        for process in [itself, *itself.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()

    def ended(self) -> int:
        """Wait for its end; return its exit code."""
        code = self.process.wait()
        if code:
            print(f"| {self.name}: exit code {code}: {self.last_line()}")
        return code

    def last_line(self) -> str:
        """Return what it said at last."""
        said = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return said[-1] if said else "nothing"


def newest_step(directory: Path) -> int:
    """Return the last step that a run has recorded."""
    record = newest_record(directory / SPOOL, containing="train/loss")
    return int(record["step"]) if record else 0


def kills(work: Path, strategy: str) -> int:
    """Train undisturbed, and killed twice; compare."""
    overrides = [f"engine.deepspeed={strategy}", *STRATEGIES[strategy]]
    whole = Run(work, f"{strategy}_whole", overrides)
    if whole.ended():
        return 1
    at = []
    for step in KILLED_AT:
        killed = Run(work, strategy, overrides)
        at.append(killed.wait_for(step))
        killed.kill()
    last = Run(work, strategy, overrides)
    if last.ended():
        return 1
    resumed = [line for line in last.log.read_text().splitlines() if line.startswith("resuming")]
    found = differences(curves(whole.directory), curves(last.directory))
    print(f"result: killed at {at}, {', '.join(resumed)}: {found or 'equal bit for bit'}")
    return 1 if found or len(resumed) != len(KILLED_AT) else 0


def moves(work: Path) -> int:
    """Train on two CPU ranks, then the GPU, then one CPU; compare with one CPU rank alone."""
    overrides = ["engine.deepspeed=zero3_fp32"]
    launched = ("-m", "deepspeed.launcher.runner", "--num_accelerators", "2", "--master_port")
    whole = Run(work, "moves_whole", overrides, environment=ON_CPUS)
    if whole.ended():
        return 1
    first = Run(
        work, "moves", overrides, (*launched, str(free_port()), "dpot_scale/train.py"), ON_CPUS
    )
    at = [first.wait_for(KILLED_AT[0])]
    first.kill()
    second = Run(work, "moves", overrides)
    at.append(second.wait_for(KILLED_AT[1]))
    second.kill()
    if Run(work, "moves", overrides, environment=ON_CPUS).ended():
        return 1
    before, after = curves(whole.directory)["train/loss"], curves(first.directory)["train/loss"]
    far = max(abs(after[step] - loss) / abs(loss) for step, loss in before.items())
    print(f"result: 2 CPU ranks, 1 GPU, 1 CPU rank, killed at {at}: losses differ by {far:.1e}")
    return 0 if far < CLOSE else 1


def stops(work: Path) -> int:
    """Stop a run by SIGTERM and by its clock; compare with one that was not stopped."""
    overrides = ["engine.deepspeed=zero1_bf16"]
    whole = Run(work, "stops_whole", overrides)
    if whole.ended():
        return 1
    asked = Run(work, "stops", overrides)
    asked.wait_for(KILLED_AT[0])
    asked.process.terminate()
    codes = [asked.ended()]
    codes.append(Run(work, "stops", [*overrides, "limits.wall_clock=0.001"]).ended())
    codes.append(Run(work, "stops", overrides).ended())
    found = differences(curves(whole.directory), curves(asked.directory))
    print(f"result: exit codes {codes}: {found or 'equal bit for bit'}")
    return 1 if found or codes[-1] else 0


def memory(work: Path) -> int:
    """Ask for more memory than there is."""
    windows = 2048
    large = ["model.size=L", "model.width=null", "model.depth=null", "model.heads=null"]
    large += ["model.out_layer_dim=null", "engine.deepspeed=zero1_bf16", f"windows={windows * 8}"]
    large += [f"batch={{global_batch: {windows}, micro_batch: {windows}}}"]
    code = Run(work, "too_large", large).ended()
    print(f"result: exit code {code}")
    return 0 if code == 2 else 1


def sweep(work: Path) -> int:
    """Let a sweep on Ray lose its worker twice; compare with no fault."""
    overrides = ["engine.deepspeed=zero1_bf16"]
    whole = Run(work, "sweep_whole", overrides)
    if whole.ended():
        return 1
    (trial,) = plan(load_sweep(str(work / "sweep.yaml")))
    directory = trial.run.directory
    with (work / "sweep.log").open("w") as log:
        command = [sys.executable, "-m", "dpot_scale.sweep", "run"]
        driver = subprocess.Popen(
            [*command, "--config", str(work / "sweep.yaml")],
            cwd=REPOSITORY,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    at = []
    for step in KILLED_AT:
        while newest_step(directory) < step and driver.poll() is None:
            time.sleep(0.005)
        at.append(newest_step(directory))
        worker(driver.pid).kill()
    code = driver.wait()
    print(f"| {(work / 'sweep.log').read_text()}".replace("\n", "\n| "))
    found = differences(curves(whole.directory), curves(directory))
    print(f"result: worker killed at {at}, exit {code}: {found or 'equal bit for bit'}")
    return 1 if found or code else 0


def worker(driver: int) -> psutil.Process:
    """Return the process of Ray that trains."""
    for process in psutil.Process(driver).children(recursive=True):
        if RAY_WORKER in " ".join(process.cmdline()):
            return process
    raise SystemExit("result: there is no worker")


def curves(directory: Path) -> dict[str, dict[int, float]]:
    """Return what training computed, without what depends on the speed of the machine."""
    metrics = read_metrics(directory / SPOOL)
    return {key: values for key, values in metrics.items() if key.startswith(("train/", "eval/"))}


def differences(
    expected: Mapping[str, Mapping[int, float]], found: Mapping[str, Mapping[int, float]]
) -> str:
    """Return in words where two runs differ, and nothing if they do not."""
    words = []
    for key in sorted(expected.keys() | found.keys()):
        one, other = expected.get(key, {}), found.get(key, {})
        steps = [
            step for step in sorted(one.keys() | other.keys()) if one.get(step) != other.get(step)
        ]
        if steps:
            first = steps[0]
            words.append(
                f"{key} at {len(steps)} steps from {first}: {other.get(first)} for {one.get(first)}"
            )
    return "; ".join(words)


ACTS: dict[str, Callable[..., int]] = {
    "kills": kills,
    "moves": moves,
    "stops": stops,
    "memory": memory,
    "sweep": sweep,
}

if __name__ == "__main__":
    sys.exit(main())
