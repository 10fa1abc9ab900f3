"""Carries weights over to another model: what comes along, what is adapted, what is drawn anew.

A family says how single tensors are adapted (`Family.adaptation`); all else is here. A component
comes along as a whole or not at all, the blocks one by one: half of a component has no meaning.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from dpot_scale.config.start import StartConfig
from dpot_scale.errors import ConfigError
from dpot_scale.models.family import BLOCKS

Shapes = Mapping[str, tuple[int, ...]]
State = Mapping[str, Tensor]
# Of each dataset the names of its channels, in their order.
ChannelNames = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Fields:
    """Which channel of a source each channel of a model takes; None: the source has none for it."""

    taken: tuple[int | None, ...]
    missing: tuple[str, ...]  # what to call those that the source has none for
    how: str  # by name or by position, in words

    @property
    def known(self) -> tuple[list[int], list[int]]:
        """Return the channels that take one, and those that they take."""
        pairs = [(mine, theirs) for mine, theirs in enumerate(self.taken) if theirs is not None]
        return [mine for mine, _ in pairs], [theirs for _, theirs in pairs]

    def are_all_of(self, channels: int) -> bool:
        """Return whether the channels are those of a source with so many, in their order."""
        return self.taken == tuple(range(channels))


def match_fields(
    source: int, target: int, of_source: ChannelNames, of_target: ChannelNames
) -> Fields:
    """Find for each channel of a model the one of a source.

    By name where both sides have names. A channel may have several names, one in each dataset, and
    one that no dataset uses is padding, which takes the channel in its place. A field that the
    source does not know takes a channel that no other one takes, that in its place if it can: a
    layer for another field is a better start than one that is drawn.

    Args:
        source: The number of channels of the source.
        target: That of the model.
        of_source: The channel names of the datasets that the source was trained on.
        of_target: Those of the datasets that the model will be trained on.
    """
    theirs, mine = _by_place(of_source, source), _by_place(of_target, target)
    by_name = any(theirs) and any(mine)
    known: dict[int, int] = {}
    for place, names in enumerate(mine):
        alike = [q for q, others in enumerate(theirs) if names & others]
        if not (by_name and names):
            known |= {place: place} if place < source else {}
        elif alike:
            known[place] = place if place in alike else alike[0]
    used = {known[place] for place in known if mine[place]}
    left = [q for q in range(source) if q not in used]
    replaced = []
    for place in range(target):
        if place not in known and mine[place] and left:
            known[place] = left.pop(left.index(place) if place in left else 0)
            replaced.append(f"{_said(mine, place)} as {_said(theirs, known[place])}")
    missing = [_said(mine, place) for place in range(target) if place not in known]
    how = ["fields by name" if by_name else "fields by position", *replaced]
    if not by_name and any(mine):
        how.append("as the source names none")
    return Fields(tuple(map(known.get, range(target))), tuple(missing), ", ".join(how))


def _said(names: Sequence[set[str]], place: int) -> str:
    """Return what to call a channel."""
    return " or ".join(sorted(names[place])) or f"channel {place + 1}"


def _by_place(names: ChannelNames, channels: int) -> list[set[str]]:
    """Return the names that each channel has."""
    of_place: list[set[str]] = [set() for _ in range(channels)]
    for of_dataset in names.values():
        for place, name in enumerate(of_dataset[:channels]):
            of_place[place].add(name)
    return of_place


class Adapted(NamedTuple):
    """A tensor of the source, made to fit the model."""

    value: Tensor
    how: str = ""  # in words; empty: as it is
    drawn: Tensor | None = None  # where values drawn from the seed stand; broadcast to `value`


class Adaptation:
    """How a family makes the weights of one of its models fit another. This base: only as they are.

    Attributes:
        flexible: Dimensions of the model in which both may differ.
        decides: For other dimensions, the components in which alone they are felt.
        redrawn: Components that mean something else in the model, though their shapes may fit.
    """

    flexible: frozenset[str] = frozenset()
    decides: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    redrawn: frozenset[str] = frozenset()

    def fixed(self, dimensions: Iterable[str], start: StartConfig) -> list[str]:
        """Return the dimensions in which both must agree, but for what is drawn anyway."""
        return [
            name
            for name in dimensions
            if name not in self.flexible
            and not (name in self.decides and all(map(start.redraws, self.decides[name])))
        ]

    def adapt(self, name: str, value: Tensor, shape: tuple[int, ...]) -> Adapted | None:
        """Return a tensor of the source in the shape of the model; None if nothing leads there.

        A kernel of one point, as 2D has it, gets the axes of 3D.
        """
        del name
        if tuple(value.shape) == shape:
            return Adapted(value)
        if without_ones(tuple(value.shape)) == without_ones(shape):
            return Adapted(value.reshape(shape), f"{value.ndim - 2}D to {len(shape) - 2}D")
        return None


def without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a shape without the axes of size 1 at its end."""
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return shape


@dataclass(slots=True)
class Row:
    """What became of one component, in numbers of parameters."""

    component: str
    rate: float
    carried: int = 0
    adapted: int = 0
    drawn: int = 0
    how: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Transfer:
    """The weights of a model, but for what is drawn from its seed."""

    shapes: Shapes
    found: Mapping[str, Adapted]
    rows: tuple[Row, ...]
    dropped: tuple[str, ...]  # what of the source has no place in the model

    @property
    def unfinished(self) -> set[str]:
        """Return the names of tensors of which at least a part is drawn."""
        whole = {name for name, adapted in self.found.items() if adapted.drawn is None}
        return set(self.shapes) - whole

    def completed(self, fresh: State) -> dict[str, Tensor]:
        """Return all weights, given those drawn ones that are `unfinished`."""
        state = {}
        for name in self.shapes:
            adapted = self.found.get(name)
            if adapted is None:
                state[name] = fresh[name]
            elif adapted.drawn is None:
                state[name] = adapted.value
            else:
                state[name] = torch.where(adapted.drawn, fresh[name], adapted.value.float())
        return state

    def table(self) -> str:
        """Return what became of each component, as aligned lines."""
        head = ("component", "as it is", "adapted", "drawn", "rate", "how")
        cells = [head, *(_cells(row) for row in self.rows)]
        widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
        lines = []
        for first, *numbers, rate, how in cells:
            middle = "  ".join(
                text.rjust(width) for text, width in zip(numbers, widths[1:4], strict=True)
            )
            lines.append(f"{first.ljust(widths[0])}  {middle}  {rate.ljust(widths[4])}  {how}")
        if self.dropped:
            lines.append(f"left behind: {', '.join(self.dropped)}")
        return "\n".join(line.rstrip() for line in lines)


def _cells(row: Row) -> tuple[str, ...]:
    numbers = (f"{n:,}" if n else "-" for n in (row.carried, row.adapted, row.drawn))
    rate = f"x {row.rate:g}" if row.rate else "frozen"
    return (row.component, *numbers, rate, "; ".join(row.how))


def carry_over(
    state: State,
    shapes: Shapes,
    components: Mapping[str, tuple[str, ...]],
    adaptation: Adaptation,
    start: StartConfig,
) -> Transfer:
    """Find for every tensor of a model what it takes from a source.

    Args:
        state: The weights of the source.
        shapes: Those of the model.
        components: How the names of each component begin.
        adaptation: How the family adapts tensors.
        start: Which components are drawn, and at which rates they train.
    """
    found: dict[str, Adapted] = {}
    rows = {name: Row(name, start.rate(name)) for name in components}
    units = _units(shapes, components)
    for names in units.values():
        row = rows[component_of(names[0], components)]
        redrawn = start.redraws(row.component) or row.component in adaptation.redrawn
        adapted = {} if redrawn else _adapted(state, shapes, names, adaptation)
        found |= adapted
        for name in names:
            _account(row, prod(shapes[name]), adapted.get(name))
    filled = tuple(row for row in rows.values() if row.carried or row.adapted or row.drawn)
    dropped = tuple(unit for unit in _units(state, components) if unit not in units)
    return Transfer(dict(shapes), found, filled, dropped)


def require_whole(
    transfer: Transfer, start: StartConfig, disagreement: str, fields: Fields
) -> None:
    """Make sure that nothing is drawn which may not be.

    Args:
        transfer: What comes along.
        start: What may be drawn, and what stays as it is.
        disagreement: In which dimensions the models differ that cannot be adapted, in words; empty
            for none.
        fields: Which channels the source has.

    Raises:
        ConfigError: the source lacks something, or what is drawn would never be trained.
    """
    drawn = [row for row in transfer.rows if row.drawn]
    unasked = [row.component for row in drawn if not start.redraws(row.component)]
    if start.absent == "refuse" and (unasked or disagreement):
        reasons = [disagreement] if disagreement else []
        if fields.missing:
            reasons.append(f"the weights have no fields {', '.join(fields.missing)}")
        reasons = reasons or ["the weights lack a part of the model"]
        missing = f"draws what is missing of {', '.join(unasked)}"
        draws = missing if unasked else "starts from them as it is"
        raise ConfigError(f"{'; '.join(reasons)}; or start.absent=draw {draws}")
    if all(row.carried + row.adapted == 0 for row in transfer.rows):
        why = f"{disagreement}; " if disagreement else ""
        raise ConfigError(f"{why}nothing of start.source fits the model: leave it out")
    stuck = [row.component for row in drawn if row.rate == 0]
    if stuck:
        train = " ".join(f"start.components.{component}.lr=1" for component in stuck)
        raise ConfigError(
            f"{', '.join(stuck)} {'are' if stuck[1:] else 'is'} drawn from the seed, at least in "
            f"part, and would stay so: to let {'them' if stuck[1:] else 'it'} train, add {train}"
        )


def _adapted(
    state: State, shapes: Shapes, names: Sequence[str], adaptation: Adaptation
) -> dict[str, Adapted]:
    """Return tensors that come along together; none if one of them does not."""
    found = {}
    for name in names:
        adapted = adaptation.adapt(name, state[name], shapes[name]) if name in state else None
        if adapted is None:
            return {}
        found[name] = adapted
    return found


def _account(row: Row, size: int, adapted: Adapted | None) -> None:
    """Add a tensor to the row of its component."""
    if adapted is None:
        row.drawn += size
        return
    drawn = 0 if adapted.drawn is None else int(adapted.drawn.expand_as(adapted.value).sum())
    row.drawn += drawn
    if adapted.how:
        row.adapted += size - drawn
        row.how[adapted.how] += 1
    else:
        row.carried += size


def _units(names: Iterable[str], components: Mapping[str, tuple[str, ...]]) -> dict[str, list[str]]:
    """Return the names of the tensors that come along together: of a block or of a component."""
    units: dict[str, list[str]] = {}
    for name in names:
        component = component_of(name, components)
        unit = ".".join(name.split(".")[:2]) if component == BLOCKS else component
        units.setdefault(unit, []).append(name)
    return units


def component_of(name: str, components: Mapping[str, tuple[str, ...]]) -> str:
    """Return the component that a parameter belongs to."""
    return next(one for one, prefixes in components.items() if name.startswith(prefixes))
