"""How fast is a forward and backward, and a whole optimizer step, on this CPU?

Each variant is timed in turn with the public implementation of DPOT in fp32 (a checkout of it is
given by --reference) and with a product of two matrices, the ceiling, so that whatever else the
machine does slows them all. Before, the two models are given the same weights and compared. One
thread is timed in CPU seconds, which leave out the time that other processes take; several threads
can only be timed by the clock on the wall, on a machine that does nothing else.

    python benchmarks/model_step.py --reference PATH [--sizes Ti S M L] [--threads 1]
"""

import argparse
import importlib
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from dpot_scale.config.batch import BatchConfig
from dpot_scale.config.data import DataConfig
from dpot_scale.config.engine import EngineConfig
from dpot_scale.config.run import RunConfig
from dpot_scale.config.strategy import read_strategy
from dpot_scale.engine.engine import Rates
from dpot_scale.engine.runtime import World, start_world
from dpot_scale.engine.start import start_engine
from dpot_scale.models.dpot.config import DPOTConfig
from dpot_scale.models.dpot.cost import executed_forward_flops
from dpot_scale.models.dpot.network import DPOT
from dpot_scale.models.family import TRAIN_PASSES

BATCHES = {"Ti": 8, "S": 4, "M": 2, "L": 1}
# Name -> dtype of the parameters, of the Fourier part.
VARIANTS = {
    "fp32": (torch.float32, torch.float32),
    "bf16, spectral fp32": (torch.bfloat16, torch.float32),
    "bf16, spectral bf16": (torch.bfloat16, torch.bfloat16),
}
# Activations of 1024 points times a weight of DPOT-M: a shape that the models run.
CEILING_SHAPE = (1024, 1024, 4096)
# AdamW of a 500M model takes 16 bytes for each parameter, which a laptop may not have.
STEP_SIZES = ("Ti", "S", "M")

RATES = Rates(lr=1e-3, betas=(0.9, 0.9), muon_lr=0.02)

Step = Callable[[], object]


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--reference", type=Path, required=True, help="folder of models/dpot.py")
    parser.add_argument("--sizes", nargs="+", choices=BATCHES, default=list(BATCHES))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--batch", type=int, help=f"windows; default {BATCHES}")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-optimizer", action="store_true", help="omit the second table")
    args = parser.parse_args()
    sys.path.insert(0, str(args.reference))
    world = start_world()
    torch.set_num_threads(args.threads)
    print(f"torch {torch.__version__}, {args.threads} threads, {args.repeats} interleaved repeats")

    print("\n| size | batch | variant | ms | reference ms | ratio | GFLOP/s | of the ceiling |")
    print("|---|--:|---|--:|--:|--:|--:|--:|")
    for size in args.sizes:
        for variant in args.variants:
            print(forward_backward(size, variant, args.batch or BATCHES[size], args.repeats))
    if not args.no_optimizer:
        print("\n| size | batch | strategy | ms | reference and Adam, ms | ratio | windows/s |")
        print("|---|--:|---|--:|--:|--:|--:|")
        for size in [size for size in args.sizes if size in STEP_SIZES]:
            batch = args.batch or BATCHES[size]
            print(optimizer_step(size, batch, args.repeats, world, args.threads))


def forward_backward(size: str, variant: str, batch: int, repeats: int) -> str:
    """Return a row of the first table."""
    arch = DPOTConfig(size=size)
    dtype, spectral_dtype = VARIANTS[variant]
    ours = DPOT(arch, spectral_dtype=spectral_dtype)
    reference = reference_model(arch)
    ours.load_state_dict(reference.state_dict())
    frames = example(arch, batch)
    compare(ours, reference, frames)
    ours = ours.to(dtype)
    run_reference, run_ours = stepper(reference, theirs(frames)), stepper(ours, frames)
    multiply, multiply_flops = matrix_product(dtype)
    times = interleaved([run_ours, run_reference, multiply], repeats)
    flops = TRAIN_PASSES * executed_forward_flops(arch, batch)
    rate, ceiling = flops / min(times[0]), multiply_flops / min(times[2])
    return (
        f"| {size} | {batch} | {variant} | {1e3 * min(times[0]):.0f} | {1e3 * min(times[1]):.0f} "
        f"| {ratio(times)} | {rate / 1e9:.0f} | {rate / ceiling:.0%} of {ceiling / 1e9:.0f} |"
    )


def optimizer_step(size: str, batch: int, repeats: int, world: World, threads: int) -> str:
    """Return a row of the second table: ZeRO-1 on one worker against plain Adam."""
    config = RunConfig(
        name="benchmark",
        windows=batch * (repeats + 1),
        model=DPOTConfig(size=size),
        data=DataConfig(weights={"unused": 1}),
        batch=BatchConfig(global_batch=batch, micro_batch=batch),
        engine=EngineConfig(deepspeed=read_strategy("zero1_bf16"), spectral_dtype="bfloat16"),
    )
    engine = start_engine(config, world)
    arch = config.model
    reference = reference_model(arch)
    adam = torch.optim.Adam(reference.parameters(), lr=1e-3, weight_decay=1e-6)
    frames = example(arch, batch)
    their_frames = theirs(frames)
    torch.set_num_threads(threads)

    def run_ours() -> None:
        engine.backward(loss(engine(frames)))
        engine.step(RATES)

    def run_reference() -> None:
        adam.zero_grad()
        loss(reference(their_frames)).backward()
        adam.step()

    times = interleaved([run_ours, run_reference], repeats)
    return (
        f"| {size} | {batch} | ZeRO-1, bf16 | {1e3 * min(times[0]):.0f} "
        f"| {1e3 * min(times[1]):.0f} | {ratio(times)} | {batch / min(times[0]):.1f} |"
    )


def interleaved(steps: list[Step], repeats: int) -> list[list[float]]:
    """Return the seconds of each step in each repeat, after one that warms up."""
    times: list[list[float]] = [[] for _ in steps]
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    for repeat in range(repeats + 1):
        for step, seconds in zip(steps, times, strict=True):
            start = clock()
            step()
            if repeat:
                seconds.append(clock() - start)
    return times


def ratio(times: list[list[float]]) -> str:
    """Return the ratio of the fastest repeats, and the median one of the pairs."""
    pairs = [reference / ours for ours, reference in zip(times[0], times[1], strict=True)]
    fastest = min(times[1]) / min(times[0])
    return f"{fastest:.2f} (pairs: {statistics.median(pairs):.2f})"


def stepper(model: nn.Module, frames: Tensor) -> Step:
    """Return a forward and backward that leaves no gradient."""

    def step() -> None:
        loss(model(frames)).backward()
        model.zero_grad(set_to_none=True)

    return step


def loss(output: tuple[Tensor, Tensor]) -> Tensor:
    """Return a loss of the forecast; the dataset head is not trained, as in pre-training."""
    return output[0].square().mean()


def matrix_product(dtype: torch.dtype) -> tuple[Step, float]:
    """Return a product of two matrices, and its FLOPs."""
    rows, inner, columns = CEILING_SHAPE
    left, right = torch.randn(rows, inner).to(dtype), torch.randn(columns, inner).to(dtype)
    return lambda: nn.functional.linear(left, right), 2.0 * rows * inner * columns


def example(arch: DPOTConfig, batch: int) -> Tensor:
    """Return frames (B, T, C, x, y)."""
    return torch.randn(batch, arch.history, arch.channels, arch.grid, arch.grid)


def theirs(frames_BTCxy: Tensor) -> Tensor:
    """Return frames in the layout of the public implementation, (B, x, y, T, C)."""
    return frames_BTCxy.permute(0, 3, 4, 1, 2).contiguous()


def reference_model(arch: DPOTConfig) -> nn.Module:
    """Return the public implementation of an architecture, in fp32."""
    model: nn.Module = importlib.import_module("models.dpot").DPOTNet(
        img_size=arch.grid,
        patch_size=arch.patch,
        in_channels=arch.channels,
        out_channels=arch.channels,
        in_timesteps=arch.history,
        out_timesteps=arch.horizon,
        n_blocks=arch.heads,
        embed_dim=arch.width,
        out_layer_dim=arch.out_layer_dim,
        depth=arch.depth,
        modes=arch.modes,
        mlp_ratio=arch.mlp_ratio,
        n_cls=arch.num_datasets,
        normalize=arch.normalize,
        time_agg=arch.time_aggregation,
    )
    return model


def compare(ours: nn.Module, reference: nn.Module, frames: Tensor) -> None:
    """Refuse to time two models that do not compute the same."""
    with torch.no_grad():
        found = theirs(ours(frames[:1]).frames)
        torch.testing.assert_close(found, reference(theirs(frames[:1]))[0], rtol=1e-3, atol=1e-5)


if __name__ == "__main__":
    main()
