"""The whole vocabulary of a run, a sweep and a generated data suite, as frozen values.

A config touches nothing when it is made: no file, no device, no process group. Unknown keys are
refused. Facts derived from a config are methods or functions of it, never stored beside it.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticKnownError

from dpot_scale.errors import ConfigError


def _no_bool(value: object) -> object:
    """Refuse true and false, which pydantic takes for 1 and 0."""
    if isinstance(value, bool):
        raise PydanticKnownError("float_type")
    return value


def _one_gpu(value: object) -> object:
    """Refuse what a worker has no use for, in a sentence that says what to raise instead."""
    if isinstance(value, int) and value > 1:
        raise ValueError(
            f"a worker drives one GPU, not {value}; raise resources.workers to use more"
        )
    return value


# Not strict: YAML reads 1e-3 as text.
Int = Annotated[int, BeforeValidator(_no_bool)]
Float = Annotated[float, Field(allow_inf_nan=False), BeforeValidator(_no_bool)]
PositiveInt = Annotated[Int, Field(ge=1)]
NonNegativeInt = Annotated[Int, Field(ge=0)]
PositiveFloat = Annotated[Float, Field(gt=0)]
NonNegativeFloat = Annotated[Float, Field(ge=0)]
Fraction = Annotated[Float, Field(ge=0, le=1)]
Seed = Annotated[Int, Field(ge=0, lt=2**31)]  # numpy takes 32 bits, and a rank is added
Name = Annotated[str, Field(pattern=r"^\w[\w.\-]*$")]  # of a folder; never "." or ".."
GpusPerWorker = Annotated[
    Literal["auto", 0, 1], BeforeValidator(_one_gpu), BeforeValidator(_no_bool)
]

STRICT = ConfigDict(extra="forbid")  # about unknown keys

SizeName = Literal["debug", "Ti", "S", "M", "L", "H"]


class Section(BaseModel):
    """Base of every config section: immutable, and strict about unknown keys."""

    # Not null, which would be read as nothing at all.
    model_config = ConfigDict(**STRICT, frozen=True, ser_json_inf_nan="strings")


class ModelConfig(Section):
    """Which DPOT: a named size, each dimension of which can be set apart.

    `model/sizes.py` holds the sizes and turns this into an `Architecture`.
    """

    size: SizeName = "Ti"
    width: PositiveInt | None = None
    depth: PositiveInt | None = None
    heads: PositiveInt | None = None
    mlp_ratio: PositiveInt | None = None
    out_layer_dim: PositiveInt | None = None
    space_dims: Literal[2, 3] = 2
    grid: PositiveInt = 128  # points per axis; every dataset is resized to it
    patch: PositiveInt = 8
    channels: PositiveInt = 4  # fields in and out; datasets with fewer are padded
    history: PositiveInt = 10  # frames in
    horizon: PositiveInt = 1  # frames predicted per forward
    modes: PositiveInt = 32  # Fourier modes kept per axis (3D: 8 at most on the last)
    num_datasets: PositiveInt = 12  # classes of the dataset head
    time_aggregation: Literal["exp_mlp", "mlp"] = "exp_mlp"
    normalize: bool = False


class DataConfig(Section):
    """Which datasets are mixed, and how their windows reach the model."""

    root: Path = Path("data")
    weights: dict[str, PositiveFloat] = Field(min_length=1)  # dataset name -> mixture weight
    suite: str | None = None  # a suite to generate under `root` where its datasets are missing
    # weighted: a weight is a dataset's share of the stream, as the paper says.
    # repeat: how often an epoch has each of its trajectories, as the paper's code does.
    sampling: Literal["weighted", "repeat"] = "weighted"
    strides: tuple[PositiveInt, ...] = Field((1,), min_length=1)  # stored frames per time step
    # dataset: the model sees fields less their mean, over their standard deviation in the training
    # split. Forecasts, losses and scores stay in physical units.
    normalize: Literal["none", "dataset"] = "none"
    mask_points: bool = False  # points inside obstacles count neither in the loss nor in scores

    @model_validator(mode="after")
    def _repeats_are_whole(self) -> Self:
        for name, weight in self.weights.items():
            if self.sampling == "repeat" and not weight.is_integer():
                raise ValueError(
                    f"weights.{name}={weight:g} is not a whole number, but sampling=repeat visits "
                    "each trajectory so many times an epoch"
                )
        return self

    @model_validator(mode="after")
    def _strides_differ(self) -> Self:
        if len(set(self.strides)) < len(self.strides):
            raise ValueError(f"strides={list(self.strides)} names one twice")
        return self


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


class ResourcesConfig(Section):
    """What Ray gives to one trial."""

    workers: PositiveInt = 2  # ZeRO ranks
    cpus_per_worker: PositiveInt = 1
    # A rank drives one GPU. auto: 1 where the cluster has one for every worker, else 0.
    gpus_per_worker: GpusPerWorker = "auto"
    # What one worker sustains on the model FLOPs, only to price a plan.
    assumed_flops_per_second: PositiveFloat = 3.0e10


class SweepConfig(Section):
    """A scaling experiment: every model of the ladder at every number of windows."""

    name: Name
    run: RunConfig  # what all trials share
    ladder: dict[Name, ModelConfig] = Field(min_length=1)  # label -> model
    windows: tuple[PositiveInt, ...] = Field(min_length=1)  # one trial per model and entry
    resources: ResourcesConfig = ResourcesConfig()
    max_attempts: PositiveInt = 2  # per trial, for failures that are not the user's

    @model_validator(mode="after")
    def _trials_differ(self) -> Self:
        if len(set(self.windows)) < len(self.windows):
            raise ValueError(f"windows={list(self.windows)} names one twice")
        return self

    @property
    def directory(self) -> Path:
        """Where the sweep keeps its journal, trials and report."""
        return self.run.output / self.name


class GeneratedDataset(Section):
    """One dataset to solve for. `data/generation/solvers/` holds the equations."""

    equation: Literal[
        "navier_stokes",
        "reaction_diffusion",
        "shallow_water",
        "compressible",
        "compressible_turbulence",
        "compressible_3d",
        "compressible_turbulence_3d",
        "smoke",
        "cavity",
        "tube",
        "cylinder",
        "obstacle_mixture",
        "darcy",
    ]
    train: PositiveInt  # trajectories
    test: PositiveInt
    grid: PositiveInt  # stored points per axis
    frames: PositiveInt
    frame_interval: PositiveFloat  # in the equation's time
    parameters: dict[str, Float] = {}  # of the equation, e.g. viscosity

    @model_validator(mode="after")
    def _steady_problems_have_two_frames(self) -> Self:
        if self.equation == "darcy" and self.frames != 2:
            raise ValueError(
                f"frames={self.frames}: a steady problem has 2, its coefficient and its solution"
            )
        return self


class SuiteConfig(Section):
    """Datasets that are generated together, reproducibly from one seed."""

    name: Name
    # Solvers take 32 bits, and each suite seed stands for a million of theirs
    # (data/generation/suite.py).
    seed: Annotated[Int, Field(ge=0, lt=4000)] = 0
    datasets: dict[str, GeneratedDataset] = Field(min_length=1)

    def scaled(self, factor: float) -> Self:
        """Return the suite with a multiple of its trajectories, at least one each, and a name."""
        datasets = {
            name: recipe.model_copy(
                update={
                    "train": max(1, round(recipe.train * factor)),
                    "test": max(1, round(recipe.test * factor)),
                }
            )
            for name, recipe in self.datasets.items()
        }
        return self.model_copy(update={"name": f"{self.name}-x{factor:g}", "datasets": datasets})


def config_hash(config: Section) -> str:
    """Return twelve hex digits that name the content of a config."""
    return hashed(config.model_dump(mode="json"))


def run_hash(config: RunConfig) -> str:
    """Return the hash of what decides the numbers of a run.

    Left out are its places, what it logs, and how a global batch is cut into micro-batches. A file
    counts by its name, because a Ray job reads it in another folder each time; `runs/inputs.py`
    compares what it says.
    """
    excluded: dict[str, Any] = dict.fromkeys(("name", "output", "tracking", "checkpoint"), True)
    excluded |= {"data": {"root"}, "engine": {"nvme_path"}, "batch": {"micro_batch"}}
    values = config.model_dump(mode="json", exclude=excluded)
    for section, key in (("data", "suite"), ("engine", "deepspeed")):
        if values[section][key] is not None:
            values[section][key] = Path(values[section][key]).name
    return hashed(values)


def hashed(values: dict[str, Any]) -> str:
    """Return twelve hex digits that name JSON values."""
    text = json.dumps(values, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
