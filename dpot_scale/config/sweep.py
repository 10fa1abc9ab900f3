"""A scaling experiment, as a frozen value."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from dpot_scale.config.base import Name, PositiveFloat, PositiveInt, Section, _no_bool
from dpot_scale.config.model import AnyModel
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

    workers: PositiveInt = 2
    """Workers of one trial; each is a rank."""
    cpus_per_worker: PositiveInt = 1
    """CPU cores per worker."""
    gpus_per_worker: GpusPerWorker = "auto"
    """GPUs per worker. auto: 1 where the cluster has one for every worker of a trial, else 0."""
    assumed_flops_per_second: PositiveFloat = 3.0e10
    """Model FLOPs that one worker computes per second; only prices a plan."""


class SweepConfig(Section):
    """A scaling experiment: every model of the ladder at every number of windows."""

    name: Name
    """Name of the sweep and of its folder in `run.output`."""
    run: RunConfig
    """The run that all trials share."""
    ladder: dict[Name, AnyModel] = Field(min_length=1)
    """The models, by label; what a model leaves out comes from `run.model`."""
    windows: tuple[PositiveInt, ...] = Field(min_length=1)
    """Lengths of training, in windows; every model is trained at each of them."""
    resources: ResourcesConfig = ResourcesConfig()
    max_attempts: PositiveInt = 2
    """Attempts per trial, where a failure is not the user's mistake."""

    @model_validator(mode="after")
    def _trials_differ(self) -> Self:
        if len(set(self.windows)) < len(self.windows):
            raise ValueError(f"windows={list(self.windows)} names one twice")
        return self

    @property
    def directory(self) -> Path:
        """Where the sweep keeps its journal, trials and report."""
        return self.run.output / self.name
