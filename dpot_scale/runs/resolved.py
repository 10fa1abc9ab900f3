"""A run with all that follows from its config, found once and without torch.

`identify` says which run a config describes. `resolve` adds what depends on the workers: how
DeepSpeed shards it, and its price.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dpot_scale.config.identity import Contents, identity
from dpot_scale.config.model import Points
from dpot_scale.config.run import RunConfig
from dpot_scale.config.strategy import Json
from dpot_scale.data.grids import seen_shares
from dpot_scale.engine.memory import MemoryEstimate, estimate_memory
from dpot_scale.engine.strategy import effective_deepspeed_config
from dpot_scale.engine.update import update_flops
from dpot_scale.errors import ConfigError
from dpot_scale.models.families import family_of
from dpot_scale.models.family import Flops, ParameterCount, Recompute
from dpot_scale.runs.contents import read_contents


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A run and its identity."""

    config: RunConfig
    contents: Contents
    identity: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolvedRun:
    """A run on so many workers of a kind, with a number for its micro-batch."""

    source: Run  # as its config says
    config: RunConfig  # that of the run, its micro-batch settled
    world_size: int
    on_gpu: bool
    deepspeed: Json  # the complete config that DeepSpeed gets
    accumulation_steps: int  # micro-batches per step and worker
    parameters: ParameterCount
    flops: Flops  # of the model for one window, a mean over the grids of the datasets
    update_flops: float  # of the products of one update of the optimizer, over all workers
    memory: MemoryEstimate  # of one worker

    @property
    def train_flops(self) -> float:
        """FLOPs of the whole training: those of the model, and those of the updates."""
        return self.config.windows * self.flops.training + self.all_update_flops

    @property
    def all_update_flops(self) -> float:
        """FLOPs of all updates of the optimizer."""
        return self.config.steps * self.update_flops

    @property
    def train_flops_per_window(self) -> float:
        """FLOPs of the training, per window."""
        return self.train_flops / self.config.windows

    @property
    def step_flops(self) -> float:
        """FLOPs that each worker computes in a step, those of recomputed blocks among them.

        At stage 0 every worker updates all parameters; else each updates its share.
        """
        of_model = self.config.batch.global_batch * self.flops.computed / self.world_size
        shares = self.world_size if self.config.engine.deepspeed.stage else 1
        return of_model + self.update_flops / shares


def identify(config: RunConfig, recorded_in: Path | None = None) -> Run:
    """Return which run a config describes.

    Args:
        config: With absolute paths.
        recorded_in: The folder that remembers what was read before; None for that of the run.

    Raises:
        DataError: the index of a dataset cannot be read.
    """
    contents = read_contents(config, recorded_in or config.directory)
    return Run(config=config, contents=contents, identity=identity(config, contents))


def resolve(run: Run, *, world_size: int, on_gpu: bool, micro_batch: int = 1) -> ResolvedRun:
    """Return a run with all that follows from it.

    Args:
        run: The run.
        world_size: Its workers.
        on_gpu: Whether each of them has a GPU.
        micro_batch: Windows per worker per forward where the config says `auto`.

    Raises:
        ConfigError: the batch does not divide among the workers, the strategy lacks something, or
            the optimizer does not suit the family.
    """
    config = run.config
    if config.batch.micro_batch == "auto":
        config.batch.require_share(world_size)
        config = config.with_micro_batch(micro_batch)
    model, family = config.model, family_of(config.model)
    shares = seen_shares(model, config.data, run.contents.stored)
    if config.optim.kind == "muon" and not family.matrices:
        raise ConfigError(
            f"optim.kind=muon updates matrices, and the family {model.family} names none: set "
            "optim.kind=adam"
        )
    if config.start.adapter is not None and not family.matrices:
        raise ConfigError(
            f"start.adapter adds to matrices, and the family {model.family} names none: set it to "
            "null"
        )
    return ResolvedRun(
        source=run,
        config=config,
        world_size=world_size,
        on_gpu=on_gpu,
        deepspeed=effective_deepspeed_config(config, world_size, on_gpu=on_gpu),
        accumulation_steps=config.batch.accumulation_steps(world_size),
        parameters=family.parameters(model),
        flops=_mean_flops(config, shares),
        update_flops=update_flops(model, config.optim, config.start),
        memory=estimate_memory(
            model,
            config.engine,
            config.optim,
            world_size=world_size,
            micro_batch=config.batch.settled_micro_batch,
            on_gpu=on_gpu,
            spaces=tuple(shares),
            start=config.start,
        ),
    )


def require_trainable(run: ResolvedRun) -> None:
    """Make sure that the workers of a run can train as it says: an older one may be read only.

    Raises:
        ConfigError: they cannot compute in its precision, or its state would lie on a disk.
    """
    strategy = run.config.engine.deepspeed
    if "nvme" in (strategy.optimizer_device, strategy.parameter_device):
        raise ConfigError(
            f"engine.deepspeed={strategy.name} keeps training state on a disk (device: nvme), "
            "where DeepSpeed 0.19 computes wrong gradients and resumes without moments; use cpu, "
            "as zero3_bf16_offload does"
        )
    if strategy.dtype == "fp16" and not run.on_gpu:
        raise ConfigError(
            f"engine.deepspeed={strategy.name} computes in fp16, which DeepSpeed does on "
            "GPUs only; choose a bf16 or fp32 one"
        )


def _mean_flops(config: RunConfig, shares: Mapping[Points, float]) -> Flops:
    """Return the FLOPs of one window, a mean over those of each grid."""
    family, recompute = family_of(config.model), Recompute.of(config.engine)
    found = [
        (share, family.flops(config.model.on(grid), recompute)) for grid, share in shares.items()
    ]
    return Flops(
        forward=sum(share * flops.forward for share, flops in found),
        recomputed=sum(share * flops.recomputed for share, flops in found),
    )
