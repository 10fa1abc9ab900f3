"""What does a training step cost, and how does the cost grow?

    python benchmarks/scaling_cost.py step            # time and memory as the case grows
    python benchmarks/scaling_cost.py communication   # numbers sent per step under ZeRO-3
    python benchmarks/scaling_cost.py checkpoint      # saving and loading the training state
    python benchmarks/scaling_cost.py overhead        # Ray and the sweep; tracking, votes, metrics

Every measurement runs in fresh processes, two of them where it says so, each with one thread. A
growth is fitted as a power of the executed FLOPs or of the parameters.
"""

import argparse
import contextlib
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import distributed as dist

from dpot_scale.config.batch import BatchConfig
from dpot_scale.config.data import DataConfig
from dpot_scale.config.engine import EngineConfig
from dpot_scale.config.load import dump, load_run, load_sweep
from dpot_scale.config.run import CheckpointConfig, RunConfig
from dpot_scale.models.dpot.config import DPOTConfig
from dpot_scale.models.dpot.cost import count_parameters, executed_forward_flops
from dpot_scale.models.family import TRAIN_PASSES
from dpot_scale.tracking.spool import SPOOL, read_metrics

GIB = 2**30
WARMUP_STEPS, TIMED_STEPS = 2, 5
WIDTHS = {"E64": 64, "E128": 128, "E256": 256, "Ti": 512, "E1024": 1024}
SIZE, GRID, WINDOWS = "Ti", 64, 4  # what stands still while another thing grows
COLLECTIVES = ("all_gather_into_tensor", "reduce_scatter_tensor", "all_reduce", "broadcast")
# Frees what it gathered as soon as a layer is done, so that all is gathered twice.
NOTHING_KEPT = {
    "bf16": {"enabled": True},
    "zero_optimization": {
        "stage": 3,
        "stage3_max_live_parameters": 0,
        "stage3_max_reuse_distance": 0,
        "stage3_param_persistence_threshold": 0,
    },
}
PAIRS = 3  # of trainings that are compared
SLICES, SLICE_SECONDS = 15, 2.0  # of each
STEADY_STEPS = 20  # until then a training warms up
ENDLESS = 1_600_000  # windows


@dataclass(frozen=True)
class Case:
    """A training to measure."""

    size: str = SIZE
    grid: int = GRID
    windows: int = WINDOWS  # of a micro-batch
    workers: int = 1
    strategy: str = "zero3_bf16"
    recompute: bool = False

    def config(self) -> RunConfig:
        """Return a run of it."""
        heads = max(4, WIDTHS[self.size] // 128)
        return RunConfig(
            name="benchmark",
            windows=1000 * self.windows * self.workers,
            model=DPOTConfig(
                width=WIDTHS[self.size], depth=4, heads=heads, mlp_ratio=1, grid=self.grid
            ),
            data=DataConfig(weights={"unused": 1}),
            batch=BatchConfig(global_batch=self.windows * self.workers, micro_batch=self.windows),
            engine=EngineConfig(
                deepspeed=self.strategy,
                activation_checkpointing="full" if self.recompute else "none",
            ),
        )

    @property
    def parameters(self) -> int:
        """Return those of the model."""
        return count_parameters(self.config().model).total

    @property
    def flops(self) -> float:
        """Return those of a step of one worker."""
        arch = self.config().model
        return TRAIN_PASSES * executed_forward_flops(arch, self.windows)


@dataclass(frozen=True)
class Measured:
    """What a case showed."""

    step_seconds: float
    peak_gib: float  # of all workers
    sent: dict[str, float]  # collective -> elements of a step, on one rank
    save_seconds: float
    load_seconds: float
    checkpoint_bytes: int


def main() -> None:
    """Run one of the benchmarks, or one measurement of it in a worker."""
    if "CASE" in os.environ:
        measure(Case(**json.loads(os.environ["CASE"])))
        return
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = {
        "step": step_table,
        "communication": communication_table,
        "checkpoint": checkpoint_table,
        "overhead": overhead_table,
    }
    parser.add_argument("what", choices=commands)
    commands[parser.parse_args().what]()


def step_table() -> None:
    """Print time and memory against everything that grows, and the exponents."""
    print("| growing | case | GFLOP of a worker | ms per step | GFLOP/s | peak GiB |")
    print("|---|---|--:|--:|--:|--:|")
    growths: dict[str, tuple[Sequence[Case], str]] = {
        "size": ([Case(size=size) for size in WIDTHS], "{0.parameters:,} parameters"),
        "windows": ([Case(windows=windows) for windows in (1, 2, 4, 8, 16)], "{0.windows} windows"),
        "grid": ([Case(grid=grid) for grid in (64, 128, 192, 256)], "{0.grid} x {0.grid}"),
        "workers": ([Case(workers=workers) for workers in (1, 2)], "{0.workers} workers"),
    }
    laws = []
    for growing, (cases, label) in growths.items():
        found = [measured(case) for case in cases]
        for case, result in zip(cases, found, strict=True):
            seconds = result.step_seconds
            print(
                f"| {growing} | {label.format(case)} | {case.flops / 1e9:.1f} "
                f"| {1e3 * seconds:.0f} | {case.flops / seconds / 1e9:.0f} "
                f"| {result.peak_gib:.2f} |",
                flush=True,
            )
        if growing != "workers":
            seconds_each = [result.step_seconds for result in found]
            varied = [
                float(getattr(case, growing)) if growing != "size" else case.parameters
                for case in cases
            ]
            analytic = exponent(varied, [case.flops for case in cases])
            laws.append((growing, exponent(varied, seconds_each), analytic))
    print("\n| time grows with | measured exponent | that of the FLOPs |\n|---|--:|--:|")
    for growing, found_exponent, analytic in laws:
        print(f"| {growing} | {found_exponent:.2f} | {analytic:.2f} |")


def communication_table() -> None:
    """Print the elements that each parameter is sent, per step, with two workers."""
    print("| size | parameters | gathered ones | gathered / N | reduced / N | together | theory |")
    print("|---|--:|---|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        nothing_kept = str(written(Path(folder) / "zero3.json", json.dumps(NOTHING_KEPT)))
        for size in ("E128", "Ti", "E1024"):
            for strategy, kept in (("zero3_bf16", "kept if they fit"), (nothing_kept, "freed")):
                case = Case(size=size, workers=2, strategy=strategy)
                sent = measured(case).sent
                gathered = sent["all_gather_into_tensor"] / case.parameters
                reduced = sent["reduce_scatter_tensor"] / case.parameters
                print(
                    f"| {size} | {case.parameters:,} | {kept} | {gathered:.2f} "
                    f"| {reduced:.2f} | {gathered + reduced:.2f} | 3 |",
                    flush=True,
                )


def checkpoint_table() -> None:
    """Print what a committed checkpoint costs, with two workers."""
    print("| size | parameters | bytes per parameter | save s | load s | steps a save costs |")
    print("|---|--:|--:|--:|--:|--:|")
    for size in WIDTHS:
        case = Case(size=size, workers=2)
        found = measured(case)
        print(
            f"| {size} | {case.parameters:,} | {found.checkpoint_bytes / case.parameters:.1f} "
            f"| {found.save_seconds:.2f} | {found.load_seconds:.2f} "
            f"| {found.save_seconds / found.step_seconds:.1f} |",
            flush=True,
        )


def overhead_table() -> None:
    """Print the speed of the same training bare and in a sweep, and what surrounds the steps.

    With one worker a core of two is left for the processes of Ray, with two none is.
    """
    print("| workers | bare windows/s | in a sweep | overhead of Ray and the sweep |")
    print("|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for workers in (2, 1):
            pairs = [paired(folder / f"{workers}_{pair}", workers) for pair in range(PAIRS)]
            overheads = [f"{bare / swept - 1:+.1%}" for bare, swept in pairs]
            bare, swept = (statistics.mean(speeds) for speeds in zip(*pairs, strict=True))
            print(
                f"| {workers} | {bare:.1f} | {swept:.1f} | {bare / swept - 1:+.1%} "
                f"({', '.join(overheads)}) |",
                flush=True,
            )
        shares = [surroundings(folder / f"alone{run}") for run in range(PAIRS)]
    print(f"\ntracking, votes and metrics: {statistics.median(shares):.2%} of the loop")


def measured(case: Case) -> Measured:
    """Measure a case in fresh processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={case.workers}", __file__]
    environment = os.environ | {"CASE": json.dumps(asdict(case)), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    for line in ended.stdout.splitlines():
        if line.startswith("{"):
            return Measured(**json.loads(line))
    raise SystemExit(f"{case} failed:\n{ended.stderr[-3000:]}")


def measure(case: Case) -> None:
    """Train some steps as one of the workers; the main rank prints what it took."""
    sent = count_elements()  # before DeepSpeed looks the functions up
    from dpot_scale.checkpoints.store import CheckpointStore, TrainState
    from dpot_scale.engine.runtime import start_world
    from dpot_scale.engine.start import start_engine
    from dpot_scale.training.meter import peak_memory_gib
    from dpot_scale.training.schedule import Schedule

    world = start_world()
    engine = start_engine(case.config(), world)
    schedule = Schedule.of(case.config())
    arch = case.config().model
    frames = torch.randn(case.windows, arch.history, arch.channels, arch.grid, arch.grid)
    seconds = []
    for step in range(WARMUP_STEPS + TIMED_STEPS):
        if step == WARMUP_STEPS:
            sent.clear()
        started = time.perf_counter()
        engine.backward(engine(frames).frames.square().mean())
        engine.step(schedule.at(step))
        seconds.append(time.perf_counter() - started)
    elements = {name: sent.get(name, 0) / TIMED_STEPS for name in COLLECTIVES}
    peak = peak_memory_gib(world)
    with one_folder() as folder:
        keep = CheckpointConfig()
        store = CheckpointStore(folder, config=keep, identity="benchmark", world=world)
        save_seconds = timed(lambda: store.save(engine, TrainState(step=1)))
        load_seconds = timed(lambda: store.restore(engine))
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        dist.barrier()
    if world.is_main:
        found = Measured(
            step_seconds=statistics.median(seconds[WARMUP_STEPS:]),
            peak_gib=peak,
            sent=elements,
            save_seconds=save_seconds,
            load_seconds=load_seconds,
            checkpoint_bytes=size,
        )
        print(json.dumps(asdict(found)), flush=True)


def count_elements() -> dict[str, int]:
    """Count the elements of the whole tensor that each collective gathers or reduces."""
    sent: dict[str, int] = {}

    def counting(name: str, collective: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*values: Any, **named: Any) -> Any:  # noqa: ANN401
            given = [*values, *named.values()]
            sizes = [value.numel() for value in given if isinstance(value, torch.Tensor)]
            sent[name] = sent.get(name, 0) + max(sizes)
            return collective(*values, **named)

        return counted

    for name in COLLECTIVES:
        setattr(dist, name, counting(name, getattr(dist, name)))
    return sent


@contextlib.contextmanager
def one_folder() -> Iterator[Path]:
    """Give all ranks the same temporary folder."""
    with tempfile.TemporaryDirectory() as own:
        shared = [own]
        dist.broadcast_object_list(shared, src=0)
        yield Path(shared[0])
        dist.barrier()


def timed(work: Callable[[], object]) -> float:
    """Return how long it took."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def exponent(varied: Sequence[float], values: Sequence[float]) -> float:
    """Return the slope of a line through the logarithms."""
    x, y = [math.log(value) for value in varied], [math.log(value) for value in values]
    return statistics.linear_regression(x, y).slope


OVERHEAD = ["tracking.log_every=1", "evaluation.trajectories=1", "checkpoint.every=0"]
OVERHEAD += ["model.width=256", "model.depth=4"]


def overhead_run(folder: Path, windows: int) -> RunConfig:
    """Return the training that is compared, with its data beside the folder."""
    places = [f"output={folder}", f"data.root={folder.parent / 'data'}", f"windows={windows}"]
    places += [f"tracking.mlflow_uri=sqlite:///{folder}/mlflow.db"]
    return load_run("quickstart", [*OVERHEAD, *places])


def paired(folder: Path, workers: int) -> tuple[float, float]:
    """Return the windows per second of a training with the launcher alone, and in a sweep."""
    bare = overhead_run(folder / "bare", ENDLESS)
    swept = overhead_run(folder / "swept", ENDLESS)
    sweep = load_sweep("quickstart", [f"windows=[{ENDLESS}]", f"resources.workers={workers}"])
    update = {"run": swept, "ladder": {"only": swept.model}, "name": "overhead"}
    run_file = written(folder / "run.yaml", dump(bare))
    sweep_file = written(folder / "sweep.yaml", dump(sweep.model_copy(update=update)))
    launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={workers}"]
    one = Sliced([*launcher, "-m", "dpot_scale.train", "--config", str(run_file)], bare)
    try:
        other = Sliced(["dpot_scale.sweep", "run", "--config", str(sweep_file)], swept)
        try:
            for turn in range(SLICES):
                for training in (one, other) if turn % 2 else (other, one):
                    training.run_for(SLICE_SECONDS)
        finally:
            other.end()
    finally:
        one.end()
    return one.windows_per_second, other.windows_per_second


class Sliced:
    """A training that stands still except in its slices of time.

    Two of them that take turns see the same machine, whatever else it does in these minutes.
    """

    def __init__(self, module: Sequence[str], run: RunConfig) -> None:
        self.run = run
        self.steps, self.seconds = 0, 0.0
        self.process = psutil.Popen(
            [sys.executable, "-m", *module],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while self.steps_done() < STEADY_STEPS:
            time.sleep(0.5)
            if self.process.poll() is not None:
                raise SystemExit(f"{' '.join(module)} ended with {self.process.returncode}")
        self.signal(signal.SIGSTOP)

    @property
    def windows_per_second(self) -> float:
        """Return the speed over all slices."""
        return self.steps * self.run.batch.global_batch / self.seconds

    def run_for(self, seconds: float) -> None:
        """Train for a while."""
        steps, started = self.steps_done(), time.perf_counter()
        self.signal(signal.SIGCONT)
        time.sleep(seconds)
        self.signal(signal.SIGSTOP)
        self.seconds += time.perf_counter() - started
        self.steps += self.steps_done() - steps

    def steps_done(self) -> int:
        """Return how many steps are in the spool, wherever below the output it is."""
        spools = self.run.output.rglob(SPOOL)
        return sum(len(read_metrics(spool).get("train/loss", {})) for spool in spools)

    def signal(self, which: signal.Signals) -> None:
        """Send a signal to all processes of the training."""
        for process in (self.process, *self.process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(which)

    def end(self) -> None:
        """Let it save and leave."""
        self.signal(signal.SIGCONT)
        self.process.terminate()
        self.process.wait()


def written(path: Path, text: str) -> Path:
    """Write a config."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def surroundings(folder: Path) -> float:
    """Return the share of a training loop that tracking, votes and metrics take, on one rank.

    What the loop waits for, and the CPU time of the thread that sends to MLflow.
    """
    from dpot_scale.runs.resolved import identify
    from dpot_scale.runs.run import run_training
    from dpot_scale.tracking import mirror, tracker
    from dpot_scale.training import loop, meter, watch

    spent: list[float] = []  # seconds of each call
    loops: list[float] = []
    own_clock, wall = time.thread_time, time.perf_counter
    with (
        timing(watch.Watch, "vote", wall, spent),
        timing(meter.Meter, "add", wall, spent),
        timing(meter.Meter, "reduce", wall, spent),
        timing(tracker.Tracker, "log", wall, spent),
        timing(mirror._Sender, "_send_new_records", own_clock, spent),
        timing(loop.Trainer, "fit", wall, loops),
    ):
        run_training(identify(overhead_run(folder, 1536)))
    return sum(spent) / loops[0]


@contextlib.contextmanager
def timing(
    owner: type, method: str, clock: Callable[[], float], seconds: list[float]
) -> Iterator[None]:
    """Collect what the calls of a method take."""
    original = getattr(owner, method)

    def timed_call(*args: Any, **options: Any) -> Any:  # noqa: ANN401
        started = clock()
        try:
            return original(*args, **options)
        finally:
            seconds.append(clock() - started)

    setattr(owner, method, timed_call)
    try:
        yield
    finally:
        setattr(owner, method, original)


if __name__ == "__main__":
    main()
