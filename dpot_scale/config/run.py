"""One training run, as a frozen value.

A config touches nothing when it is made: no file, no device, no process group. Unknown keys are
refused. Facts derived from a config are methods or functions of it, never stored beside it.
"""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from dpot_scale.config.base import (
    NO_BOOL,
    Name,
    NonNegativeFloat,
    NonNegativeInt,
    Place,
    PositiveInt,
    Section,
    Seed,
)
from dpot_scale.config.batch import BatchConfig
from dpot_scale.config.data import DataConfig
from dpot_scale.config.engine import EngineConfig
from dpot_scale.config.limits import LimitsConfig
from dpot_scale.config.model import AnyModel, component_names
from dpot_scale.config.optim import OptimConfig
from dpot_scale.config.sentences import nearest
from dpot_scale.config.start import StartConfig


class ObjectiveConfig(Section):
    """The training loss: relative L2 of forecasts that are made from noisy frames, unrolled."""

    noise: NonNegativeFloat = 5e-4
    """Standard deviation of the noise added to the input frames, in units of `noise_unit`."""
    noise_unit: Literal["norm", "std"] = "norm"
    """What `noise` is a multiple of, for each field of a window: its norm, which grows with the
    number of points (as in the paper), or its standard deviation."""
    unroll: PositiveInt = 1
    """Forwards per training window; from the second on, the model sees its own predictions."""
    supervise_padding: bool = False
    """Whether channels that a dataset lacks, which are filled with ones, count in the loss (as in
    the paper)."""


class EvaluationConfig(Section):
    """Held-out evaluation during and after training."""

    every: NonNegativeInt = 0
    """Steps between evaluations. 0: only at the end of the run. A dataset with a valid split is
    scored on that one during the training, and on both splits at the end."""
    trajectories: PositiveInt = 16
    """Trajectories per dataset: the first ones of its test split, and of its valid split."""
    watched: PositiveInt | None = None
    """How many of these the curves are of; the scores at the end are of all. null: all."""
    rollout_frames: PositiveInt | None = None
    """Frames that a rollout predicts. null: to the end of each trajectory."""
    batch: PositiveInt = 8
    """Trajectories per rank and forward."""


class CheckpointConfig(Section):
    """When the state of the run is committed to disk, besides at its end and when it is stopped."""

    every: NonNegativeInt = 0
    """Steps between checkpoints. 0: the number of steps causes none."""
    minutes: NonNegativeFloat = 5.0
    """Minutes from the end of one checkpoint to the next. 0: the clock causes none."""
    keep: Annotated[int, Field(ge=2), NO_BOOL] = 2
    """How many checkpoints are kept, the newest; at least 2, since a crash may interrupt one."""
    keep_every: NonNegativeInt = 0
    """Steps between milestones: checkpoints that are made then and kept for ever. 0: none."""
    keep_hours: NonNegativeFloat = 0.0
    """Hours between checkpoints that are kept for ever, beside the milestones. 0: none."""
    keep_at: tuple[PositiveInt, ...] = ()
    """Steps of further milestones. A sweep sets them where branches of a run begin."""

    copy_gib: NonNegativeFloat = 0.0
    """Memory of the host, for each rank, that a save may copy the training state into. Training
    then waits for the copy alone, and a thread writes it. A larger state is written at once."""
    archive: str | None = None
    """URL to which committed checkpoints are copied in the background, each run into a folder of
    its name; a run on an empty disk goes on from there. file:///FOLDER, or any that fsspec has a
    package for: s3://BUCKET/PATH needs the extra `s3`. null: none."""

    @field_validator("archive")
    @classmethod
    def _is_url_without_secret(cls, url: str | None) -> str | None:
        """Refuse what is no URL, and what would be written into config.yaml and MLflow."""
        if url is not None and not re.match(r"[a-z][a-z0-9+.-]*://.", url, re.IGNORECASE):
            raise ValueError("archive is no URL; give one as file:///FOLDER or s3://BUCKET")
        if url is not None and re.search(r"://[^/]*@|[?#]", url):
            raise ValueError(
                "archive may be a bare address only, because it is saved and shown; give "
                "credentials to fsspec's package by the environment or its own config"
            )
        return url

    def is_milestone(self, step: int) -> bool:
        """Return whether a checkpoint is made at a step and kept for ever."""
        return step in self.keep_at or (self.keep_every > 0 and step % self.keep_every == 0)


class TrackingConfig(Section):
    """Where metrics go. The JSONL spool in the run directory is always written."""

    log_every: PositiveInt = 10
    """Steps per logged point of a curve."""
    mlflow_uri: str | None = None
    """MLflow's tracking store. sqlite:///mlflow.db is what `mlflow ui` opens. null: no MLflow."""
    experiment: str = "dpot_scale"
    """MLflow experiment of the run."""

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
        # The address of a database, or a misspelt one of anything.
        of_others = not re.match("sqlite:", uri, re.IGNORECASE)
        secret = r"//[^:/@]*:[^@]*@|:[^/@]+@|[?&;].*(pass|pwd|token|secret)"
        if of_others and re.search(secret, uri, re.IGNORECASE):
            raise ValueError(
                "mlflow_uri may hold no password, because it is saved and shown; start `mlflow "
                "server --backend-store-uri DATABASE` with the password, and give the http:// "
                "address of that server"
            )
        return self


class RunConfig(Section):
    """One training from its first step to its last."""

    name: Name
    """Name of the run and of its folder in `output`."""
    output: Place = Path("runs")
    """Folder of runs."""
    seed: Seed = 0
    """Seed of the initial weights, the order of windows and the noise."""
    windows: PositiveInt
    """Length of the training, in windows: a multiple of `batch.global_batch`."""
    model: AnyModel = Field(default={}, validate_default=True)
    data: DataConfig
    objective: ObjectiveConfig = ObjectiveConfig()
    optim: OptimConfig = OptimConfig()
    batch: BatchConfig
    engine: EngineConfig = Field(default_factory=EngineConfig)
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    limits: LimitsConfig = LimitsConfig()
    tracking: TrackingConfig = TrackingConfig()
    start: StartConfig = StartConfig()

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
    def _schedule_fits(self) -> Self:
        for name, length in (("warmup", self.optim.warmup), ("decay", self.optim.decay)):
            if (length.windows or 0) > self.windows:
                raise ValueError(
                    f"optim.{name}.windows={length.windows} is longer than the run, windows="
                    f"{self.windows}; give fewer, or a share of the run: optim.{name}.share=0.2"
                )
        return self

    @model_validator(mode="after")
    def _unroll_reduces_whole_gradients(self) -> Self:
        engine, unroll = self.engine, self.objective.unroll
        needs = ""
        if unroll > 1 and engine.recompute_backend == "fairscale":
            needs = "recompute_backend=torch: fairscale runs a backward pass of its own"
        elif unroll > 1 and engine.compile and engine.deepspeed.stage == 3:
            needs = "compile=false: ZeRO-3 reduces the gradients of a compiled block"
        if needs:
            raise ValueError(
                f"objective.unroll={unroll} needs engine.{needs} for each forward, so a gradient "
                "would be reduced before it is complete"
            )
        return self

    @model_validator(mode="after")
    def _rates_can_follow_the_width(self) -> Self:
        reference = self.optim.reference_for(self.model.family)
        if reference is not None and self.model.own_width() is None:
            raise ValueError(
                f"optim.reference_width={reference} makes the learning rate follow model.width, "
                f"and a {self.model.family} has none: set it to null"
            )
        return self

    @model_validator(mode="after")
    def _components_are_those_of_the_model(self) -> Self:
        if not self.start.components:
            return self
        known = component_names(self.model)
        for name in self.start.components:
            if name not in known:
                raise ValueError(
                    f"start.components.{name}: a {self.model.family} has no such component"
                    f"{nearest(name, known)}; it has {', '.join(known)}"
                )
        if all(self.start.rate(name) == 0 for name in known) and self.start.adapter is None:
            raise ValueError("start.components freezes all that there is: leave something to train")
        return self

    @model_validator(mode="after")
    def _what_stays_comes_from_somewhere(self) -> Self:
        start = self.start
        frozen = [name for name, said in start.components.items() if said == "freeze"]
        if start.source is None and (frozen or start.adapter is not None):
            stays = f"components.{frozen[0]}=freeze" if frozen else "adapter"
            raise ValueError(
                f"start.{stays} needs start.source: random weights that do not train are of no use"
            )
        return self

    @model_validator(mode="after")
    def _muon_can_be_run(self) -> Self:
        if self.optim.kind != "muon":
            return self
        if self.engine.kind == "fairscale":
            raise ValueError(
                "optim.kind=muon needs engine.kind=deepspeed: fairscale splits matrices among "
                "ranks where nothing can put them together; set optim.kind=adam to use fairscale"
            )
        strategy = self.engine.deepspeed
        if strategy.replaces_optimizer:
            raise ValueError(
                "optim.kind=muon updates masters on the device or in the memory of the host, by "
                f"itself, and {strategy.name} asks for something else: choose another "
                "engine.deepspeed, as zero3_bf16_offload"
            )
        return self

    @property
    def settled_optim(self) -> OptimConfig:
        """The optimizer with the peak rates for the width of the model."""
        return self.optim.for_width(self.model.own_width(), self.model.family)

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.windows // self.batch.global_batch

    @property
    def window_frames(self) -> int:
        """Frames of a training window: the history and the targets of all forwards."""
        return self.model.history + self.objective.unroll * self.model.horizon

    def with_micro_batch(self, micro_batch: int) -> Self:
        """Return the run with a number of windows per rank per forward."""
        batch = self.batch.model_copy(update={"micro_batch": micro_batch})
        return self.model_copy(update={"batch": batch})

    @property
    def directory(self) -> Path:
        """Where the run keeps everything it writes."""
        return self.output / self.name
