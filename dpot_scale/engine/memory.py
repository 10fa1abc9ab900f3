"""The memory of one rank, in bytes, by formula. No torch here, so plans stay cheap."""

from collections.abc import Sequence
from dataclasses import dataclass

from dpot_scale.config.engine import EngineConfig
from dpot_scale.config.model import ModelConfig, Points
from dpot_scale.config.optim import OptimConfig
from dpot_scale.config.start import StartConfig
from dpot_scale.config.strategy import ELEMENT_BYTES, Dtype, Strategy
from dpot_scale.engine.buffers import Buffers, fit_buffers
from dpot_scale.models.families import adapter_parameters, footprint_of, trained_parameters
from dpot_scale.models.family import BLOCKS, Footprint

FP32 = 4
ALL_TRAINS = StartConfig()
MIB = 2**20
GIB = 2**30
# Resident memory of a process that has trained a tiny model: interpreter and libraries (measured on
# CPU, torch 2.13, DeepSpeed 0.19.8), and the kernels that oneDNN compiles for bf16. A CUDA context
# takes about as much.
PROCESS = 500 * MIB
KERNELS: dict[Dtype, int] = {"fp32": 0, "bf16": 70 * MIB, "fp16": 70 * MIB}
# Matrices that there are at a time while one of them is made orthogonal.
MATRICES_PASSING = 5
# What the C library keeps of freed blocks (engine/heap.py): always; for each byte that a forward
# keeps for its backward; for each byte of a parameter, below stage 3 and under it, where parameters
# come and go. Fitted to the rows of benchmarks/memory_2026-11.md.
HOLES = 30 * MIB
ACTIVATION_HOLES, PARAMETER_HOLES = 0.3, 1.0
ACTIVATION_HOLES_3, PARAMETER_HOLES_3 = 0.7, 2.4


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryEstimate:
    """Bytes per rank, part by part, at the peak of a step."""

    process: int  # interpreter, libraries, device context
    parameters: int  # the shard, or all of them, in the compute dtype
    masters: int  # fp32
    moments: int  # Adam's two, of matrices Muon's one, fp32
    gradients: int  # between micro steps
    buffers: int  # allocated once, for gradients under reduction
    activations: int  # what a forward keeps for its backward
    passing: int  # what comes on top of these at the moment that needs the most
    holes: int  # freed and not returned to the system, on CPU
    offloaded: int  # of the state, kept elsewhere: not part of the total

    @property
    def total(self) -> int:
        """Bytes on the device of one rank; on CPU, of its process."""
        working = self.buffers + self.activations + self.passing + self.holes
        return self.process + self.state - self.offloaded + working

    @property
    def state(self) -> int:
        """Bytes that last from step to step."""
        return self.parameters + self.masters + self.moments + self.gradients

    def describe(self) -> str:
        """Return one line for the header of a run."""
        elsewhere = f", {self.offloaded / GIB:.2f} GiB of it elsewhere" if self.offloaded else ""
        holes = f", heap {self.holes / GIB:.2f}" if self.holes else ""
        return (
            f"{self.total / GIB:.2f} GiB per worker: state {self.state / GIB:.2f}{elsewhere}, "
            f"activations {self.activations / GIB:.2f}, buffers "
            f"{(self.buffers + self.passing) / GIB:.2f}{holes}, process {self.process / GIB:.2f}"
        )


def estimate_memory(
    model: ModelConfig,
    engine: EngineConfig,
    optim: OptimConfig,
    *,
    world_size: int,
    micro_batch: int,
    on_gpu: bool = False,
    spaces: Sequence[Points] = (),
    start: StartConfig = ALL_TRAINS,
) -> MemoryEstimate:
    """Return the estimated memory of one rank.

    Args:
        model: The model.
        engine: How it is sharded and recomputed.
        optim: What is kept for each parameter.
        world_size: Ranks the state is spread over.
        micro_batch: Windows per forward.
        on_gpu: Decides the sizes of buffers, and whether the host is somewhere else.
        spaces: The grids of the frames, the largest of which counts; none: that of the model.
        start: Says which parameters train: only those have masters, moments and gradients.
    """
    strategy = engine.deepspeed
    footprint = footprint_of(model, engine)
    matrices = footprint.matrices if optim.kind == "muon" and start.rate(BLOCKS) else 0
    trained = trained_parameters(model, start)
    parameters = footprint.parameters + adapter_parameters(model, start)
    state = _state(parameters, trained, matrices, strategy, world_size)
    sizes = fit_buffers(footprint, on_gpu=on_gpu)
    models = [model.on(space) for space in spaces] or [model]
    per_window = max(footprint_of(seen, engine).per_window for seen in models)
    activations = micro_batch * per_window + footprint.fixed
    return MemoryEstimate(
        process=PROCESS + KERNELS[strategy.dtype],
        **state,
        buffers=_buffers(strategy, sizes),
        activations=activations,
        passing=_passing(footprint, trained, matrices, strategy, sizes, world_size, activations),
        holes=0 if on_gpu or strategy.lean else _holes(footprint.parameters, strategy, activations),
        offloaded=_offloaded(state, strategy, on_gpu=on_gpu),
    )


def _state(
    parameters: int, trained: int, matrices: int, strategy: Strategy, world_size: int
) -> dict[str, int]:
    """Return the bytes that last.

    Args:
        parameters: All parameters.
        trained: Those that train.
        matrices: Those that Muon updates.
        strategy: How they are sharded.
        world_size: Over how many ranks.
    """
    held = -(-parameters // world_size)
    share, others = -(-trained // world_size), -(-(trained - matrices) // world_size)
    stage, compute = strategy.stage, ELEMENT_BYTES[strategy.dtype]
    return {
        "parameters": compute * (held if stage == 3 else parameters),
        "masters": FP32 * share if stage else 0,  # stage 0 updates the parameters themselves
        "moments": FP32 * (share + others if stage else 2 * trained - matrices),
        "gradients": ELEMENT_BYTES[strategy.gradient_dtype] * (share if stage >= 2 else trained),
    }


def _buffers(strategy: Strategy, sizes: Buffers) -> int:
    """Return the flat fp32 buffers that gradients are copied into before they are reduced."""
    if _reduces_all_at_once(strategy):
        return 0
    # With overlapping communication stages 1 and 2 fill one while the other is sent.
    return FP32 * sizes.chunk * (1 if strategy.stage == 3 else 2)


def _reduces_all_at_once(strategy: Strategy) -> bool:
    """Return whether DeepSpeed flattens all gradients to reduce them.

    It does so at stage 0, and at stage 1 where bf16 gradients add up in fp32.
    """
    precisions = (strategy.dtype, strategy.gradient_dtype)
    return strategy.stage == 0 or (strategy.stage == 1 and precisions == ("bf16", "fp32"))


def _passing(
    footprint: Footprint,
    trained: int,
    matrices: int,
    strategy: Strategy,
    sizes: Buffers,
    world_size: int,
    activations: int,
) -> int:
    """Return the transient bytes at the peak of a step, besides its activations."""
    share = -(-trained // world_size)
    compute, gradient = ELEMENT_BYTES[strategy.dtype], ELEMENT_BYTES[strategy.gradient_dtype]
    if strategy.stage == 3:
        # Gathered parameters, and the one buffer out of which they are copied.
        in_blocks = compute * (sizes.live + sizes.chunk)
        # A group that is updated together is closed by the parameter that fills it.
        in_update = (gradient + FP32) * (sizes.chunk + footprint.largest_parameter // world_size)
    else:
        in_blocks = 0
        # All gradients, flat, to be reduced; or those of the share, to be applied.
        in_update = FP32 * (trained if _reduces_all_at_once(strategy) else share)
    if matrices:
        in_update += FP32 * (
            MATRICES_PASSING * footprint.block_matrix
            # At stage 3 every matrix is put together: its pieces leave and come.
            + (2 * min(sizes.chunk, matrices // world_size) if strategy.stage == 3 else 0)
        )
    # All but the blocks' activations are still there at the end; none are in the update.
    return max(in_blocks, footprint.end_of_backward - activations, in_update - activations)


def _holes(parameters: int, strategy: Strategy, activations: int) -> int:
    """Return the bytes of the holes that freed blocks leave in a heap that keeps them."""
    weights = ELEMENT_BYTES[strategy.dtype] * parameters
    if strategy.stage == 3:
        return HOLES + int(ACTIVATION_HOLES_3 * activations + PARAMETER_HOLES_3 * weights)
    return HOLES + int(ACTIVATION_HOLES * activations + PARAMETER_HOLES * weights)


def _offloaded(state: dict[str, int], strategy: Strategy, *, on_gpu: bool) -> int:
    """Return the bytes outside the memory of the device; a CPU has no other."""
    if not on_gpu:
        return 0
    optimizer = state["masters"] + state["moments"] + state["gradients"]
    return optimizer * (strategy.optimizer_device == "cpu") + state["parameters"] * (
        strategy.parameter_device == "cpu"
    )
