"""Low-rank adapters of the matrices in blocks: W + up down, of which W stays (Hu et al. 2021).

The published scale of a pair is left out: with Adam it would only be another learning rate.

Legend: S matrices in a stack, M rows, N columns, r rank.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

# The name of a pair begins with that of the module of its matrix.
_OF_PAIR = re.compile(r"(?P<module>.*\.)adapters\.(?P<matrix>\w+)\.(?P<part>up|down)")


class Pair(nn.Module):
    """What is added to a matrix or a stack of them; nothing at first.

    Its parameters are used here alone, as ZeRO-3 demands.

    Args:
        shape: Of the parameter that holds the matrices.
        rank: The rank of what is added to each.
    """

    def __init__(self, shape: Sequence[int], rank: int) -> None:
        super().__init__()
        stack, rows, columns = as_stack(shape)
        self.shape = tuple(shape)
        self.down = nn.Parameter(torch.empty(stack, rank, columns))
        self.up = nn.Parameter(torch.zeros(stack, rows, rank))
        bound = columns**-0.5
        nn.init.uniform_(self.down, -bound, bound)

    def forward(self, x_N: Tensor | None = None) -> Tensor:
        """Return what a single matrix adds to its product with x (..., N); its sum without x."""
        if x_N is None:
            return added(self.up, self.down, self.shape)
        return linear(linear(x_N, self.down[0]), self.up[0])


class Adaptable(nn.Module):
    """A module with matrices that pairs can be added to."""

    matrices: ClassVar[tuple[str, ...]] = ()  # the names of their parameters

    def __init__(self) -> None:
        super().__init__()
        self.adapters: nn.ModuleDict | None = None

    def adapted(self, name: str) -> Tensor:
        """Return a parameter with what its pair adds, if it has one."""
        parameter: Tensor = getattr(self, name)
        if self.adapters is None:
            return parameter
        adapted: Tensor = parameter.float() + self.adapters[name]()
        return adapted

    def adapt(self, rank: int) -> None:
        """Add a pair to each matrix."""
        shapes = {name: getattr(self, name) for name in self.matrices}
        self.adapters = nn.ModuleDict(
            {
                name: Pair(tuple(getattr(matrix, "ds_shape", matrix.shape)), rank)
                for name, matrix in shapes.items()
            }
        )


class AdaptableLinear(nn.Linear, Adaptable):
    """A linear layer with a matrix that a pair can be added to."""

    matrices = ("weight",)

    def forward(self, x_I: Tensor) -> Tensor:
        """Return (..., O)."""
        product: Tensor = super().forward(x_I)
        return product if self.adapters is None else product + self.adapters["weight"](x_I)


def as_stack(shape: Sequence[int]) -> tuple[int, int, int]:
    """Return how many matrices a parameter is, their rows and their columns.

    (O, I, 1, 1) is the matrix of a 1x1 convolution; (2, K, b, b) are 2 K matrices.
    """
    sizes = list(shape)
    while len(sizes) > 2 and sizes[-1] == 1:
        del sizes[-1]
    return prod(sizes[:-2]), sizes[-2], sizes[-1]


def added(up_SMr: Tensor, down_SrN: Tensor, shape: Sequence[int]) -> Tensor:
    """Return what a pair adds to a parameter of a shape, in fp32."""
    return torch.bmm(up_SMr.float(), down_SrN.float()).view(tuple(shape))


class Parts(NamedTuple):
    """The names of a pair of parameters."""

    up: str
    down: str


def pairs_of(names: Iterable[str]) -> dict[str, Parts]:
    """Return the names of the pairs among parameters, by that of the matrix they belong to."""
    found: dict[str, Parts] = {}
    for name in names:
        match = _OF_PAIR.fullmatch(name)
        if match:
            before = name.removesuffix(match["part"])
            found[match["module"] + match["matrix"]] = Parts(f"{before}up", f"{before}down")
    return found


def is_of_pair(name: str) -> bool:
    """Return whether a parameter is one of a pair."""
    return _OF_PAIR.fullmatch(name) is not None


def merged(
    parameters: Iterable[tuple[str, Tensor]], pairs: Mapping[str, Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """Yield the parameters of a plain model, which does what the adapted one does.

    Args:
        parameters: Those of the adapted one, in fp32.
        pairs: Those of them that are of pairs.
    """
    of_matrix = pairs_of(pairs)
    for name, value in parameters:
        if is_of_pair(name):
            continue
        parts = of_matrix.get(name)
        if parts is not None:
            value = value + added(pairs[parts.up], pairs[parts.down], value.shape)
        yield name, value
