"""A scaling experiment, as a frozen value."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from dpot_scale.config.base import Name, PositiveFloat, PositiveInt, Section, _no_bool
from dpot_scale.config.model import ModelConfig
from dpot_scale.config.run import RunConfig


def _one_gpu(value: object) -> object:
    """Refuse what a worker has no use for, in a sentence that says what to raise instead."""
    if isinstance(value, int) and value > 1:
        raise ValueError(
            f"a worker drives one GPU, not {value}; raise resources.workers to use more"
        )
    return value


GpusPerWorker = Annotated[
    Literal["auto", 0, 1], BeforeValidator(_one_gpu), BeforeValidator(_no_bool)
]


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
