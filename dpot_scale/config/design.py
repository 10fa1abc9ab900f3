"""How the points of a sweep are chosen: its design, and the rules that numbers follow."""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_serializer, model_validator
from pydantic_core import PydanticCustomError

from dpot_scale.config.base import Float, Name, PositiveFloat, PositiveInt, Section, Seed
from dpot_scale.config.model import DEFAULT_FAMILY, AnyModel

BASE = "base"  # the label of a run to which an ablation changes nothing
DOTS = "..."
Values = Annotated[tuple[Any, ...], Field(min_length=1)]
Changes = Annotated[dict[str, Any], Field(min_length=1)]  # dotted fields and their values


class Sizes(Section):
    """Models of a family that have given numbers of parameters, nearly; their widths differ."""

    family: str = DEFAULT_FAMILY
    """Family of the models; what else they are comes from `run.model`."""
    parameters: tuple[PositiveFloat | Literal["..."], ...] = Field(min_length=1)
    """Parameters of each model. `...` between two numbers stands for those between them at equal
    ratios: that of the two numbers before it, or about 2 where there is only one."""

    @model_validator(mode="after")
    def _dots_stand_between(self) -> Self:
        given = (DOTS, *self.parameters, DOTS)
        if any(DOTS == a == b for a, b in pairwise(given)):
            raise ValueError("parameters: `...` must stand between two numbers")
        refuse_twins("parameters", tuple(n for n in self.parameters if n != DOTS))
        return self


def kind_of_ladder(raw: object) -> str:
    """Return whether a ladder is a mapping of models, or gives numbers of parameters."""
    if isinstance(raw, Sizes):
        return "sizes"
    has_list = isinstance(raw, Mapping) and isinstance(raw.get("parameters"), list | tuple)
    return "sizes" if has_list else "models"


Ladder = Annotated[
    Annotated[dict[Name, AnyModel], Field(min_length=1), Tag("models")]
    | Annotated[Sizes, Tag("sizes")],
    Discriminator(kind_of_ladder),
]


class IsoFlop(Section):
    """Lengths of training that cost given FLOPs, for every model."""

    budgets: tuple[PositiveFloat, ...] = Field(min_length=1)
    """Training FLOPs of a trial. Its length is the nearest whole number of batches."""


class Cooldown(Section):
    """Lengths of training that share one long run: the trunk, and branches that cool down early.

    The learning rate of a warmup-stable-decay run does not depend on its length until it decays. So
    a shorter run is the longer one up to a checkpoint, and then its own decay.
    """

    trunk: PositiveInt
    """Windows of the trunk, which decays at its own end."""
    at: tuple[PositiveInt, ...] = Field(min_length=1)
    """Windows of the branches, each with its decay. That of the trunk needs no branch."""

    @model_validator(mode="after")
    def _branches_fit(self) -> Self:
        longer = [windows for windows in self.at if windows > self.trunk]
        if longer:
            raise ValueError(
                f"at={longer[0]} is longer than trunk={self.trunk}; make the trunk as long as the "
                "longest branch"
            )
        refuse_twins("at", self.at)
        return self


class DataAmounts(Section):
    """How much of each dataset is trained on; at equal windows fewer trajectories repeat."""

    trajectories: tuple[PositiveInt, ...] = Field(min_length=1)
    """Training trajectories of each dataset, the first ones."""


class FamilyMatch(Section):
    """Models of several families that cost or weigh the same, in place of each model."""

    of: tuple[str, ...] = Field(min_length=1)
    """Families. The model of another one has the width that matches best."""
    match: Literal["flops", "parameters"] = "flops"
    """What is equal: FLOPs of a window, or all parameters."""


class Design(Section):
    """One way in which the points of a sweep differ: exactly one of these keys."""

    ladder: Ladder | None = None
    """The models, by label; what a model leaves out comes from `run.model`."""
    grid: dict[str, Values] | None = Field(default=None, min_length=1)
    """Values of any fields of the run, as `run.optim.lr`; all combinations."""
    windows: tuple[PositiveInt, ...] | None = Field(default=None, min_length=1)
    """Lengths of training, in windows."""
    isoflop: IsoFlop | None = None
    """Lengths of training that cost the same for every model."""
    cooldown: Cooldown | None = None
    """Lengths of training that share one long run."""
    data: DataAmounts | None = None
    """How much of each dataset is trained on."""
    seeds: tuple[Seed, ...] | None = Field(default=None, min_length=1)
    """Values of `run.seed`."""
    families: FamilyMatch | None = None
    """Families of models, matched in size."""
    ablation: dict[Name, Changes] | None = Field(default=None, min_length=1)
    """Changes to the run by label, each to one or more fields. One point has none of them, and
    every other point has one."""
    start: dict[Name, Path | None] | None = Field(default=None, min_length=1)
    """Weights to start from, by label: a weights file, a run or a checkpoint. null: from random
    weights."""

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if len(self.model_fields_set) != 1 or getattr(self, self.kind) is None:
            raise PydanticCustomError(
                "value_error",
                "give exactly one of {known} in each entry of the list",
                {"known": ", ".join(type(self).model_fields)},
            )
        for name, values in {**(self.grid or {}), "windows": self.windows or ()}.items():
            refuse_twins(name, values)
        refuse_twins("seeds", self.seeds or ())
        if self.ablation and BASE in self.ablation:
            raise ValueError(f"ablation.{BASE}: this label is that of the run without a change")
        return self

    @property
    def kind(self) -> str:
        """The key that was given."""
        return next(iter(self.model_fields_set), "ladder")

    @model_serializer
    def _given(self) -> dict[str, Any]:
        """Return the key that was given alone."""
        return {self.kind: getattr(self, self.kind)}


def refuse_twins(name: str, values: tuple[Any, ...]) -> None:
    """Refuse a list that names a value twice.

    Raises:
        ValueError: it does.
    """
    if any(value in values[:number] for number, value in enumerate(values)):
        raise ValueError(f"{name}={list(values)} names one twice")


class WidthTransfer(Section):
    """Learning rates found at one width, for all widths: `optim.reference_width` says how."""

    at: PositiveInt
    """Width at which the rates were found."""
    lr: PositiveFloat | None = None
    """Peak learning rate of Adam at this width. null: that of the run."""
    muon_lr: PositiveFloat | None = None
    """Peak learning rate of Muon at this width. null: that of the run."""


class Power(Section):
    """A number that follows another: value x (other / at)^power."""

    of: Literal["width", "parameters", "windows"]
    """What it follows: the width of the model, all its parameters, or the length of training."""
    at: PositiveFloat
    """Where `value` was found."""
    value: PositiveFloat
    """The number there."""
    power: Float
    """How fast it changes; -0.25 falls with the fourth root."""
    source: str = ""
    """Where this comes from, for the plan and the report."""


class Probe(Section):
    """Short trainings of small models, which find the learning rates before the trials begin.

    Each model is trained with each rate. The best rates of all models give a power law.
    """

    ladder: Ladder
    """The models, at least two, as a ladder of the design."""
    rates: tuple[PositiveFloat, ...] = Field(min_length=3)
    """Peak learning rates of Adam, for the width of each model. That of Muon keeps its ratio to it,
    as `run.optim` has it."""
    windows: PositiveInt
    """Windows of each training."""
    of: Literal["width", "parameters"] = "width"
    """What the best rate follows."""

    @model_validator(mode="after")
    def _shows_a_law(self) -> Self:
        models = self.ladder.parameters if isinstance(self.ladder, Sizes) else self.ladder
        if len(models) < 2:
            raise ValueError("ladder: two models at least say how the rate follows their size")
        refuse_twins("rates", self.rates)
        return self


class LearningRateRule(Section):
    """How the learning rate is found: one of these."""

    width_transfer: WidthTransfer | None = None
    """From rates found at one width."""
    power: Power | None = None
    """Adam's at the width of the model, by a power law; that of Muon stays that of the run."""
    probe: Probe | None = None
    """By a power law that trainings of small models find first."""

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if [self.width_transfer, self.power, self.probe].count(None) != 2:
            raise ValueError("give one of width_transfer, power and probe")
        return self


class Rules(Section):
    """Numbers that follow from the size or the length of a point."""

    lr: LearningRateRule | None = None
    """The peak learning rates; where the design sets them, it sets those at the width `at`."""
    batch: Power | None = None
    """`batch.global_batch`, rounded to what the workers can share; lengths are rounded to it."""
    weight_decay: Power | None = None
    """`optim.weight_decay`."""

    @property
    def probe(self) -> Probe | None:
        """The trainings that find the learning rates first."""
        return self.lr.probe if self.lr is not None else None
