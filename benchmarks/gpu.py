"""How fast is an optimizer step on a GPU, how near to its ceiling, and in how much memory?

Every row is a whole step: forward, backward and Adam, with the whole model on one GPU. MFU counts
the FLOPs of the folded algebra, without what recomputation repeats, over a product of two matrices
measured in the same run and precision. The public implementation (a checkout is given by
--reference) is timed as it is shipped, in fp32 with torch's Adam, beside each size.

    python benchmarks/gpu.py --reference PATH [--sizes Ti S M L H] [--batch N]
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import torch
from model_step import example, loss, reference_model, theirs

from dpot_scale.config.schema import (
    BatchConfig,
    DataConfig,
    EngineConfig,
    ModelConfig,
    RunConfig,
)
from dpot_scale.engine.runtime import World, start_world
from dpot_scale.engine.zero import ZeroEngine
from dpot_scale.model.cost import TRAIN_PASSES, executed_forward_flops
from dpot_scale.model.sizes import architecture

GIB = 2**30
BATCHES = {"Ti": 64, "S": 32, "M": 16, "L": 8, "H": 4}
CEILING_SIZE = 8192  # of square matrices
WARMUP_STEPS, TIMED_STEPS = 5, 20


@dataclass(frozen=True)
class Variant:
    """A way to compute a step."""

    name: str
    strategy: str  # in deepspeed_configs/
    dtype: torch.dtype
    tf32: bool = False
    compile: bool = False


VARIANTS = (
    Variant("fp32", "zero0_fp32", torch.float32),
    Variant("tf32", "zero0_fp32", torch.float32, tf32=True),
    Variant("bf16", "zero1_bf16", torch.bfloat16),
    Variant("bf16, compiled", "zero1_bf16", torch.bfloat16, compile=True),
)


@dataclass(frozen=True)
class Measured:
    """A step."""

    seconds: float
    peak_bytes: int


def main() -> int:
    """Print the ceilings and the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--reference", type=Path, required=True, help="folder of models/dpot.py")
    parser.add_argument("--sizes", nargs="+", choices=BATCHES, default=list(BATCHES))
    parser.add_argument("--batch", type=int, help=f"windows; default {BATCHES}")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("error: this benchmark needs a CUDA device; model_step.py is for CPUs")
        return 2
    sys.path.insert(0, str(args.reference))
    world = start_world()
    name = torch.cuda.get_device_name(world.device)
    print(f"{name}, torch {torch.__version__}, CUDA {torch.version.cuda}")
    ceilings = {}
    for variant in VARIANTS:
        with precision(variant):
            ceilings[variant.name] = ceiling(variant.dtype, world.device)
        print(f"ceiling in {variant.name}: {ceilings[variant.name] / 1e12:.0f} TFLOP/s")

    print("\n| size | batch | precision | recompute | ms | windows/s | MFU | GiB | reference ms |")
    print("|---|--:|---|---|--:|--:|--:|--:|--:|")
    for size in args.sizes:
        batch = args.batch or BATCHES[size]
        reference = attempt(partial(reference_step, size, batch, world))
        for variant, recompute in product(VARIANTS, (False, True)):
            ours = attempt(partial(our_step, size, batch, variant, recompute, world))
            print(row(size, batch, variant, recompute, ours, reference, ceilings), flush=True)
    return 0


def row(
    size: str,
    batch: int,
    variant: Variant,
    recompute: bool,
    ours: Measured | None,
    reference: Measured | None,
    ceilings: dict[str, float],
) -> str:
    """Return a row of the table."""
    start = f"| {size} | {batch} | {variant.name} | {'full' if recompute else 'none'} "
    if ours is None:
        return start + "| out of memory | | | | |"
    arch = architecture(ModelConfig.model_validate({"size": size}))
    rate = TRAIN_PASSES * executed_forward_flops(arch, batch) / ours.seconds
    return start + (
        f"| {1e3 * ours.seconds:.1f} | {batch / ours.seconds:.0f} "
        f"| {rate / ceilings[variant.name]:.0%} | {ours.peak_bytes / GIB:.1f} "
        f"| {compared(ours, reference)} |"
    )


def compared(ours: Measured, reference: Measured | None) -> str:
    """Return the time of the reference, and how many times as long it takes."""
    if reference is None:
        return "out of memory"
    return f"{1e3 * reference.seconds:.1f} ({reference.seconds / ours.seconds:.1f}x)"


def our_step(size: str, batch: int, variant: Variant, recompute: bool, world: World) -> Measured:
    """Measure the step of this project, on one rank."""
    config = RunConfig(
        name="benchmark",
        windows=batch * (WARMUP_STEPS + TIMED_STEPS),
        model=ModelConfig.model_validate({"size": size}),
        data=DataConfig(weights={"unused": 1}),
        batch=BatchConfig(global_batch=batch, micro_batch=batch),
        engine=EngineConfig(
            deepspeed=variant.strategy,
            activation_checkpointing="full" if recompute else "none",
            compile=variant.compile,
        ),
    )
    with precision(variant):
        engine = ZeroEngine(config, world)
        frames = example(architecture(config.model), batch).to(world.device)

        def step() -> None:
            engine.backward(loss(engine(frames)))
            engine.step(0)

        return measured(step)


def reference_step(size: str, batch: int, world: World) -> Measured:
    """Measure the step of the public implementation."""
    arch = architecture(ModelConfig.model_validate({"size": size}))
    model = reference_model(arch).to(world.device)
    adam = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-6)
    frames = theirs(example(arch, batch)).to(world.device)

    def step() -> None:
        adam.zero_grad()
        loss(model(frames)).backward()
        adam.step()

    return measured(step)


def measured(step: Callable[[], object]) -> Measured:
    """Time a step, without a wait for the device between repeats."""
    for _ in range(WARMUP_STEPS):
        step()
    torch.cuda.reset_peak_memory_stats()
    return Measured(seconds_each(step), torch.cuda.max_memory_allocated())


def seconds_each(work: Callable[[], object]) -> float:
    """Return the seconds of one repeat on the device."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(TIMED_STEPS):
        work()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / 1e3 / TIMED_STEPS


def ceiling(dtype: torch.dtype, device: torch.device) -> float:
    """Return the FLOP/s of a product of two large matrices."""
    left, right = (torch.randn(CEILING_SIZE, CEILING_SIZE, device=device).to(dtype) for _ in "ab")
    left @ right
    return 2.0 * CEILING_SIZE**3 / seconds_each(lambda: left @ right)


def attempt(work: Callable[[], Measured]) -> Measured | None:
    """Return what was measured, or None if the memory is too small for it."""
    try:
        return work()
    except torch.OutOfMemoryError:
        return None
    finally:
        torch._dynamo.reset()  # compiled code would keep the model
        torch.cuda.empty_cache()


@contextmanager
def precision(variant: Variant) -> Iterator[None]:
    """Allow products of fp32 matrices in tf32, or not."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if variant.tf32 else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


if __name__ == "__main__":
    sys.exit(main())
