"""Frames of one forecast trajectory, for people to look at.

Legend: L shown lead times, T frames of a block, C fields, s any number of space axes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # it imports torch, which the report of a sweep does without
    from dpot_scale.forecasting.rollout import Block

Array = NDArray[np.float32]

SHOWN_LEAD_TIMES = 5
# A moving picture has no more frames and points than these, however long a rollout is.
MOVING_FRAMES = 60
MOVING_POINTS = 256
# What a run keeps of each dataset for reports, however long its rollouts and large its grids are.
KEPT_FRAMES = 12
KEPT_POINTS = 128


@dataclass(frozen=True, kw_only=True)
class Example:
    """Truth and forecast of a trajectory at a few lead times, which count from 1."""

    leads: tuple[int, ...]
    truth_LCs: Array  # real fields only
    forecast_LCs: Array


class Keeper:
    """Keeps the frames of some lead times of a rollout, block by block.

    Args:
        leads: The lead times, from 1, in order.
        fields: The first channels, which are kept.
        most_points: Along an axis; others are left out.
        planes: Whether of a 3D field only the plane through the middle of its last axis is kept.
    """

    def __init__(
        self,
        leads: Sequence[int],
        fields: int,
        most_points: int | None = None,
        *,
        planes: bool = False,
    ) -> None:
        self._leads = tuple(leads)
        self._fields = fields
        self._most_points = most_points
        self._planes = planes
        self._kept: Array | None = None  # (2, L, C, *s)

    def add(self, block: "Block", first: int) -> None:
        """Take the next block of the first trajectory, whose lead times begin with `first`."""
        length = block.truth.shape[1]
        for number, lead in enumerate(self._leads):
            if first <= lead < first + length:
                for i, frames in enumerate((block.truth, block.rollout)):
                    fields_Cs = frames[0, lead - first, : self._fields].float().cpu().numpy()
                    frame_Cs = self._thinned(fields_Cs)
                    if self._kept is None:
                        # At once: pieces between larger ones would keep the heap from using those.
                        self._kept = np.empty((2, len(self._leads), *frame_Cs.shape), np.float32)
                    self._kept[i, number] = frame_Cs

    def example(self) -> Example:
        """Return what was kept."""
        assert self._kept is not None
        truth_LCs, forecast_LCs = self._kept
        return Example(leads=self._leads, truth_LCs=truth_LCs, forecast_LCs=forecast_LCs)

    def _thinned(self, frame_Cs: Array) -> Array:
        if self._planes:
            frame_Cs = middle_plane(frame_Cs)
        space = frame_Cs.shape[1:]
        step = -(-max(space) // (self._most_points or max(space)))
        return frame_Cs[(slice(None), *[slice(None, None, step)] * len(space))]


def middle_plane(fields_Cs: Array) -> Array:
    """Return (C, x, y): of 3D fields the plane through the middle of their last axis."""
    return fields_Cs[..., fields_Cs.shape[-1] // 2] if fields_Cs.ndim == 4 else fields_Cs


def shown_leads(leads: int, wanted: Sequence[int] = ()) -> tuple[int, ...]:
    """Return the lead times to show of a rollout: those wanted that it has, else five of them."""
    return tuple(sorted({lead for lead in wanted if lead <= leads})) or evenly(
        leads, SHOWN_LEAD_TIMES
    )


def evenly(leads: int, most: int) -> tuple[int, ...]:
    """Return at most so many lead times, from the first to the last."""
    return tuple(number + 1 for number in spread(leads, most))


def spread(count: int, most: int) -> list[int]:
    """Return at most so many numbers below a count, evenly from the first to the last."""
    numbers = np.linspace(0, count - 1, most).astype(int) if count else np.array([], int)
    return [int(number) for number in np.unique(numbers)]
