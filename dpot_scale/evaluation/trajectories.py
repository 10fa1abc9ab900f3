"""Which held-out trajectories are forecast, on which rank, and their frames.

Legend: B trajectories, T frames, C fields, s any number of space axes.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from dpot_scale.config.run import EvaluationConfig
from dpot_scale.data.store.dataset import DatasetStore, Split
from dpot_scale.data.stream.assembly import Assembler, Batch, Window
from dpot_scale.data.stream.mixture import Cut
from dpot_scale.data.stream.patience import Patience
from dpot_scale.engine.collectives import on_every_rank
from dpot_scale.engine.runtime import World
from dpot_scale.errors import DataError

T = TypeVar("T")


def forecast_trajectories(
    store: DatasetStore, split: Split, config: EvaluationConfig, history: int
) -> dict[int, int]:
    """Return the trajectories that are forecast, and how many frames of each.

    Each is forecast to its end, or to `rollout_frames`. One that ends with the history is not.

    Raises:
        DataError: none is long enough.
    """
    lengths = [frames for run, frames in store.lengths(split) for _ in range(run)]
    longest = max(lengths, default=0)
    if not lengths:
        raise DataError(f"dataset {store.info.name} has no {split} trajectories to forecast")
    if longest < history + (config.rollout_frames or 1):
        raise DataError(
            f"dataset {store.info.name} stores {longest} {split} frames, but "
            f"model.history={history} plus evaluation.rollout_frames="
            f"{config.rollout_frames or 1} are needed"
        )
    most = config.rollout_frames or longest
    leads = {
        index: min(most, frames - history)
        for index, frames in enumerate(lengths)
        if frames > history
    }
    return dict(list(leads.items())[: config.trajectories])


class Share(NamedTuple):
    """A batch of trajectories for one rank."""

    indices: list[int]  # of the trajectories in their split
    positions: list[int]  # of these among those that are forecast
    weights_B: Tensor  # 1, or 0 for one that only fills the batch; double


def shares_of(indices: Sequence[int], batch: int, world: World) -> list[Share]:
    """Return this rank's batches of trajectories.

    Under ZeRO-3 a forward is a collective, so every rank gets equally many, equally large
    batches; those past the end repeat the last trajectory with weight 0.
    """
    trajectories = len(indices)
    batch = min(batch, math.ceil(trajectories / world.world_size))
    shares = []
    for first in range(0, trajectories, batch * world.world_size):
        positions = [first + i * world.world_size + world.rank for i in range(batch)]
        weights_B = torch.tensor([float(p < trajectories) for p in positions], dtype=torch.float64)
        within = [min(p, trajectories - 1) for p in positions]
        shares.append(Share([indices[p] for p in within], within, weights_B))
    return shares


class Frames:
    """Frames of a batch of trajectories, read as they are asked for.

    Args:
        assembler: Makes batches of them.
        store: Where they are stored.
        split: The split of the trajectories.
        indices: The trajectories.
        world: The ranks; each reads as many batches.
    """

    def __init__(
        self,
        assembler: Assembler,
        store: DatasetStore,
        split: Split,
        indices: Sequence[int],
        world: World,
    ) -> None:
        self._assembler = assembler
        self._store = store
        self._split = split
        self._indices = indices
        self._world = world

    def read(self, start: int, frames: int) -> Batch:
        """Return frames (B, frames, C, *s); after the end of a trajectory its last one. Collective.

        Raises:
            DataError, MachineError: on all ranks, the first problem that a rank has.
        """
        windows = [
            Window(self._store, self._split, Cut(index, min(start, last), stride=1))
            for index in self._indices
            for last in [self._store.num_frames(self._split, index) - 1]
        ]
        room = self._assembler.empty(len(windows), frames)
        read = partial(self._assembler.batch, windows, room)
        return read_on_all(read, self._store, self._world)


def read_on_all(read: Callable[[], T], store: DatasetStore, world: World) -> T:
    """Call `read` on every rank, again where that may help, and return its result. Collective.

    Raises:
        DataError, MachineError: on all ranks, the first problem that a rank has.
    """
    patience = Patience()
    return on_every_rank(lambda: patience.read(read), world, store.folder)


def exists(leads: Sequence[int], most: int, device: torch.device) -> Tensor:
    """Return (B, L): whether a trajectory, with so many frames to forecast, has one at a lead."""
    leads_B1 = torch.tensor(leads, device=device)[:, None]
    return torch.arange(most, device=device) < leads_B1


def up_to_its_end(frames_BTCs: Tensor, exists_BT: Tensor) -> Tensor:
    """Return frames with zeros after the end of a trajectory, which count in no error."""
    if exists_BT.all():
        return frames_BTCs
    shown = exists_BT.view(*exists_BT.shape, *[1] * (frames_BTCs.ndim - 2))
    return frames_BTCs.where(shown, 0)  # a forecast that went astray may be infinite
