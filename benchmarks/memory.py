"""How much memory does training take, beside the estimate that plans and headers print?

Each row is trained for three steps on random windows by fresh processes, as a high-water mark
never falls. What is measured is the sum of their peaks: resident memory, or allocated GPU memory.
The last column is the fastest step of the first process: in CPU seconds, which leave out the time
that other programs take, or on a GPU by the clock on the wall.

    python benchmarks/memory.py [--sizes Ti S M vit fno] [--strategies NAME ...]
        [--recompute NAME ...] [--optimizers adam muon]
"""

import argparse
import os
import socket
import time
from itertools import product

import torch
from torch import multiprocessing

from dpot_scale.config.batch import BatchConfig
from dpot_scale.config.data import DataConfig
from dpot_scale.config.engine import EngineConfig
from dpot_scale.config.model import FAMILIES, config_class
from dpot_scale.config.optim import OptimConfig
from dpot_scale.config.run import RunConfig
from dpot_scale.config.strategy import read_strategy
from dpot_scale.engine.engine import Rates
from dpot_scale.engine.memory import GIB, estimate_memory
from dpot_scale.engine.runtime import start_world
from dpot_scale.engine.start import start_engine
from dpot_scale.runs import run  # noqa: F401 - what a training has loaded takes memory, too
from dpot_scale.training.meter import peak_memory_gib

STEPS = 3
RATES = Rates(lr=1e-3, betas=(0.9, 0.9), muon_lr=0.02)
# Windows per rank: of the sizes of DPOT, and of the other families as they are by default.
WINDOWS = {"debug": 1, "Ti": 4, "S": 4, "M": 2, "L": 1, "H": 1, "vit": 4, "fno": 4}
STRATEGIES = ["zero0_fp32", "zero1_bf16", "zero2_bf16", "zero3_bf16", "zero3_bf16_lean"]
# Name -> options of the engine.
RECOMPUTE: dict[str, dict[str, object]] = {
    "none": {},
    "selective": {"activation_checkpointing": "selective"},
    "every_k": {"activation_checkpointing": "every_k"},
    "full": {"activation_checkpointing": "full"},
    "fairscale": {"activation_checkpointing": "full", "recompute_backend": "fairscale"},
    "fairscale_offload": {
        "activation_checkpointing": "full",
        "recompute_backend": "fairscale",
        "recompute_offload": True,
    },
    "compiled": {"compile": True},
    "compiled_full": {"compile": True, "activation_checkpointing": "full"},
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", nargs="+", choices=WINDOWS, default=["Ti", "S", "M"])
    parser.add_argument("--strategies", nargs="+", default=STRATEGIES)
    parser.add_argument("--recompute", nargs="+", choices=RECOMPUTE, default=["none", "full"])
    parser.add_argument("--optimizers", nargs="+", choices=["adam", "muon"], default=["adam"])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--windows", type=int, help=f"per rank; default {WINDOWS}")
    args = parser.parse_args()
    print("| size | windows | strategy | recompute | optimizer | GiB | estimate | error | step s |")
    print("|---|--:|---|---|---|--:|--:|--:|--:|", flush=True)
    for size, strategy, recompute, optimizer in product(
        args.sizes, args.strategies, args.recompute, args.optimizers
    ):
        windows = args.windows or WINDOWS[size]
        config = run_config(size, strategy, recompute, optimizer, windows, args.ranks)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        multiprocessing.spawn(measure, (args.ranks, port, config), nprocs=args.ranks)


def run_config(
    size: str, strategy: str, recompute: str, optimizer: str, windows: int, ranks: int
) -> RunConfig:
    """Return a run of three steps."""
    batch = windows * ranks
    described = {"family": size} if size in FAMILIES else {"size": size}
    return RunConfig(
        name=f"{size}_{recompute}",
        windows=batch * STEPS,
        model=config_class(described).model_validate(described),
        data=DataConfig(weights={"unused": 1}),
        optim=OptimConfig.model_validate({"kind": optimizer}),
        batch=BatchConfig(global_batch=batch, micro_batch=windows),
        engine=EngineConfig.model_validate(
            {"deepspeed": read_strategy(strategy), **RECOMPUTE[recompute]}
        ),
    )


def measure(rank: int, ranks: int, port: int, config: RunConfig) -> None:
    """Train one rank; the first prints the row."""
    threads = max(1, len(os.sched_getaffinity(0)) // ranks)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "LOCAL_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": str(threads),
    }
    world = start_world()
    engine = start_engine(config, world)
    model = config.model
    shape = (config.batch.micro_batch, model.history, model.channels, *model.space)
    frames_BTCxy = torch.randn(shape, device=world.device)
    seconds = []
    clock = time.perf_counter if world.device.type == "cuda" else time.process_time
    for _ in range(STEPS):
        started = clock()
        engine.backward(engine(frames_BTCxy).frames.square().mean())
        engine.step(RATES).grad_norm.item()
        seconds.append(clock() - started)
    found = peak_memory_gib(world)
    if world.is_main:
        memory = estimate_memory(
            model,
            config.engine,
            config.optim,
            world_size=ranks,
            micro_batch=config.batch.micro_batch,
            on_gpu=world.device.type == "cuda",
        )
        expected = ranks * memory.total / GIB
        size, _, recompute = config.name.partition("_")
        print(
            f"| {size} | {config.batch.micro_batch} | {config.engine.deepspeed.name} "
            f"| {recompute} | {config.optim.kind} | {found:.2f} | {expected:.2f} "
            f"| {expected / found - 1:+.0%} | {min(seconds):.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
