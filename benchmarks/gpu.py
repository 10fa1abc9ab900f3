"""How fast is an optimizer step on a GPU, how near to its ceiling, and in how much memory?

Every row is a whole step, of noise, forward, loss, backward and optimizer, with the whole model on
one GPU. MFU counts the FLOPs of the folded algebra, without what recomputation repeats and without
Muon's, over a product of two matrices measured in the same run and precision. The public
implementation (a checkout is given by --reference) is timed as it is shipped, in fp32 with torch's
Adam. `--profile` lists the kernels of each row, `--waits` the places where the host waits for the
device.

    python benchmarks/gpu.py [--rows Ti:256 M:64] [--variants bf16 zero3] [--reference PATH]

Without a GPU it runs on the CPU, which only shows that it runs.
"""

import argparse
import gc
import itertools
import statistics
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from model_step import example, loss, reference_model, theirs

from dpot_scale.config.batch import BatchConfig
from dpot_scale.config.data import DataConfig
from dpot_scale.config.engine import EngineConfig
from dpot_scale.config.optim import OptimConfig
from dpot_scale.config.run import ObjectiveConfig, RunConfig
from dpot_scale.config.strategy import read_strategy
from dpot_scale.data.stream.assembly import Batch
from dpot_scale.engine.engine import Rates
from dpot_scale.engine.runtime import World, start_world
from dpot_scale.engine.start import start_engine
from dpot_scale.engine.zero import ZeroEngine
from dpot_scale.models.dpot.config import DPOTConfig
from dpot_scale.models.dpot.cost import executed_forward_flops
from dpot_scale.models.family import TRAIN_PASSES
from dpot_scale.training.noise import Noise
from dpot_scale.training.objective import training_loss

GIB = 2**30
# Windows for which a step takes tens of milliseconds: less says more about the host.
ROWS = ("Ti:256", "S:128", "M:64", "L:64", "H:32")
CEILING_SIZE = 8192  # of square matrices
COPY_BYTES = 2**30
WARMUP_STEPS, TIMED_STEPS = 5, 20
PROFILED_STEPS, WATCHED_STEPS = 3, 2

RATES = Rates(lr=1e-3, betas=(0.9, 0.9), muon_lr=0.02)

Step = Callable[[], object]


@dataclass(frozen=True)
class Variant:
    """A way to compute a step."""

    strategy: str  # in deepspeed_configs/
    dtype: torch.dtype
    tf32: bool = False
    compile: bool = False
    optimizer: Literal["adam", "muon"] = "adam"


VARIANTS = {
    "fp32": Variant("zero0_fp32", torch.float32),
    "tf32": Variant("zero0_fp32", torch.float32, tf32=True),
    "bf16": Variant("zero1_bf16", torch.bfloat16),
    "bf16_compiled": Variant("zero1_bf16", torch.bfloat16, compile=True),
    "muon": Variant("zero1_bf16", torch.bfloat16, optimizer="muon"),
    "muon_compiled": Variant("zero1_bf16", torch.bfloat16, compile=True, optimizer="muon"),
    "zero3": Variant("zero3_bf16", torch.bfloat16),
    "zero3_muon": Variant("zero3_bf16", torch.bfloat16, optimizer="muon"),
    "zero3_compiled": Variant("zero3_bf16", torch.bfloat16, compile=True),
}


@dataclass(frozen=True)
class Measured:
    """A step."""

    seconds: float  # the median
    peak_bytes: int


def main() -> int:
    """Print the ceilings and the table."""
    options = parsed()
    started = time.monotonic()
    if options.reference:
        sys.path.insert(0, str(options.reference))
    world = start_world()
    print(f"{device_name(world.device)}, torch {torch.__version__}, CUDA {torch.version.cuda}")
    ceilings = print_ceilings(world.device, options.ceiling_size, options.variants)
    print("\n| size | batch | variant | recompute | ms | windows/s | MFU | GiB |", flush=True)
    print("|---|--:|---|---|--:|--:|--:|--:|")
    for entry in options.rows:
        size, batch = entry.split(":")
        for name in [*options.variants, *(["reference"] if options.reference else [])]:
            start = f"| {size} | {batch} | {name} | {options.recompute} "
            if time.monotonic() - started > options.seconds:
                print(start + "| not measured: the time was up | | | |", flush=True)
                continue
            run = partial(measure, name, size, int(batch), options, world)
            print(start + row(attempt(run), size, int(batch), ceilings.get(name)), flush=True)
    return 0


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", nargs="*", default=ROWS, metavar="SIZE:BATCH")
    parser.add_argument("--variants", nargs="*", choices=VARIANTS, default=["bf16"])
    parser.add_argument("--recompute", choices=["none", "full"], default="none")
    parser.add_argument("--reference", type=Path, help="folder of the public models/dpot.py")
    parser.add_argument("--profile", action="store_true", help="list the kernels of each row")
    parser.add_argument("--waits", action="store_true", help="list where the host waits")
    parser.add_argument("--ceiling-size", type=int, default=CEILING_SIZE)
    parser.add_argument("--seconds", type=float, default=540, help="start no row after so many")
    return parser.parse_args()


def measure(
    name: str, size: str, batch: int, options: argparse.Namespace, world: World
) -> Measured:
    """Measure the step of a variant, or of the public implementation."""
    if name == "reference":
        return measured(reference_step(size, batch, world), world.device)
    variant = VARIANTS[name]
    with precision(variant.tf32):
        engine = start_engine(configured(size, batch, variant, options.recompute), world)
        try:
            step = our_step(engine, batch, world)
            found = measured(step, world.device)
            if options.profile:
                print_profile(step, world.device)
            if options.waits:
                print_waits(step)
        finally:
            free(engine)
    return found


def row(found: Measured | None, size: str, batch: int, ceiling: float | None) -> str:
    """Return the measured part of a row of the table."""
    if found is None:
        return "| out of memory | | | |"
    arch = DPOTConfig.model_validate({"size": size})
    rate = TRAIN_PASSES * executed_forward_flops(arch, batch) / found.seconds
    mfu = f"{rate / ceiling:.0%}" if ceiling else ""
    return (
        f"| {1e3 * found.seconds:.1f} | {batch / found.seconds:.0f} | {mfu} "
        f"| {found.peak_bytes / GIB:.1f} |"
    )


def configured(size: str, batch: int, variant: Variant, recompute: str) -> RunConfig:
    """Return the run of a row."""
    return RunConfig(
        name="benchmark",
        windows=batch * (WARMUP_STEPS + TIMED_STEPS),
        model=DPOTConfig.model_validate({"size": size}),
        data=DataConfig(weights={"unused": 1}),
        optim=OptimConfig(kind=variant.optimizer),
        batch=BatchConfig(global_batch=batch, micro_batch=batch),
        engine=EngineConfig.model_validate(
            {
                "deepspeed": read_strategy(variant.strategy),
                "activation_checkpointing": recompute,
                "compile": variant.compile,
            }
        ),
    )


def our_step(engine: ZeroEngine, windows: int, world: World) -> Step:
    """Return a step of this project on random windows."""
    model = engine.config.model
    frames = model.history + model.horizon
    batch = Batch(
        frames_BTCxy=torch.randn(
            windows, frames, model.channels, model.grid, model.grid, device=world.device
        ),
        scored_BC=torch.ones(windows, model.channels, dtype=torch.bool, device=world.device),
        positions=tuple(range(windows)),
    )
    noise = Noise(0, world.device)

    def step() -> None:
        engine.backward(training_loss(engine, batch, ObjectiveConfig(), model.history, noise))
        engine.step(RATES)

    return step


def reference_step(size: str, batch: int, world: World) -> Step:
    """Return a step of the public implementation, without noise."""
    arch = DPOTConfig.model_validate({"size": size})
    model = reference_model(arch).to(world.device)
    adam = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-6)
    frames = theirs(example(arch, batch)).to(world.device)

    def step() -> None:
        adam.zero_grad()
        loss(model(frames)).backward()
        adam.step()

    return step


def measured(step: Step, device: torch.device) -> Measured:
    """Time a step, without a wait for the device between repeats."""
    for _ in range(WARMUP_STEPS):
        step()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = statistics.median(seconds_of_each(step, device))
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    return Measured(seconds, peak)


def seconds_of_each(work: Step, device: torch.device) -> list[float]:
    """Return the seconds on the device of each of some repeats."""
    if device.type == "cpu":
        times = [time.perf_counter()]
        for _ in range(TIMED_STEPS):
            work()
            times.append(time.perf_counter())
        return [end - start for start, end in itertools.pairwise(times)]
    events = [torch.cuda.Event(enable_timing=True) for _ in range(TIMED_STEPS + 1)]
    events[0].record()
    for event in events[1:]:
        work()
        event.record()
    torch.cuda.synchronize()
    return [float(start.elapsed_time(end)) / 1e3 for start, end in itertools.pairwise(events)]


def print_ceilings(device: torch.device, size: int, variants: list[str]) -> dict[str, float]:
    """Print what the device can do; return the FLOP/s of a large product for each variant."""
    ceilings = {}
    for name in variants:
        variant = VARIANTS[name]
        with precision(variant.tf32):
            a, b = (torch.randn(size, size, device=device).to(variant.dtype) for _ in "ab")
            seconds = statistics.median(seconds_of_each(partial(torch.mm, a, b), device))
        ceilings[name] = 2.0 * size**3 / seconds
        print(f"result: ceiling in {name}: {ceilings[name] / 1e12:.1f} TFLOP/s", flush=True)
    if device.type == "cuda":
        there = torch.empty(COPY_BYTES, dtype=torch.uint8, device=device)
        pinned = torch.empty(COPY_BYTES, dtype=torch.uint8, pin_memory=True)
        for name, source, passes in (("on the device", there.clone(), 2), ("to it", pinned, 1)):
            copy = partial(there.copy_, source, non_blocking=True)
            rate = passes * COPY_BYTES / statistics.median(seconds_of_each(copy, device))
            print(f"result: copies {name}: {rate / 1e9:.0f} GB/s", flush=True)
    return ceilings


def print_profile(step: Step, device: torch.device) -> None:
    """Print the kernels of a step, how many there are, and how busy they keep the device."""
    from torch.profiler import ProfilerActivity, profile

    def kernel_time(event: torch.autograd.profiler_util.FunctionEvent) -> float:
        return float(event.device_time_total)

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        begun = time.perf_counter()
        for _ in range(PROFILED_STEPS):
            step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - begun
    kernels = [e for e in profiler.events() or [] if "CUDA" in str(e.device_type)]
    busy = sum(kernel_time(kernel) for kernel in kernels) / 1e6
    print(
        f"\nresult: {len(kernels) / PROFILED_STEPS:.0f} kernels a step, which keep the device busy "
        f"for {busy / seconds:.0%} of {1e3 * seconds / PROFILED_STEPS:.1f} ms under the profiler"
    )
    order = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    averages = profiler.key_averages()
    print(averages.table(sort_by=order, row_limit=40, max_name_column_width=80))


def print_waits(step: Step) -> None:
    """Print where the host waits for the device, and how often in a step."""
    if not torch.cuda.is_available():
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        for _ in range(WATCHED_STEPS):
            step()
        torch.cuda.set_sync_debug_mode("default")
    places = Counter(
        f"{warning.filename}:{warning.lineno}"
        for warning in caught
        if "synchronizing" in str(warning.message)
    )
    print(f"\nresult: the host waits {places.total() / WATCHED_STEPS:.0f} times in a step")
    for place, count in places.most_common():
        print(f"  {count / WATCHED_STEPS:g} at {place}")


def attempt(work: Callable[[], Measured]) -> Measured | None:
    """Return what was measured, or None if the memory is too small for it."""
    try:
        return work()
    except torch.OutOfMemoryError:
        return None
    finally:
        torch._dynamo.reset()  # compiled code would keep the model
        gc.collect()  # engines are cycles
        torch.cuda.empty_cache()


def free(engine: ZeroEngine) -> None:
    """Give back what DeepSpeed keeps of an engine that nobody uses any more."""
    from deepspeed.runtime.zero.parameter_offload import FWD_MODULE_STACK

    engine._engine.destroy()
    FWD_MODULE_STACK.clear()


def device_name(device: torch.device) -> str:
    """Return the name of the card."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


@contextmanager
def precision(tf32: bool) -> Iterator[None]:
    """Allow products of fp32 matrices in tf32, or not."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


if __name__ == "__main__":
    sys.exit(main())
