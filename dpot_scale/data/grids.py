"""On which grid a model sees a dataset, and by which rule. No torch here."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from fractions import Fraction

from dpot_scale.config.data import DataConfig
from dpot_scale.config.identity import Stored
from dpot_scale.config.model import ModelConfig, Points
from dpot_scale.data.stream.mixture import window_shares


def seen_on(grid: Points, model: ModelConfig, data: DataConfig) -> Points:
    """Return the grid on which a model sees a dataset that is stored on a grid."""
    return grid if data.shapes == "native" else model.space


def seen_shares(
    model: ModelConfig, data: DataConfig, stored: Mapping[str, Stored]
) -> dict[Points, float]:
    """Return the grids on which a model sees the windows of a training, and the share of each.

    A dataset of which nobody knows how it is stored counts as one on the grid of the model.
    """
    unknown = Stored(grid=model.space, trajectories=1)
    known = {name: stored.get(name, unknown) for name in data.weights}
    shares: dict[Points, float] = defaultdict(float)
    of_datasets = window_shares(data, {name: one.trajectories for name, one in known.items()})
    for name, share in of_datasets.items():
        shares[seen_on(known[name].grid, model, data)] += share
    return dict(shares) if len(shares) > 1 else dict.fromkeys(shares, 1.0)


def grid_rules(grids: Mapping[str, Points], model: ModelConfig, data: DataConfig) -> str:
    """Return by which rule each dataset gets to the grid of the network, in one line.

    A dataset that is stored on just that grid is not named; the line is empty if all are.

    Args:
        grids: Of each dataset, the grid that it is stored on.
        model: The model.
        data: How datasets reach it.
    """
    return "; ".join(_rules(grids, model, data))


def said(points: Points) -> str:
    """Return a grid in words, as 64 x 96."""
    return " x ".join(map(str, points))


def _rules(grids: Mapping[str, Points], model: ModelConfig, data: DataConfig) -> Iterator[str]:
    seen = {name: seen_on(grid, model, data) for name, grid in grids.items()}
    if data.shapes == "native":
        yield "as stored: " + _listed(grids)
    else:
        other = {name: grid for name, grid in grids.items() if grid != seen[name]}
        stretched = {n: grid for n, grid in other.items() if not _alike(grid, model.space)}
        if resized := {name: grid for name, grid in other.items() if name not in stretched}:
            yield f"resized to {said(model.space)} points: {_listed(resized)}"
        if stretched:
            yield (
                f"stretched to {said(model.space)} points, each axis by its own factor: "
                f"{_listed(stretched)}"
            )
        if other and len(set(grids.values())) == 1:
            (grid,) = set(grids.values())
            square = len(set(grid)) == 1
            yield f"model.grid={grid[0] if square else list(grid)} takes them as stored"
    for grid in sorted(set(seen.values())):
        if (padded := model.padded(grid)) != grid:
            yield f"{said(grid)} padded to {said(padded)} by its edge"


def _alike(one: Points, other: Points) -> bool:
    """Return whether grids have the same proportions."""
    return len({Fraction(*pair) for pair in zip(one, other, strict=True)}) == 1


def _listed(grids: Mapping[str, Points]) -> str:
    return ", ".join(f"{name} ({said(grid)})" for name, grid in grids.items())
