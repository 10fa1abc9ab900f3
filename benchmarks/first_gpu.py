"""Everything to learn from the first nine minutes on a GPU, as one command.

    python benchmarks/first_gpu.py [--wheels FOLDER] [--reference PATH] [--out FOLDER] [--dry-run]

It needs Python 3.12, torch 2.11 and no network: what else is missing is installed from the wheels
in a folder. Each step runs in a process of its own under a time limit of its own, and says its
results, one line each, as soon as they are there; its whole output is a file in --out, and all of
them together are logs.tar.gz. First comes what may be broken, side by side; then what is timed,
alone. `--dry-run` does the same on a CPU with tiny sizes; most of its processes are forks of one
that has imported what they need, as that takes longer than what they do.
"""

import argparse
import importlib
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
SECONDS = 540  # of the whole
LEAST_SECONDS = 10  # what is left must be worth a start
SHOWN = ("result: ", "| ")  # how the lines begin that are shown at once
ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # for each of many processes
NOT_SHOWN = "| size"
# What takes long to import in the steps of a dry run.
PRELOADED = ("dpot_scale.runs.run", "deepspeed", "torch._inductor.compile_fx", "matplotlib.figure")
LAST_LINES = 5  # shown of a step that fails

SUITE = """
name: first
datasets:
  ns2d_fno_1e-3_generated:
    {{equation: navier_stokes, parameters: {{viscosity: 1e-3}}, train: {train}, test: 2,
      grid: {grid}, frames: 20, frame_interval: 1.0}}
  swe_pdb_generated:
    {{equation: shallow_water, train: {train}, test: 2, grid: {finer}, frames: 20,
      frame_interval: 0.1}}
"""
RUN = """
name: first
output: {folder}/runs
windows: 96
model: {{size: debug, grid: {grid}, channels: 2, normalize: true, width: 32, depth: 2,
  heads: 2, out_layer_dim: 8}}
data:
  root: {folder}/data
  suite: {folder}/suite.yaml
  weights: {{ns2d_fno_1e-3_generated: 1, swe_pdb_generated: 1}}
optim: {{lr: 3e-3, betas: [0.9, 0.95], gradient_clipping: 1.0}}
batch: {{global_batch: 16, micro_batch: 8}}
evaluation: {{trajectories: 2}}
tracking: {{log_every: 4}}
"""


@dataclass(frozen=True)
class Sizes:
    """How large the steps are."""

    grid: int  # of the data
    train: int  # trajectories
    profiled: str  # SIZE:BATCH, as benchmarks/gpu.py takes them
    eager: tuple[str, ...]
    compiled: tuple[str, ...]
    sharded: tuple[str, ...]
    reference: tuple[str, ...]
    end_to_end: tuple[str, ...]  # overrides of a training at full speed
    ceiling: int


ON_GPU = Sizes(
    grid=128,
    train=64,
    profiled="M:64",
    eager=("Ti:256", "L:25", "L:64", "H:25"),
    compiled=("M:64", "L:64"),
    sharded=("M:64", "L:25"),
    reference=("M:16", "L:8"),
    end_to_end=("model.size=Ti", "batch.global_batch=64", "batch.micro_batch=64", "windows=19200"),
    ceiling=8192,
)
DRY = Sizes(
    grid=16,
    train=6,
    profiled="debug:1",
    eager=("debug:1",),
    compiled=("debug:1",),
    sharded=("debug:1",),
    reference=("debug:1",),
    end_to_end=("windows=96",),
    ceiling=256,
)


@dataclass(frozen=True)
class Step:
    """A command with a time limit."""

    name: str
    seconds: float
    command: Sequence[str]
    environment: dict[str, str] = field(default_factory=dict)
    afresh: bool = False  # in a dry run too: never a fork


def main() -> int:
    """Run all steps; the exit code is the number of those that failed."""
    options = parsed()
    if options.step:
        return int(PROBES[options.step]() or 0)
    deadline = time.monotonic() + options.seconds
    if options.dry_run:
        os.environ.update(ONE_THREAD, DS_ACCELERATOR="cpu")  # also of what is imported here
    options.out.mkdir(parents=True, exist_ok=True)
    sizes = DRY if options.dry_run else ON_GPU
    environment = settled_environment(options)
    write_configs(options.out / "work", sizes)
    runner = Runner(options.out, deadline, environment, forks=options.dry_run)
    for together in phases(options, sizes):
        runner.run(together)
    shutil.rmtree(options.out / "work")
    with tarfile.open(options.out / "logs.tar.gz", "w:gz") as tar:
        for log in sorted(options.out.glob("*.log")):
            tar.add(log, log.name)
    failed = ", ".join(runner.failed) or "none"
    print(f"failed: {failed}; all output is in {options.out / 'logs.tar.gz'}", flush=True)
    return len(runner.failed)


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--wheels", type=Path, help="folder of what the machine lacks")
    parser.add_argument("--reference", type=Path, help="folder of the public models/dpot.py")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "first_gpu")))
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--dry-run", action="store_true", help="on a CPU, with tiny sizes")
    parser.add_argument("--step", choices=PROBES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.out = options.out.resolve()
    return options


def phases(options: argparse.Namespace, sizes: Sizes) -> list[list[Step]]:
    """Return the steps in their order; those of a phase run side by side."""
    probes = [Step(name, 60, probe(name)) for name in PROBES if name != "machine"]
    return [
        [Step("machine", 30, probe("machine"), afresh=True)],
        [*probes, data_step(options)],
        path_steps(options),
        *([step] for step in timed_steps(options, sizes)),
    ]


def data_step(options: argparse.Namespace) -> Step:
    """Solve for the data of all trainings."""
    work = options.out / "work"
    generate = ["generate", "--suite", str(work / "suite.yaml"), "--out", str(work / "data")]
    return Step("data", 90, [sys.executable, "-m", "dpot_scale.prepare", *generate])


def path_steps(options: argparse.Namespace) -> list[Step]:
    """Return a tiny training for every path that a run can take on a GPU, and the GPU tests."""
    train = [sys.executable, "-m", "dpot_scale.train"]
    launched = [sys.executable, "-m", "deepspeed.launcher.runner", "--num_accelerators", "1"]
    launched += ["--master_port", str(free_port()), "dpot_scale/train.py"]
    paths = {
        "zero0_fp32": (train, "zero0_fp32", []),
        "zero1_bf16_compiled": (train, "zero1_bf16", ["engine.compile=true"]),
        "zero2_bf16": (train, "zero2_bf16", []),
        "zero3_bf16_launched": (launched, "zero3_bf16", []),
        "zero3_bf16_compiled": (train, "zero3_bf16", ["engine.compile=true"]),
        "zero3_bf16_offload": (train, "zero3_bf16_offload", []),
        "native_grids": (train, "zero1_bf16", ["data.shapes=native", "optim.kind=muon"]),
    }
    if not options.dry_run:  # DeepSpeed computes in fp16 on GPUs only
        paths["zero3_fp16"] = (train, "zero3_fp16", ["windows=3200"])
        native = ["data.shapes=native", "engine.compile=true"]
        paths["native_grids_compiled"] = (train, "zero3_bf16", native)
        paths["micro_batch_auto"] = (train, "zero1_bf16", ["batch.micro_batch=auto"])
    steps = []
    for name, (start, strategy, more) in paths.items():
        overrides = [f"name={name}", f"engine.deepspeed={strategy}", *more]
        command = [*start, "--config", str(options.out / "work" / "run.yaml"), *overrides]
        steps.append(Step(name, 120, command, ONE_THREAD, afresh=start is launched))
    files = ["tests/engine/test_gpu.py", "tests/data/stream/test_assembly.py"]
    selected = ["-m", "gpu", "-k", "not runs_to_its_end", "-p", "no:cacheprovider", "-q"]
    return [*steps, Step("gpu_tests", 120, [sys.executable, "-m", "pytest", *selected, *files])]


def timed_steps(options: argparse.Namespace, sizes: Sizes) -> list[Step]:
    """Return what is timed, the most valuable first."""

    def gpu(name: str, seconds: float, rows: Sequence[str], *more: str) -> Step:
        ceiling = ["--ceiling-size", str(sizes.ceiling)]
        command = [sys.executable, "benchmarks/gpu.py", "--rows", *rows, *more, *ceiling]
        return Step(name, seconds, command)

    work = options.out / "work"
    at_speed = ["name=at_speed", "engine.deepspeed=zero1_bf16", "tracking.log_every=20"]
    train = [sys.executable, "-m", "dpot_scale.train", "--config", str(work / "run.yaml")]
    steps = [
        gpu("profile", 75, [sizes.profiled], "--variants", "bf16", "--profile", "--waits"),
        gpu("eager", 110, sizes.eager, "--variants", "bf16"),
        gpu("compiled", 110, sizes.compiled, "--variants", "bf16_compiled"),
        gpu("sharded", 110, sizes.sharded, "--variants", "zero3", "zero3_compiled"),
        Step("end_to_end", 60, [*train, *at_speed, "model.width=null", "model.depth=null",
             "model.heads=null", "model.out_layer_dim=null", *sizes.end_to_end]),
        gpu("precision", 60, [sizes.profiled], "--variants", "tf32", "fp32"),
    ]  # fmt: skip
    if options.reference:
        reference = ["--variants", "tf32", "fp32", "--reference", str(options.reference.resolve())]
        steps.append(gpu("reference", 90, sizes.reference, *reference))
    return steps


class Fork:
    """A command of Python in a fork of this process, which has no other threads."""

    def __init__(self, command: Sequence[str], environment: dict[str, str]) -> None:
        sys.stdout.flush()
        read, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()  # so that it can be ended with all its children
            os.dup2(write, 1)
            os.dup2(write, 2)
            os.environ.update(environment)
            os.chdir(REPOSITORY)
            sys.stdout = os.fdopen(1, "w", buffering=1)
            os._exit(run_python(command[1:]))
        os.close(write)
        self.stdout = os.fdopen(read, errors="replace")

    def wait(self) -> int:
        """Wait for its end; return its exit code, or the negative number of a signal."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def run_python(arguments: Sequence[str]) -> int:
    """Do what Python does with the arguments of its command line; return the exit code."""
    code: object = 0
    try:
        if arguments[0] == "-m":
            sys.argv = list(arguments[1:])
            sys.path.insert(0, str(REPOSITORY))
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = list(arguments)
            sys.path.insert(0, str(Path(arguments[0]).absolute().parent))
            runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as ended:
        code = ended.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    return code if isinstance(code, int) else 1


class Runner:
    """Runs steps until the time is up."""

    def __init__(
        self, out: Path, deadline: float, environment: dict[str, str], *, forks: bool
    ) -> None:
        self.out = out
        self.deadline = deadline
        self.environment = environment
        self.forks = forks
        self.started = time.monotonic()
        self.failed: list[str] = []

    def run(self, together: Sequence[Step]) -> None:
        """Run steps side by side, and wait for all of them."""
        started = [(step, self._start(step)) for step in together]  # before there are threads
        threads = [threading.Thread(target=self._follow, args=pair) for pair in started if pair[1]]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _start(self, step: Step) -> "subprocess.Popen[str] | Fork | None":
        if self.deadline - time.monotonic() < LEAST_SECONDS:
            self._say(step, "not run: the time was up")
            self.failed.append(step.name)
            return None
        environment = self.environment | step.environment
        if self.forks and not step.afresh:
            for module in PRELOADED:
                importlib.import_module(module)
            return Fork(step.command, environment)
        return subprocess.Popen(
            step.command,
            cwd=REPOSITORY,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # so that it can be ended with all its children
        )

    def _follow(self, step: Step, process: "subprocess.Popen[str] | Fork") -> None:
        begun = time.monotonic()
        left = self.deadline - begun
        limit = threading.Timer(min(step.seconds, left), end, [process])
        limit.start()
        assert process.stdout is not None
        last: list[str] = []
        with (self.out / f"{step.name}.log").open("w") as log:
            for line in process.stdout:
                log.write(line)
                if line.strip():
                    last = [*last, line.rstrip()][-LAST_LINES:]
                if line.startswith(SHOWN) and not line.startswith(NOT_SHOWN):
                    self._say(step, line.removeprefix("result: ").rstrip())
        code = process.wait()
        limit.cancel()
        how = "ok" if code == 0 else "out of time" if code == -signal.SIGKILL else f"exit {code}"
        self._say(step, f"{how} in {time.monotonic() - begun:.0f} s")
        if code:
            self.failed.append(step.name)
            for line in last:
                self._say(step, f"    {line}")

    def _say(self, step: Step, text: str) -> None:
        print(f"[{time.monotonic() - self.started:4.0f} s] {step.name}: {text}", flush=True)


def end(process: "subprocess.Popen[str] | Fork") -> None:
    """End a step with all its children."""
    os.killpg(process.pid, signal.SIGKILL)


def settled_environment(options: argparse.Namespace) -> dict[str, str]:
    """Install the wheels beside the logs; return the environment of the steps."""
    site = options.out / "site"
    if options.wheels:
        wheels = [str(path) for path in sorted(options.wheels.glob("*.whl"))]
        plain = ["--quiet", "--no-index", "--no-deps", "--no-compile", "--target", str(site)]
        subprocess.run([sys.executable, "-m", "pip", "install", *plain, *wheels], check=True)
    inherited = os.environ.get("PYTHONPATH", "")
    paths = [str(REPOSITORY), str(site), *inherited.split(os.pathsep)]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PYTHONUNBUFFERED": "1",
        "TORCHINDUCTOR_FX_GRAPH_CACHE": "1",
    }
    if [name for _, name in socket.if_nameindex()] == ["lo"]:
        environment["NCCL_SOCKET_IFNAME"] = "lo"
    return environment


def write_configs(work: Path, sizes: Sizes) -> None:
    """Write the suite and the run of all trainings."""
    work.mkdir(parents=True, exist_ok=True)
    finer = sizes.grid * 3 // 2
    numbers = {"folder": work, "grid": sizes.grid, "finer": finer, "train": sizes.train}
    (work / "suite.yaml").write_text(SUITE.format(**numbers), encoding="utf-8")
    (work / "run.yaml").write_text(RUN.format(**numbers), encoding="utf-8")


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def probe(name: str) -> list[str]:
    """Return the command of a probe of this script."""
    return [sys.executable, str(Path(__file__).resolve()), "--step", name]


def machine() -> None:
    """Say what the machine is, and how long its imports take."""
    cpu = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("model name")[1].splitlines()[0]
    print(f"result: {os.cpu_count()} x {cpu.strip(' :' + chr(9))}, Python {sys.version.split()[0]}")
    for tool in ("nvidia-smi", "g++ --version", "nvcc --version", "ninja --version"):
        command = tool.split()
        if shutil.which(command[0]):
            said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
            print(f"{tool}: {said}")
    for module in ("torch", "deepspeed", "h5py", "pydantic", "fairscale", "ray", "mlflow"):
        begun = time.perf_counter()
        try:
            version = getattr(__import__(module), "__version__", "")
            seconds = time.perf_counter() - begun
            print(f"result: {module} {version} imported in {seconds:.1f} s")
        except ImportError as error:
            print(f"result: {module}: {error}")


def nccl_bound() -> None:
    """Make a group of one rank that is bound to its device, and a second one from it."""
    make_groups(bound=True)


def nccl_unbound() -> None:
    """Do the same without a device, as `start_world` does it for one rank."""
    make_groups(bound=False)


def make_groups(*, bound: bool) -> None:
    """Make two groups of one rank and use both."""
    import torch
    from torch import distributed as dist

    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", 0) if on_gpu else torch.device("cpu")
    dist.init_process_group(
        "nccl" if on_gpu else "gloo",
        store=dist.HashStore(),
        rank=0,
        world_size=1,
        device_id=device if bound and on_gpu else None,
    )
    second = dist.new_group([0])
    values = torch.ones(4, device=device)
    begun = time.perf_counter()
    dist.all_reduce(values)
    dist.all_reduce(values, group=second)
    dist.barrier()
    total = values.sum().item()
    seconds = time.perf_counter() - begun
    print(f"result: two groups, their collectives and a barrier: {total} in {seconds:.2f} s")
    dist.destroy_process_group()


def device_parts() -> None:
    """Use the parts of torch that the loader and the objective stand on."""
    import torch

    from dpot_scale.training.noise import Noise

    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    here, there = (Noise(1, on).draw([7, 2**40], 1, (3, 5)) for on in (torch.device("cpu"), device))
    assert torch.equal(here, there.cpu())
    pinned = torch.ones(8, pin_memory=on_gpu)
    assert pinned.to(device, non_blocking=True).sum().item() == 8
    norm = torch.nn.GroupNorm(8, 64).to(device, torch.bfloat16)
    image = torch.randn(2, 16, 16, 64, device=device, dtype=torch.bfloat16).permute(0, 3, 1, 2)
    y = norm(image)
    print(f"result: GroupNorm of strides {image.stride()} gives strides {y.stride()}")


PROBES = {
    "machine": machine,
    "nccl_bound": nccl_bound,
    "nccl_unbound": nccl_unbound,
    "device_parts": device_parts,
}

if __name__ == "__main__":
    sys.exit(main())
