"""A scaling experiment, as a frozen value."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from dpot_scale.config.base import (
    Name,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Section,
    _no_bool,
)
from dpot_scale.config.design import Design, Ladder, Rules, refuse_twins
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
    assumed_flops_per_second: PositiveFloat | None = None
    """Model FLOPs that one worker computes per second; only prices a plan. null: 3e10 of a CPU, and
    of a GPU what an H100 has reached."""


# The keys of a design that say how long a trial is; a design has one of them at most.
LENGTHS = ("windows", "isoflop", "cooldown")


class SweepConfig(Section):
    """A scaling experiment: a run, and how its trials differ from it."""

    name: Name
    """Name of the sweep and of its folder in `run.output`."""
    run: RunConfig
    """The run that all trials share."""
    design: tuple[Design, ...] = ()
    """How the trials differ: every combination of what the entries say is a trial."""
    ladder: Ladder | None = None
    """The models, as an entry of the design says them; in place of that entry if it is there."""
    windows: tuple[PositiveInt, ...] | None = Field(default=None, min_length=1)
    """Lengths of training, in windows; in place of the lengths of the design."""
    rules: Rules = Rules()
    resources: ResourcesConfig = ResourcesConfig()
    max_attempts: PositiveInt = 2
    """Attempts per trial, where a failure is not the user's mistake."""
    max_preemptions: NonNegativeInt = 100
    """How often a trial begins again because its node was taken away; no attempt of the above."""

    @model_validator(mode="after")
    def _trials_differ(self) -> Self:
        refuse_twins("windows", self.windows or ())
        if not self.factors:
            raise ValueError("the sweep has no trials: give it a `design`")
        kinds = [entry.kind for entry in self.factors]
        lengths = [kind for kind in kinds if kind in LENGTHS]
        if len(lengths) > 1:
            raise ValueError(f"design: give one of {' and '.join(lengths)}: each says how long")
        once = [kind for kind in kinds if kind not in ("grid", "ablation")]
        twice = next((kind for kind in once if once.count(kind) > 1), None)
        if twice is not None:
            raise ValueError(f"design: {twice} appears twice; give one entry with all of it")
        return self

    @property
    def factors(self) -> tuple[Design, ...]:
        """The whole design: the keys of the top level replace entries of the same meaning."""
        entries = list(self.design)
        if self.ladder is not None:
            entries = [entry for entry in entries if entry.kind != "ladder"]
            entries.insert(0, Design(ladder=self.ladder))
        if self.windows is not None:
            entries = [entry for entry in entries if entry.kind not in LENGTHS]
            entries.append(Design(windows=self.windows))
        return tuple(entries)

    @property
    def directory(self) -> Path:
        """Where the sweep keeps its journal, trials and report."""
        return self.run.output / self.name
