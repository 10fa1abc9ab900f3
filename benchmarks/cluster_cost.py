"""What would DPOT-L and DPOT-H cost on a cluster of H100s? By formula: nothing is measured here.

python benchmarks/cluster_cost.py [--mfu 0.4] [--price 2.5]

step time = max(computation, communication, host), because these overlap
computation = windows per GPU x train FLOPs per window / (MFU x peak)
communication = 6 bytes per parameter / bandwidth: one gather in bf16, one reduction in fp32
host = blocks x what launching the kernels of one took, measured on an H100 and compiled

`python -m dpot_scale.sweep plan --device h100` prices trials by the same formula.
"""

import argparse
from typing import Literal

from dpot_scale.config.engine import EngineConfig
from dpot_scale.config.optim import OptimConfig
from dpot_scale.config.strategy import read_strategy
from dpot_scale.engine.memory import GIB, estimate_memory
from dpot_scale.models.dpot.config import DPOTConfig
from dpot_scale.models.dpot.cost import count_flops, count_parameters
from dpot_scale.models.family import KEEP_ALL
from dpot_scale.scaling.cost import DEVICES, host_seconds, sending_seconds

DEVICE = DEVICES["h100"]
STRATEGY = read_strategy("zero1_bf16")
MICRO_BATCH = 25  # the published one of L: 200 windows on 8 GPUs
WINDOWS = 127_900_000  # of the published training of L: 1000 epochs


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--mfu", type=float, default=0.4, help="share of the peak; default 0.4")
    parser.add_argument("--price", type=float, default=2.5, help="of a GPU hour; default 2.5")
    args = parser.parse_args()
    print("| size | GPUs | batch | computing ms | sending ms | host ms | step ms | GiB/GPU "
          "| hours | cost |")  # fmt: skip
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
    for size in ("L", "H"):
        for gpus in (8, 64, 512):
            print(row(size, gpus, args.mfu, args.price))


def row(size: Literal["L", "H"], gpus: int, mfu: float, price: float) -> str:
    """Return the row of a size on a cluster."""
    arch = DPOTConfig(size=size)
    flops = MICRO_BATCH * count_flops(arch, KEEP_ALL).computed
    computation = flops / (mfu * DEVICE.peak["bf16"])
    communication = sending_seconds(count_parameters(arch).total, STRATEGY, DEVICE, world_size=gpus)
    host = host_seconds(arch.depth, STRATEGY, DEVICE, compiled=True)
    step = max(computation, communication, host)
    memory = estimate_memory(
        arch,
        EngineConfig(deepspeed=STRATEGY, activation_checkpointing="none", compile=True),
        OptimConfig(),
        world_size=gpus,
        micro_batch=MICRO_BATCH,
        on_gpu=True,
    )
    batch = MICRO_BATCH * gpus
    hours = WINDOWS / batch * step / 3600
    return (
        f"| {size} | {gpus} | {batch:,} | {1e3 * computation:.0f} | {1e3 * communication:.0f} "
        f"| {1e3 * host:.0f} | {1e3 * step:.0f} | {memory.total / GIB:.1f} | {hours:.2g} "
        f"| {hours * gpus * price:,.0f} |"
    )


if __name__ == "__main__":
    main()
