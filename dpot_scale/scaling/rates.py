"""The probe of a sweep, short trainings of small models, and the learning rates that it has found.

These are a power law in a file of the sweep, which plans read: the rates and the ids of trials
follow from what was found once, and are not fitted anew. Pure: no torch here.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime
from math import log
from pathlib import Path
from typing import Literal

from dpot_scale.config.base import Section
from dpot_scale.config.design import Design, Probe
from dpot_scale.config.model import ModelConfig
from dpot_scale.config.optim import OptimConfig
from dpot_scale.config.record import Record, read_record
from dpot_scale.config.run import RunConfig
from dpot_scale.config.sweep import SweepConfig
from dpot_scale.errors import ConfigError, RecordError
from dpot_scale.files import write_whole
from dpot_scale.models.families import count_parameters
from dpot_scale.scaling.design import Point, points_of

RATES = "rates.json"
PROBE = "probe"  # the factor of the trials of a probe
DIGITS = 4  # of a rate: more would make ids hang on the last bit of a power


class BestRate(Section):
    """The best rate of one model of a probe."""

    size: float  # its width or its parameters
    lr: float


class Rates(Record):
    """Adam's peak rate lr x (width or parameters / at)^power, through the best rates of a probe."""

    time: datetime
    trials: tuple[str, ...]  # those of the probe, by id
    family: str  # of its models
    of: Literal["width", "parameters"]
    at: float
    lr: float
    power: float
    found: tuple[BestRate, ...]

    def rate(self, model: ModelConfig) -> float:
        """Return the peak rate of a model of the family of the probe."""
        assert model.family == self.family
        return rounded(self.lr * (size_of(model, self.of) / self.at) ** self.power)

    def are_of(self, trials: Collection[str]) -> bool:
        """Return whether a probe of these trials found them."""
        return set(self.trials) == set(trials)

    @property
    def largest_miss(self) -> float:
        """By which share the best rate of a model leaves the law most."""
        return max(
            abs(log(one.lr / self.lr) - self.power * log(one.size / self.at)) for one in self.found
        )

    def __str__(self) -> str:
        sizes = " and ".join(f"{one.size:,.0f}: {one.lr:.3g}" for one in self.found)
        checked = (
            f"which leave the law by up to {self.largest_miss:.0%}"
            if len(self.found) > 2
            else "and no third one to check the law"
        )
        return (
            f"optim.lr = {self.lr:.4g} ({self.of} / {self.at:.4g})^{self.power:.3g}, Muon's in the "
            f"ratio of the run: probed {self.time:%Y-%m-%d}, best rates by {self.of} {sizes}, "
            f"{checked}"
        )


def probe_points(sweep: SweepConfig, probe: Probe) -> list[Point]:
    """Return the points of the probe of a sweep, which is a small sweep of its own.

    Raises:
        ConfigError: a point is not possible; the sentence names it.
    """
    design = (
        Design(ladder=probe.ladder),
        Design(grid={"run.optim.lr": probe.rates}),
        Design(windows=(probe.windows,)),
    )
    rules = sweep.rules.model_copy(update={"lr": None})
    small = {"design": design, "ladder": None, "windows": None, "rules": rules}
    try:
        points = points_of(sweep.model_copy(update=small))
    except ConfigError as error:
        raise ConfigError(f"rules.lr.probe: {error}") from error
    return [
        replace(
            point,
            run=with_rate(point.run, point.run.optim.lr, sweep.run.optim),
            label=f"{PROBE}-{point.label}",
            factors={PROBE: "lr", **point.factors},
        )
        for point in points
    ]


def require_one_family(probe: Sequence[Point], points: Sequence[Point]) -> None:
    """Make sure that the rates of a probe can be those of the points of its sweep.

    Raises:
        ConfigError: some models are of other families.
    """
    family = probe[0].run.model.family
    for point in (*probe, *points):
        if point.run.model.family != family:
            raise ConfigError(
                f"trial {point.label}: rules.lr.probe has models of {family}, whose rates say "
                f"nothing of a {point.run.model.family}: give each family a sweep with a probe of "
                "its own"
            )


def size_of(model: ModelConfig, of: Literal["width", "parameters"]) -> float:
    """Return what the rate of a model follows.

    Raises:
        ConfigError: it follows the width, and the model has none.
    """
    if of == "parameters":
        return count_parameters(model).total
    width = model.own_width()
    if width is None:
        raise ConfigError(f"a rule follows the width, and a {model.family} has none")
    return width


def rounded(rate: float) -> float:
    """Return a rate with as many digits as one is given with."""
    return float(f"{rate:.{DIGITS}g}")


def with_rate(run: RunConfig, lr: float, given: OptimConfig) -> RunConfig:
    """Return a run with a peak rate of Adam for its own width; Muon's keeps its ratio to it.

    Args:
        run: The run.
        lr: The rate.
        given: The optimizer whose rates have this ratio.
    """
    rates: dict[str, float | None] = {"lr": lr, "reference_width": None}
    if run.optim.kind == "muon":
        rates["muon_lr"] = rounded(lr * given.muon_lr / given.lr)
    return run.model_copy(update={"optim": run.optim.model_copy(update=rates)})


def read_rates(directory: Path) -> Rates | None:
    """Return what the probe of the sweep in a folder found; None before that.

    Raises:
        RecordError: the file is damaged, or another version wrote it.
    """
    path = directory / RATES
    try:
        return read_record(Rates, json.loads(path.read_bytes()), path, RecordError)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, RecursionError) as error:
        raise RecordError(
            f"{path} does not hold the rates of a probe; remove it, and they are fitted again to "
            "the trials of the probe"
        ) from error


def save_rates(directory: Path, rates: Rates) -> None:
    """Keep what a probe found.

    Raises:
        DiskError: it cannot be written.
    """
    write_whole(directory / RATES, rates.model_dump_json(indent=2))
