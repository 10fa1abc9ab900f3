"""What the evaluation of given weights reports beyond what a training does.

Legend: B trajectories, N all trajectories, T frames, L lead times, S shown lead times, C fields,
K wave numbers, s any number of space axes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpot_scale.config.model import ModelConfig
from dpot_scale.data.info import DatasetInfo
from dpot_scale.data.stream.assembly import Batch
from dpot_scale.engine.collectives import sum_over_ranks
from dpot_scale.engine.runtime import World
from dpot_scale.evaluation.example import (
    MOVING_FRAMES,
    MOVING_POINTS,
    Example,
    Keeper,
    evenly,
    shown_leads,
)
from dpot_scale.evaluation.grids import Grid
from dpot_scale.evaluation.inputs import Wanted
from dpot_scale.evaluation.metrics import shells
from dpot_scale.evaluation.scores import METRICS
from dpot_scale.evaluation.tally import Tally, Totals
from dpot_scale.evaluation.trajectories import Share, up_to_its_end
from dpot_scale.forecasting.rollout import Block

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Details:
    """All metrics of a model on a dataset, and what figures show."""

    info: DatasetInfo
    points: tuple[int, ...]  # of the grid that is compared
    trajectories: int
    totals: Totals
    errors_NL: Array  # rel_l2 of each trajectory and lead time; NaN where none is
    spectrum_leads: tuple[int, ...]
    truth_spectra_SCK: Array  # mean over trajectories of |F|^2 in shells of wave numbers
    forecast_spectra_SCK: Array
    times_L: Array  # of the shown trajectory: since the last known frame, at each lead time
    example: Example
    moving: Example | None


class DetailKeeper:
    """Measures the blocks of a dataset on a grid.

    Args:
        wanted: What is asked for.
        info: The dataset.
        grid: Where truth and forecast are compared.
        held_out: How many frames are forecast of each trajectory, by its index.
        model: The model.
        times_L: Since the last known frame, of the first trajectory of this rank.
    """

    def __init__(
        self,
        wanted: Wanted,
        info: DatasetInfo,
        grid: Grid,
        held_out: Mapping[int, int],
        model: ModelConfig,
        times_L: Array,
    ) -> None:
        self._times_L = times_L
        self._wanted, self._info, self._grid = wanted, info, grid
        self._lengths = tuple(held_out.values())
        leads, fields = max(self._lengths), len(info.channels)
        self._tally = Tally(tuple(METRICS), leads, model.channels)
        self._errors_NL = torch.zeros(len(held_out), leads, dtype=torch.float64)
        self._spectrum_leads = shown_leads(leads, wanted.leads)
        shape = (2, len(self._spectrum_leads), fields, min(grid.points) // 2 + 1)
        self._spectra = torch.zeros(shape, dtype=torch.float64)
        self._still: Keeper | None = None
        self._moving: Keeper | None = None
        self._keeps = False

    def begin(self, share: Share, batch: Batch, exists_BL: Tensor) -> None:
        """Take the next batch of trajectories. Collective, as all that follows.

        Args:
            share: The batch.
            batch: Its histories, as the model sees them.
            exists_BL: Whether a trajectory has a frame to forecast at a lead time.
        """
        self._share, self._scored_BC, self._exists_BL = share, batch.scored_BC, exists_BL
        self._inside_Bs = self._grid.begin(share.indices, batch)
        self._keeps = self._still is None
        if self._keeps:  # the first trajectory; that of the main rank is shown
            leads, fields = self._lengths[share.positions[0]], len(self._info.channels)
            self._still = Keeper(shown_leads(leads, self._wanted.leads), fields)
            if self._wanted.moving:
                self._moving = Keeper(evenly(leads, MOVING_FRAMES), fields, MOVING_POINTS)

    def add(self, block: Block, lead: int) -> None:
        """Measure a block of the model, whose first lead time is counted from 0."""
        seen = self._grid.seen(block, lead)
        exists_BT = self._exists_BL[:, lead : lead + block.truth.shape[1]]
        inside = 1 if self._inside_Bs is None else self._inside_Bs[:, None, None]
        seen = Block(*[up_to_its_end(frames * inside, exists_BT) for frames in seen])
        self._tally.add(seen, self._scored_BC, exists_BT, self._inside_Bs)
        self._add_spectra(seen, lead)
        for keeper in (self._still, self._moving):
            if self._keeps and keeper is not None:
                keeper.add(seen, lead + 1)

    def _add_spectra(self, seen: Block, lead: int) -> None:
        fields = len(self._info.channels)
        for s, shown in enumerate(self._spectrum_leads):
            t = shown - 1 - lead
            if 0 <= t < seen.truth.shape[1]:
                counting = self._share.weights_B > 0
                for i, frames in enumerate((seen.truth, seen.rollout)):
                    of_B = shells(frames[:, t : t + 1, :fields])[:, 0]
                    self._spectra[i, s] += of_B[counting].sum(0)

    def end_batch(self) -> None:
        """Add the present batch to the sums."""
        errors_BL = self._tally.end_batch(self._share.weights_B)
        positions = torch.tensor(self._share.positions)
        counting = self._share.weights_B > 0
        self._errors_NL[positions[counting]] = errors_BL[counting]

    def details(self, world: World) -> Details:
        """Return the means over all trajectories of all ranks."""
        assert self._still is not None
        trajectories = len(self._lengths)
        spectra = sum_over_ranks(self._spectra, world)
        there = [sum(n >= lead for n in self._lengths) for lead in self._spectrum_leads]
        spectra /= torch.tensor(there, dtype=torch.float64)[None, :, None, None]
        return Details(
            info=self._info,
            points=self._grid.points,
            trajectories=trajectories,
            totals=self._tally.totals(trajectories, world),
            errors_NL=sum_over_ranks(self._errors_NL, world).numpy(),
            spectrum_leads=self._spectrum_leads,
            truth_spectra_SCK=spectra[0].numpy(),
            forecast_spectra_SCK=spectra[1].numpy(),
            times_L=self._times_L,
            example=self._still.example(),
            moving=None if self._moving is None else self._moving.example(),
        )
