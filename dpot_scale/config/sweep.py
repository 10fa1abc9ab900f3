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


def _least_and_most(value: object) -> object:
    """Refuse a list that is no range of numbers of workers; of two equal numbers there is one."""
    if not isinstance(value, list | tuple):
        return value
    numbers = [number for number in value if type(number) is int and number > 0]
    if len(value) != 2 or len(numbers) != 2 or numbers[0] > numbers[1]:
        raise ValueError(
            f"{list(value)} is no number of workers: give one, or [least, most], as [2, 8]"
        )
    return numbers[0] if numbers[0] == numbers[1] else value


Workers = Annotated[PositiveInt | tuple[PositiveInt, PositiveInt], BeforeValidator(_least_and_most)]


class ResourcesConfig(Section):
    """What Ray gives to one trial."""

    workers: Workers = 2
    """Workers of one trial; each is a rank. [least, most]: as many as the cluster has room for;
    when nodes go or come, a trial goes on with fewer or more. Both ends must divide
    `run.batch.global_batch`; numbers between that do not are left out."""
    cpus_per_worker: PositiveInt = 1
    """CPU cores per worker."""
    gpus_per_worker: GpusPerWorker = "auto"
    """GPUs per worker. auto: 1 where the cluster has one for every worker of a trial, else 0."""
    assumed_flops_per_second: PositiveFloat | None = None
    """Model FLOPs that one worker computes per second; only prices a plan. null: 3e10 of a CPU, and
    of a GPU what an H100 has reached."""

    @property
    def least_workers(self) -> int:
        """With how many workers a trial trains at least."""
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def most_workers(self) -> int:
        """With how many workers a trial trains at most."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]

    @property
    def is_elastic(self) -> bool:
        """Whether the number of workers may change while a trial trains."""
        return not isinstance(self.workers, int)

    @property
    def workers_in_words(self) -> str:
        """The number of workers, or the range of it as `1-4`."""
        least, most = self.least_workers, self.most_workers
        return f"{least}-{most}" if self.is_elastic else f"{most}"

    def share_in_words(self, workers: int) -> str:
        """Return a number of workers in words, with the range of it: `1 of 1-4 workers`."""
        if self.is_elastic:
            return f"{workers} of {self.workers_in_words} workers"
        return f"{workers} worker{'s' * (workers != 1)}"

    def on(self, workers: int | tuple[int, int]) -> Self:
        """Return the same with other workers."""
        return self.model_copy(update={"workers": workers})


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
    """How often a trial begins again because its node was taken away; no attempt of the above. With
    a range of workers, only the times count before which nothing more was saved."""

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
