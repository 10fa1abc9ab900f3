"""One training run, as a frozen value.

A config touches nothing when it is made: no file, no device, no process group. Unknown keys are
refused. Facts derived from a config are methods or functions of it, never stored beside it.
"""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dpot_scale.config.base import (
    Fraction,
    Int,
    Name,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Section,
    Seed,
)
from dpot_scale.config.data import DataConfig
from dpot_scale.config.model import ModelConfig
from dpot_scale.errors import ConfigError


class ObjectiveConfig(Section):
    """The training loss (PAPER: noise injection, unroll, masked relative L2)."""

    noise: NonNegativeFloat = 5e-4
    # Of what `noise` is a multiple, for each field of a window: of its norm, which grows with the
    # number of points (the paper), or of its standard deviation.
    noise_unit: Literal["norm", "std"] = "norm"
    unroll: PositiveInt = 1
    supervise_padding: bool = False  # the paper supervises the channels filled with ones


class OptimConfig(Section):
    """Adam and its schedule. One-cycle with momentum cycling is the paper's."""

    lr: PositiveFloat = 1e-3
    betas: tuple[Fraction, Fraction] = (0.9, 0.9)
    eps: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 1e-6
    decoupled_weight_decay: bool = False  # True: AdamW; False: Adam with coupled L2, the paper's
    gradient_clipping: NonNegativeFloat = 0.0  # 0 does not clip
    schedule: Literal["one_cycle", "cosine", "warmup_stable_decay"] = "one_cycle"
    warmup_fraction: Fraction = 0.2
    decay_fraction: Fraction = 0.2  # warmup_stable_decay only: the share of steps that decays
    initial_lr_ratio: Fraction = 1e-4  # first lr / peak lr
    final_lr_ratio: Fraction = 1e-8  # last lr / peak lr
    cycle_momentum: bool = False  # one_cycle only: beta1 0.95 -> 0.85 -> 0.95


class BatchConfig(Section):
    """The batch arithmetic: global_batch = micro_batch x world_size x accumulation_steps."""

    global_batch: PositiveInt  # windows per step, over all ranks
    # Windows per rank per forward; auto: as many as fit, found when the run starts.
    micro_batch: PositiveInt | Literal["auto"]

    @property
    def settled_micro_batch(self) -> int:
        """Windows per rank per forward, once they are known."""
        assert self.micro_batch != "auto"
        return self.micro_batch

    def accumulation_steps(self, world_size: int) -> int:
        """Return the micro steps per step.

        Raises:
            ConfigError: the global batch is no multiple of micro_batch x world_size.
        """
        per_micro_step = self.settled_micro_batch * world_size
        steps, rest = divmod(self.global_batch, per_micro_step)
        if rest:
            raise ConfigError(
                f"batch.global_batch={self.global_batch} is not a multiple of "
                f"batch.micro_batch x workers = {self.micro_batch} x {world_size} = "
                f"{per_micro_step}; choose batch.micro_batch so that it divides"
            )
        return steps


class EngineConfig(Section):
    """How the training state is sharded and computed."""

    deepspeed: str = "zero3_bf16"  # a name in deepspeed_configs/ or a path to a JSON file
    nvme_path: Path | None = None  # for a strategy that keeps training state on disk
    # Which blocks recompute their activations in the backward pass instead of keeping them: all,
    # one in `recompute_every`, or all, but not their MLP, which costs the most to repeat.
    activation_checkpointing: Literal["none", "full", "every_k", "selective"] = "none"
    recompute_every: Annotated[Int, Field(ge=2)] = 2  # every_k only
    recompute_backend: Literal["torch", "fairscale"] = "torch"
    recompute_offload: bool = False  # fairscale only: what is kept waits in host memory
    # Of the Fourier part, unless the parameters have a higher precision. bfloat16 changes held-out
    # errors by less than seeds do (benchmarks/spectral_precision.py).
    spectral_dtype: Literal["float32", "bfloat16"] = "bfloat16"
    compile: bool = False  # the blocks, with torch.compile

    @model_validator(mode="after")
    def _recompute_is_possible(self) -> Self:
        if self.recompute_backend == "torch":
            if self.recompute_offload:
                raise ValueError(
                    "recompute_offload=true needs recompute_backend=fairscale: torch keeps what it "
                    "keeps on the device"
                )
            return self
        if self.activation_checkpointing == "selective":
            raise ValueError(
                "activation_checkpointing=selective needs recompute_backend=torch: fairscale "
                "recomputes whole blocks"
            )
        if self.compile:
            raise ValueError(
                "compile=true needs recompute_backend=torch: fairscale replaces the forward of a "
                "block by one that cannot be compiled"
            )
        return self


class EvaluationConfig(Section):
    """Held-out evaluation during and after training."""

    every: NonNegativeInt = 0  # steps between evaluations; 0: only at the end
    trajectories: PositiveInt = 16  # per dataset, the first ones of its test split
    rollout_frames: PositiveInt | None = None  # None: to the end of each trajectory
    batch: PositiveInt = 8  # trajectories per rank per forward


class CheckpointConfig(Section):
    """When the state of the run is committed to disk, besides at its end and when it is stopped."""

    every: NonNegativeInt = 0  # steps between checkpoints; 0: whatever the step
    minutes: NonNegativeFloat = 5.0  # between the end of one and the next; 0: whatever the time
    keep: Annotated[Int, Field(ge=2)] = 2  # the newest may be the one a crash interrupted


class TrackingConfig(Section):
    """Where metrics go. The JSONL spool in the run directory is always written."""

    log_every: PositiveInt = 10  # steps
    mlflow_uri: str | None = None  # None: no mirror; sqlite:///mlflow.db is what `mlflow ui` opens
    experiment: str = "dpot_scale"

    @model_validator(mode="after")
    def _holds_no_secret(self) -> Self:
        """Refuse what would be written into config.yaml, the terminal and MLflow's parameters."""
        uri = self.mlflow_uri or ""
        # Of a server, anything behind an address that could be a secret, even a misspelt one.
        if re.match(r"https?:[^@?#]*[@?#]", uri, re.IGNORECASE):
            raise ValueError(
                "mlflow_uri may be the bare address of a server only, http://HOST:PORT, because "
                "it is saved and shown; put a user name and password into the environment as "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or a token as "
                "MLFLOW_TRACKING_TOKEN"
            )
        database = re.match(r"(?!sqlite)[\w+.-]+:", uri, re.IGNORECASE)
        if database and re.search(r"//[^:/@]*:[^@]*@|[?&;].*(pass|pwd|token|secret)", uri, re.I):
            raise ValueError(
                "mlflow_uri may hold no password, because it is saved and shown; start `mlflow "
                "server --backend-store-uri DATABASE` with the password, and give the http:// "
                "address of that server"
            )
        return self


class RunConfig(Section):
    """One training from its first step to its last."""

    name: Name
    output: Path = Path("runs")  # the run lives in output/name
    seed: Seed = 0
    windows: PositiveInt  # length of the training, in windows
    model: ModelConfig = ModelConfig()
    data: DataConfig
    objective: ObjectiveConfig = ObjectiveConfig()
    optim: OptimConfig = OptimConfig()
    batch: BatchConfig
    engine: EngineConfig = EngineConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    tracking: TrackingConfig = TrackingConfig()
    initialize_from: Path | None = None  # weights file, run or checkpoint; resume needs no option

    @model_validator(mode="after")
    def _windows_fill_batches(self) -> Self:
        global_batch = self.batch.global_batch
        if self.windows % global_batch:
            raise ValueError(
                f"windows={self.windows} is not a multiple of batch.global_batch={global_batch}; "
                f"the nearest that is: {max(1, round(self.windows / global_batch)) * global_batch}"
            )
        return self

    @model_validator(mode="after")
    def _unroll_can_be_recomputed(self) -> Self:
        if self.engine.recompute_backend == "fairscale" and self.objective.unroll > 1:
            raise ValueError(
                f"objective.unroll={self.objective.unroll} needs engine.recompute_backend=torch: "
                "fairscale runs a backward pass of its own for each forward, so a parameter's "
                "gradient would be reduced before it is complete"
            )
        return self

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.windows // self.batch.global_batch

    def with_micro_batch(self, micro_batch: int) -> Self:
        """Return the run with a number of windows per rank per forward."""
        batch = self.batch.model_copy(update={"micro_batch": micro_batch})
        return self.model_copy(update={"batch": batch})

    @property
    def directory(self) -> Path:
        """Where the run keeps everything it writes."""
        return self.output / self.name
