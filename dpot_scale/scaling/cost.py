"""The time of a training step on devices that are named or measured, by formula. No torch here.

A step takes as long as the slowest of computing, sending and the host that launches kernels: ZeRO
sends while the device computes, and the host runs ahead of the device.
"""

from dataclasses import dataclass
from math import inf, prod
from typing import Literal

from dpot_scale.config.run import RunConfig
from dpot_scale.config.strategy import ELEMENT_BYTES, Dtype, Strategy
from dpot_scale.models.families import footprint_of
from dpot_scale.runs.resolved import ResolvedRun

DeviceName = Literal["cpu", "a100", "h100", "h200"]
# Shares of the peak that training has reached (benchmarks/gpu_2026-11.md): DPOT-L on an H100 with
# 25 windows, and compiled with 64.
UTILIZATION, UTILIZATION_COMPILED = 0.20, 0.35
# Milliseconds of the host at most for a block and a micro step, by the ZeRO stage and whether it is
# compiled: whole steps on an H100, of M, and of L at stage 1 not compiled
# (benchmarks/gpu_2026-11.md). Under stage 3 the host was the limit; below, the GPU may have been.
# What a step asks beside its blocks is not counted: Ti, which waits for the host, took 24 to 32 ms
# for its four blocks and the rest (benchmarks/gpu_recipe_2026-11.md).
# Measured for DPOT alone, and taken for every family: their blocks launch about as many kernels.
# Stage 0 is not measured compiled, which asks less of the host, and stage 2 not at all: it is taken
# for stage 1. Recomputing asks more, and is not measured.
HOST_MS_OF_A_BLOCK = {
    (0, False): 2.6,
    (0, True): 2.6,
    (1, False): 3.9,
    (1, True): 3.4,
    (2, False): 3.9,
    (2, True): 3.4,
    (3, False): 12.9,
    (3, True): 7.5,
}
STORED_BYTES = 4  # of a value in a dataset: fp32


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """What one worker computes on, from its data sheet."""

    peak: dict[Dtype, float]  # dense FLOP/s
    utilization: float = UTILIZATION
    utilization_compiled: float = UTILIZATION_COMPILED
    gib: float | None  # memory; None: that of the machine
    per_node: float  # devices in a node
    inside: float  # bytes/s of a device to others of its node, one way
    between: float  # bytes/s of a device to other nodes, one way

    @property
    def is_gpu(self) -> bool:
        """Whether it is a card, with memory of its own and kernels that a host launches."""
        return self.gib is not None

    def reached(self, *, compiled: bool) -> float:
        """Return the share of the peak that training reaches."""
        return self.utilization_compiled if compiled else self.utilization


def _gpu(half: float, single: float, gib: float, inside: float, between: float) -> Device:
    peak: dict[Dtype, float] = {"bf16": half, "fp16": half, "fp32": single}
    return Device(peak=peak, gib=gib, per_node=8, inside=inside, between=between)


DEVICES: dict[DeviceName, Device] = {
    # A core of a present server; workers of one machine share its memory.
    "cpu": Device(
        peak=dict.fromkeys(("bf16", "fp16", "fp32"), 1.5e11),
        utilization_compiled=UTILIZATION,
        gib=None,
        per_node=inf,
        inside=inf,
        between=1.25e9,
    ),
    # The SXM cards: NVLink 3 or 4, and one port of 200 or 400 Gb/s per GPU.
    "a100": _gpu(312e12, 19.5e12, 80.0, 300e9, 25e9),
    "h100": _gpu(989e12, 67e12, 79.6, 450e9, 50e9),
    "h200": _gpu(989e12, 67e12, 140.4, 450e9, 50e9),
}
# The network of workers whose kind nobody names.
UNNAMED_CPU: DeviceName = "cpu"
UNNAMED_GPU: DeviceName = "h100"


@dataclass(frozen=True, kw_only=True, slots=True)
class StepCost:
    """Seconds of one optimizer step of a worker."""

    computing: float
    sending: float
    host: float  # launching the kernels of a GPU; 0 on a CPU, which is its own host

    @property
    def seconds(self) -> float:
        """The slowest of them, since they overlap."""
        return max(self.computing, self.sending, self.host)


def step_cost(run: ResolvedRun, device: DeviceName, flops_per_second: float) -> StepCost:
    """Return what a step costs each of the workers.

    Args:
        run: The run on its workers.
        device: What they are.
        flops_per_second: What each of them computes.
    """
    model, engine = run.config.model, run.config.engine
    # All blocks of a family are alike.
    blocks = run.parameters.blocks // footprint_of(model, engine).block
    return StepCost(
        computing=run.step_flops / flops_per_second,
        sending=sending_seconds(
            run.parameters.total,
            engine.deepspeed,
            DEVICES[device],
            world_size=run.world_size,
            accumulation_steps=run.accumulation_steps,
        ),
        host=host_seconds(
            blocks,
            engine.deepspeed,
            DEVICES[device],
            compiled=engine.compile,
            accumulation_steps=run.accumulation_steps,
        ),
    )


def host_seconds(
    blocks: int,
    strategy: Strategy,
    device: Device,
    *,
    compiled: bool,
    accumulation_steps: int = 1,
) -> float:
    """Return how long the host launches the kernels of one optimizer step; 0 on a CPU.

    Args:
        blocks: Of the model.
        strategy: How it is sharded.
        device: What the workers are.
        compiled: Whether the blocks are.
        accumulation_steps: Micro-batches per step.
    """
    if not device.is_gpu:
        return 0.0
    of_a_block = HOST_MS_OF_A_BLOCK[strategy.stage, compiled] / 1e3
    return of_a_block * blocks * accumulation_steps


def sending_seconds(
    parameters: int,
    strategy: Strategy,
    device: Device,
    *,
    world_size: int,
    accumulation_steps: int = 1,
) -> float:
    """Return how long the messages of one optimizer step take, if nothing hides them.

    Args:
        parameters: Of the model.
        strategy: How it is sharded.
        device: What the workers are.
        world_size: Their number.
        accumulation_steps: Micro-batches per step.
    """
    bandwidth = device.inside if world_size <= device.per_node else device.between
    sent = sent_bytes(
        parameters, strategy, world_size=world_size, accumulation_steps=accumulation_steps
    )
    return sent / bandwidth


def sent_bytes(
    parameters: int, strategy: Strategy, *, world_size: int, accumulation_steps: int = 1
) -> float:
    """Return the bytes that each worker sends in one optimizer step.

    Stage 3 gathers the parameters for each forward and each backward, and stages 2 and 3 add up the
    gradients after each backward; the others do so once per step (Rajbhandari et al., ZeRO, 2020).

    Args:
        parameters: Of the model.
        strategy: How it is sharded.
        world_size: The number of workers.
        accumulation_steps: Micro-batches per step.
    """
    element, stage = ELEMENT_BYTES[strategy.dtype], strategy.stage
    # Summed over the ranks in fp32, or in what the strategy names.
    gradient = max(ELEMENT_BYTES[strategy.gradient_dtype], ELEMENT_BYTES[strategy.reduce_dtype])
    per_parameter = {
        0: 2 * gradient,
        1: gradient + element,
        2: accumulation_steps * gradient + element,
        3: accumulation_steps * (2 * element + gradient),
    }[stage]
    return per_parameter * parameters * (world_size - 1) / world_size


def window_bytes(run: RunConfig) -> int:
    """Return the bytes of a training window as they are read, on the grid of the model."""
    model = run.model
    return STORED_BYTES * run.window_frames * model.channels * prod(model.space)


def assumed_speed(run: ResolvedRun, device: DeviceName) -> float:
    """Return the FLOP/s of a device by its data sheet and the share that training reached."""
    engine = run.config.engine
    found = DEVICES[device]
    return found.reached(compiled=engine.compile) * found.peak[engine.deepspeed.dtype]
