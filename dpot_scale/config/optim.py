"""The optimizer and its schedule: a section of a run."""

from typing import Literal, Self

from pydantic import model_serializer, model_validator

from dpot_scale.config.base import (
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Section,
)
from dpot_scale.config.model import FAMILIES
from dpot_scale.config.sentences import nearest

# How fast the best learning rates fall with the width (benchmarks/recipes.md).
WIDTH_POWER = 0.25


class Length(Section):
    """How long something takes: a number of windows, or a share of the run. One of the two."""

    windows: NonNegativeInt | None = None
    """Windows seen from its beginning to its end; at most those of the run."""
    share: Fraction | None = None
    """Share of the windows of the run, whatever its length."""

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        if (self.windows is None) == (self.share is None):
            raise ValueError("give either {windows: NUMBER} or {share: FRACTION}")
        return self

    @model_serializer
    def _given(self) -> dict[str, int | float | None]:
        """Return what was given alone, so that the other can be laid over it."""
        return {"share": self.share} if self.windows is None else {"windows": self.windows}

    def in_steps(self, total_steps: int, global_batch: int) -> float:
        """Return the optimizer steps, which need not be whole."""
        if self.windows is not None:
            return self.windows / global_batch
        assert self.share is not None
        return self.share * total_steps


class OptimConfig(Section):
    """The optimizer and its schedule. Adam with one-cycle and momentum cycling is the paper's."""

    kind: Literal["adam", "muon"] = "adam"
    """adam: for all parameters. muon: for the matrices of the blocks, whose updates are made
    orthogonal; Adam for all others."""
    lr: PositiveFloat = 1e-3
    """Peak learning rate of Adam."""
    muon_lr: PositiveFloat = 0.02
    """Peak learning rate of Muon, which rises and falls as `lr` does; `muon` only."""
    muon_momentum: Fraction = 0.95
    """Decay rate of the mean of gradients that Muon makes orthogonal; `muon` only."""
    reference_width: PositiveInt | dict[str, PositiveInt] | None = None
    """Width of the model that the learning rates are meant for; another one gets them times
    (reference_width / width)^(1/4), so that a ladder of sizes needs no others. null: any width. By
    family, as {dpot: 128}, it concerns these alone: the same width means another thing in another
    family, and one that is not named gets the rates as they are."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.9)
    """Adam's decay rates of the first and second moment."""
    eps: PositiveFloat = 1e-8
    """What Adam adds to the root of the second moment."""
    weight_decay: NonNegativeFloat = 1e-6
    """Weight decay, coupled or decoupled as `decoupled_weight_decay` says."""
    decoupled_weight_decay: bool = False
    """true: AdamW. false: Adam with coupled L2, as in the paper. That of Muon is decoupled."""
    gradient_clipping: NonNegativeFloat = 0.0
    """Largest norm of the gradient; larger ones are scaled down to it. 0: no clipping."""
    schedule: Literal["one_cycle", "cosine", "warmup_stable_decay"] = "one_cycle"
    """How the learning rate rises and falls over the run."""
    warmup: Length = Length(share=0.2)
    """How long the learning rate rises to its peak."""
    decay: Length = Length(share=0.2)
    """How long it falls at the end; `warmup_stable_decay` only."""
    initial_lr_ratio: Fraction = 1e-4
    """First learning rate / peak learning rate."""
    final_lr_ratio: Fraction = 1e-8
    """Last learning rate / peak learning rate."""
    cycle_momentum: bool = False
    """Whether beta1 goes 0.95 -> 0.85 -> 0.95 as the learning rate rises and falls, as in the
    paper; `one_cycle` only."""

    def reference_for(self, family: str) -> int | None:
        """Return the width that the rates are meant for in a family; None if that is any."""
        given = self.reference_width
        return given.get(family) if isinstance(given, dict) else given

    def for_width(self, width: int | None, family: str) -> Self:
        """Return the optimizer of a model of a family and a width: wider ones need lower rates.

        Theory has the rate of Adam fall as 1 / width (Yang and Hu, Feature Learning in
        Infinite-Width Neural Networks, 2021), and that of Muon stay. Over widths of 64 to 512 the
        best rates of both together were found to fall slowly (benchmarks/recipes.md).
        """
        reference = self.reference_for(family)
        if reference is None or width is None:
            return self
        factor = (reference / width) ** WIDTH_POWER
        return self.model_copy(update={"lr": factor * self.lr, "muon_lr": factor * self.muon_lr})

    @model_validator(mode="after")
    def _families_exist(self) -> Self:
        given = self.reference_width
        for name in given if isinstance(given, dict) else ():
            if name not in FAMILIES:
                known = nearest(name, FAMILIES)
                raise ValueError(f"reference_width: there is no family {name!r}{known}")
        return self

    @model_validator(mode="before")
    @classmethod
    def _reads_shares_of_older_configs(cls, values: object) -> object:
        """Accept `warmup_fraction: 0.2` for `warmup: {share: 0.2}`, and the same of `decay`.

        Of both spellings the later one counts, which was laid over the other.
        """
        if not isinstance(values, dict):
            return values
        read: dict[str, object] = {}
        for key, value in values.items():
            name = str(key).removesuffix("_fraction")
            older = name != key and name in ("warmup", "decay")
            read.pop(name, None)
            read[name if older else key] = {"share": value} if older else value
        return read
