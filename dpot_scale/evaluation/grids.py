"""The grid on which a forecast is compared with the truth.

A training compares on the grid of the model, to which every dataset is resized. An evaluation
compares on the stored grid, and as it was published where it is asked to.

Legend: B trajectories, T frames, C fields, s any number of space axes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from dpot_scale.config.data import DataConfig
from dpot_scale.config.model import ModelConfig
from dpot_scale.data.store.dataset import DatasetStore, Split
from dpot_scale.data.stream.assembly import INTERPOLATION, Assembler, Batch
from dpot_scale.engine.runtime import World
from dpot_scale.errors import ConfigError
from dpot_scale.evaluation.inputs import Wanted
from dpot_scale.evaluation.trajectories import Frames
from dpot_scale.forecasting.rollout import Block

# Hao et al. resize all data to it, and compare datasets of half of it at every second point.
PUBLISHED_GRID = 128


class ModelGrid:
    """Compares every `stride`-th point of each axis of the grid of the model.

    Args:
        points: Those of the model along each axis.
        stride: From one point that is compared to the next.
    """

    def __init__(self, points: Sequence[int], stride: int = 1) -> None:
        self._stride = stride
        self.points = tuple(-(-n // stride) for n in points)

    def begin(self, indices: Sequence[int], batch: Batch) -> Tensor | None:
        """Take the trajectories of the next blocks; return (B, *s): which points count, or None."""
        del indices
        inside_Bs = batch.counted_Bxy
        return None if inside_Bs is None else self._thinned(inside_Bs, 1)

    def seen(self, block: Block, lead: int) -> Block:
        """Return a block of the model, whose first lead time is counted from 0, on this grid."""
        del lead
        return Block(*[self._thinned(frames, 3) for frames in block])

    def _thinned(self, values: Tensor, axes_before: int) -> Tensor:
        for axis in range(axes_before, values.ndim):
            step = torch.arange(0, values.shape[axis], self._stride, device=values.device)
            values = values.index_select(axis, step) if self._stride > 1 else values
        return values


class StoredGrid:
    """Compares on the grid on which a dataset is stored, to which forecasts are resized.

    Args:
        store: The dataset.
        split: The split of its trajectories.
        model: Whose forecasts are on another grid.
        data: What a batch holds beside frames.
        world: The ranks.
        known: Frames before a forecast begins.
    """

    def __init__(
        self,
        store: DatasetStore,
        split: Split,
        model: ModelConfig,
        data: DataConfig,
        world: World,
        known: int,
    ) -> None:
        self.points = store.info.grid
        self._known = known
        self._store, self._split, self._world = store, split, world
        self._assembler = Assembler(model.on(self.points), data, world.device)

    def begin(self, indices: Sequence[int], batch: Batch) -> Tensor | None:
        """Take the trajectories of the next blocks; return (B, *s): which points count, or None.

        Collective, as `seen`.
        """
        del batch
        self._frames = Frames(self._assembler, self._store, self._split, indices, self._world)
        stored = self._frames.read(self._known - 1, 1)
        self._last_B1Cs = self._known_B1Cs = stored.frames_BTCxy
        return stored.counted_Bxy

    def seen(self, block: Block, lead: int) -> Block:
        """Return a block of the model, whose first lead time is counted from 0, on this grid."""
        length = block.truth.shape[1]
        truth_BTCs = self._frames.read(self._known + lead, length).frames_BTCxy
        of_block = (-1, length, *[-1] * (truth_BTCs.ndim - 2))
        seen = Block(
            truth=truth_BTCs,
            rollout=_resized(block.rollout, self.points),
            one_step=_resized(block.one_step, self.points),
            persistence=self._last_B1Cs.expand(of_block),
            one_step_persistence=self._known_B1Cs.expand(of_block),
        )
        self._known_B1Cs = truth_BTCs[:, -1:]
        return seen


Grid = ModelGrid | StoredGrid


def grid_of(
    wanted: Wanted,
    store: DatasetStore,
    split: Split,
    model: ModelConfig,
    data: DataConfig,
    world: World,
) -> Grid:
    """Return the grid on which the forecasts of a dataset are compared.

    Raises:
        ConfigError: the published protocol is asked for, and the model has another grid.
    """
    points = model.space
    if wanted.scored_on == "published":
        if points != (PUBLISHED_GRID,) * 2:
            raise ConfigError(
                f"the published protocol compares at {PUBLISHED_GRID} x {PUBLISHED_GRID} points, "
                f"and the model takes {' x '.join(map(str, points))}: leave --metric paper out"
            )
        is_half = all(2 * n == PUBLISHED_GRID for n in store.info.grid)
        return ModelGrid(points, stride=2 if is_half else 1)
    if store.info.grid == points:
        return ModelGrid(points)
    known = max(model.history, wanted.known)
    return StoredGrid(store, split, model, data, world, known)


def _resized(frames_BTCs: Tensor, points: Sequence[int]) -> Tensor:
    """Return frames on another grid, by the rule by which datasets are resized for a model."""
    maps = functional.interpolate(
        frames_BTCs.flatten(0, 1), size=list(points), mode=INTERPOLATION[len(points)]
    )
    return maps.view(*frames_BTCs.shape[:2], *maps.shape[1:])
