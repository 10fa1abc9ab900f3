"""The training state of an engine as pieces of parameters, whatever shards it on how many ranks.

Every rank keeps flat tensors, the masters, and moments of their size. Which numbers of which
parameters lie in them differs by engine, stage and number of ranks; what is said here does not. So
what one layout has saved, every other one can load.
"""

from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

# Kinds of numbers that a parameter has: the fp32 master, or the value of what does not train.
# All others are moments, by the names that its optimizer has for them.
WEIGHT = "weight"
OF_ADAM = "exp_avg"  # a moment that Adam has, and nothing else
# Among the numbers of a state: how many updates Adam has made.
ADAM_STEPS = "adam_steps"


class Part(NamedTuple):
    """Consecutive numbers of one kind of a parameter."""

    name: str
    kind: str
    start: int  # in the flattened parameter
    values: Tensor  # 1D, where the engine has them


class Place(NamedTuple):
    """Where consecutive numbers of a parameter lie in a master."""

    name: str
    start: int  # in the flattened parameter
    place: int  # in the flattened master
    size: int


class Held(NamedTuple):
    """A master that this rank updates."""

    master: Tensor
    places: Sequence[Place]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What this rank keeps of a training state; the ranks together keep all of it, once."""

    shapes: Mapping[str, tuple[int, ...]]  # of all parameters
    parts: Sequence[Part]  # views of what the engine has, until they are copied
    numbers: Mapping[str, float]

    @property
    def bytes(self) -> int:
        """Return the size of the parts."""
        return sum(part.values.nbytes for part in self.parts)

    def on_host(self) -> "Snapshot":
        """Return a copy in the memory of the host, which further steps leave as it is."""
        parts = [part._replace(values=part.values.to("cpu", copy=True)) for part in self.parts]
        return Snapshot(self.shapes, parts, self.numbers)


class Sliceable(Protocol):
    """Numbers on a disk, of which some may be read."""

    def __getitem__(self, index: slice, /) -> Tensor:
        """Read them."""


class Extent(NamedTuple):
    """Consecutive numbers of a parameter on the disk."""

    start: int  # in the flattened parameter
    size: int
    values: Sliceable


@dataclass(frozen=True, slots=True)
class StoredState:
    """A training state on the disk, of any number of ranks; its numbers are read when asked for.

    Raises:
        ValueError: something is missing or there twice.
    """

    shapes: Mapping[str, tuple[int, ...]]
    kinds: Mapping[str, Mapping[str, Sequence[Extent]]]  # extents by kind and name, in order
    numbers: Mapping[str, float]
    is_complete: bool = True  # False: of another's files, which only their writer can tell apart

    def __post_init__(self) -> None:
        """Make sure that there is all of what there is a part of, and every weight."""
        if missing := self.shapes.keys() - self.kinds.get(WEIGHT, {}).keys():
            raise ValueError(f"{min(missing)} is missing")
        for kind, of_kind in self.kinds.items():
            for name, extents in of_kind.items():
                end = 0
                for extent in extents:
                    if extent.start != end:
                        raise ValueError(f"number {end:,} of {name} ({kind}) is missing or doubled")
                    end += extent.size
                if end != prod(self.shapes[name]):
                    raise ValueError(f"{name} ({kind}) has {end:,} numbers")

    def read(self, kind: str, name: str, start: int = 0, size: int | None = None) -> Tensor:
        """Return consecutive numbers of a parameter in fp32, flat; all by default."""
        end = prod(self.shapes[name]) if size is None else start + size
        found = []
        for extent in self.kinds[kind][name]:
            low, high = max(start, extent.start), min(end, extent.start + extent.size)
            if low < high:
                found.append(extent.values[low - extent.start : high - extent.start])
        return torch.cat(found).detach().float() if found else torch.empty(0)

    def whole(self, name: str) -> Tensor:
        """Return the weights of a parameter in its shape, in fp32."""
        return self.read(WEIGHT, name).reshape(self.shapes[name])


States = MutableMapping[Tensor, dict[str, Any]]  # of an optimizer, by the masters that it updates


def parts_of(held: Iterable[Held], states: States) -> Iterator[Part]:
    """Yield what a rank keeps in its masters and their moments.

    Args:
        held: The masters.
        states: Those of their optimizer.
    """
    for master, places in held:
        flat = {WEIGHT: master.detach().view(-1)}
        for kind, moment in states.get(master, {}).items():
            if isinstance(moment, Tensor) and moment.shape == master.shape:
                flat[kind] = moment.view(-1)
        for name, start, place, size in places:
            for kind, values in flat.items():
                yield Part(name, kind, start, values[place : place + size])


def steps_of(states: States) -> dict[str, float]:
    """Return how many updates Adam has made, where it has made some."""
    found = [int(state["step"]) for state in states.values() if "step" in state]
    return {ADAM_STEPS: max(found)} if found else {}


def load_moments(
    held: Iterable[Held], states: States, stored: StoredState, *, counts_on_device: bool = True
) -> None:
    """Set the moments of masters.

    Args:
        held: The masters.
        states: Those of their optimizer; they may be empty, as before its first update.
        stored: The state to load.
        counts_on_device: Whether Adam counts its updates there, as torch's does, or in Python.
    """
    moments = {kind: of_kind for kind, of_kind in stored.kinds.items() if kind != WEIGHT}
    for master, places in held:
        states.pop(master, None)
        found: dict[str, Any] = {}
        for kind, of_kind in moments.items():
            if not any(place.name in of_kind for place in places):
                continue
            moment = torch.zeros_like(master, memory_format=torch.contiguous_format)
            flat = moment.view(-1)
            for name, start, place, size in places:
                if name in of_kind:
                    flat[place : place + size] = stored.read(kind, name, start, size)
            found[kind] = moment
        if OF_ADAM in found:
            steps = stored.numbers[ADAM_STEPS]
            count = torch.tensor(steps, dtype=torch.float32, device=master.device)
            found["step"] = count if counts_on_device else int(steps)
        if found:
            states[master] = found
