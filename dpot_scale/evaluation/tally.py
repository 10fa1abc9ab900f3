"""Sums of errors over trajectories, whose size does not depend on how many there are.

Legend: B trajectories, T frames of a block, L lead times, C fields, G groups of fields (all of them
together, then each), Q quantities (`Quantities`), M metrics, s any number of space axes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dpot_scale.engine.collectives import max_over_ranks, sum_over_ranks
from dpot_scale.engine.runtime import World
from dpot_scale.evaluation.metrics import frame_errors, is_constant
from dpot_scale.evaluation.scores import MAX_ERROR, REL_L2, WINDOWS
from dpot_scale.forecasting.errors import NORM_FLOOR, norm
from dpot_scale.forecasting.rollout import Block

FORECASTS = ("model", "persistence")
ROLLOUT, ONE_STEP, FIRST_LEAD = 0, 1, 2  # the first of the quantities


@dataclass(frozen=True)
class Quantities:
    """What is reported of a metric: rollout, one step, each lead time, each window of lead times.

    Args:
        leads: The most frames that are forecast of a trajectory.
    """

    leads: int

    @property
    def windows(self) -> dict[str, slice]:
        """Return the windows that a rollout reaches, cut to it: `6:12` are lead times 6 to 12."""
        reached = [(a, min(b, self.leads)) for a, b in WINDOWS if a <= self.leads]
        return {f"{first}:{last}": slice(first - 1, last) for first, last in reached}

    def __len__(self) -> int:
        return FIRST_LEAD + self.leads + len(self.windows)


class Tally:
    """Adds up the metrics of a dataset, block by block and batch by batch.

    Args:
        metrics: Which ones; `rel_l2` comes first.
        leads: The most frames that are forecast of a trajectory.
        channels: The channels of a batch.
    """

    def __init__(self, metrics: Sequence[str], leads: int, channels: int) -> None:
        assert metrics[0] == REL_L2
        self.metrics = tuple(metrics)
        self.quantities = Quantities(leads)
        shape = (len(FORECASTS), len(self.metrics), 1 + channels, len(self.quantities))
        self._sums = torch.zeros(shape, dtype=torch.float64)
        self._largest = torch.zeros(shape, dtype=torch.float64)
        self._left_out = torch.zeros(shape, dtype=torch.float64)
        self._skipped = torch.zeros(2, dtype=torch.float64)  # zero and constant targets
        self._batch: _Batch | None = None

    def add(
        self, block: Block, scored_BC: Tensor, exists_BT: Tensor, inside: Tensor | None
    ) -> None:
        """Measure a block of the present batch.

        Args:
            block: Truth and forecasts, zero after the end of a trajectory and inside obstacles.
            scored_BC: The channels that are compared.
            exists_BT: Whether a trajectory has a frame there.
            inside: (B, *s): which points count; None: all.
        """
        if self._batch is None:
            trajectories, channels = scored_BC.shape
            self._batch = _Batch(self.metrics, trajectories, self.quantities.leads, channels)
        self._batch.add(block, scored_BC, exists_BT, inside)

    def end_batch(self, weights_B: Tensor) -> Tensor:
        """Add the present batch to the sums.

        Args:
            weights_B: 1 for each trajectory that counts, else 0.

        Returns:
            (B, L): the error `rel_l2` of the model at each lead time; NaN where none is, infinite
            where the forecast is not finite.
        """
        batch, self._batch = self._batch, None
        assert batch is not None
        per_lead_BL = torch.empty(0)
        for f in range(len(FORECASTS)):
            for m, metric in enumerate(self.metrics):
                values_BGQ, has_BGQ = _reduced(metric, f, batch, self.quantities)
                values_BGQ = values_BGQ.where(has_BGQ, 0)
                missing_BGQ = has_BGQ.logical_not().double()
                counting = values_BGQ[weights_B > 0]
                self._left_out[f, m] += missing_BGQ[weights_B > 0].sum(0)
                self._sums[f, m] += counting.sum(0)
                if metric == MAX_ERROR and len(counting):
                    self._largest[f, m] = self._largest[f, m].maximum(counting.amax(0))
                if (f, m) == (0, 0):
                    leads = slice(FIRST_LEAD, FIRST_LEAD + self.quantities.leads)
                    # One that went astray is the worst, not absent.
                    errors_BGQ = values_BGQ.nan_to_num(nan=torch.inf, posinf=torch.inf)
                    per_lead_BL = errors_BGQ.masked_fill(missing_BGQ > 0, torch.nan)[:, 0, leads]
        self._skipped += torch.stack(
            [weights_B @ skipped for skipped in (batch.zeros_B, batch.constants_B)]
        )
        return per_lead_BL

    def totals(self, trajectories: int, world: World) -> "Totals":
        """Return the means over all trajectories of all ranks. Collective."""
        parts = [self._sums, self._left_out, self._skipped]
        total = sum_over_ranks(torch.cat([part.flatten() for part in parts]), world)
        sums, left_out, skipped = torch.split(total, [part.numel() for part in parts])
        # NaN where no trajectory has a field that counts
        means = (sums / (trajectories - left_out)).view_as(self._sums)
        if MAX_ERROR in self.metrics:
            m = self.metrics.index(MAX_ERROR)
            counted = left_out.view_as(self._sums)[:, m] < trajectories
            means[:, m] = max_over_ranks(self._largest[:, m], world).where(counted, torch.nan)
        zeros, constants = skipped.tolist()
        return Totals(self.metrics, self.quantities, means, int(zeros), int(constants))


@dataclass(frozen=True)
class Totals:
    """The means of a dataset, and what was left out of them."""

    metrics: tuple[str, ...]
    quantities: Quantities
    means: Tensor  # (forecasts, M, G, Q), double
    zero_targets: int  # frames of a field that are zero everywhere
    constant_targets: int  # others that are the same at all points: they have no `vrmse`

    def of(self, metric: str, forecast: str, group: int = 0) -> Tensor:
        """Return (Q,) of a group of fields: 0 for all of them, then each field."""
        return self.means[FORECASTS.index(forecast), self.metrics.index(metric), group]


class _Batch:
    """The errors of the frames of a batch, block by block.

    Their room is made once: small tensors that outlive the large ones of their block would keep the
    heap from using that memory again.

    Attributes:
        frames: Per metric of single frames (forecasts, 2, B, L, C): of model and persistence, the
            rollout and the one step.
        error_norms: Alike.
        truth_norms_BLC: Of the truth.
        counted_BLC: Whether a field has a relative error.
        varies_BLC: Whether it has a variance, too.
        zeros_B: How many fields of all frames are zero everywhere.
        constants_B: How many others have no variance.
    """

    def __init__(
        self, metrics: Sequence[str], trajectories: int, leads: int, channels: int
    ) -> None:
        shape, kinds = (trajectories, leads, channels), (len(FORECASTS), 2)
        single = [metric for metric in metrics if metric != REL_L2]
        self.frames = {
            metric: torch.zeros(*kinds, *shape, dtype=torch.float64) for metric in single
        }
        self.error_norms = torch.zeros(*kinds, *shape, dtype=torch.float64)
        self.truth_norms_BLC = torch.zeros(shape, dtype=torch.float64)
        self.counted_BLC = torch.zeros(shape, dtype=torch.bool)
        self.varies_BLC = torch.zeros(shape, dtype=torch.bool)
        self.zeros_B = torch.zeros(trajectories, dtype=torch.float64)
        self.constants_B = torch.zeros(trajectories, dtype=torch.float64)
        self._next = 0

    def add(
        self, block: Block, scored_BC: Tensor, exists_BT: Tensor, inside_Bs: Tensor | None
    ) -> None:
        """Measure the next block."""
        truth = block.truth
        leads = slice(self._next, self._next + truth.shape[1])
        self._next = leads.stop
        truth_norms_BTC = _norms(truth)
        present_BTC = scored_BC[:, None] & exists_BT[:, :, None]
        counted_BTC = present_BTC & (truth_norms_BTC != 0)
        varies_BTC = counted_BTC
        if self.frames:
            varies_BTC = counted_BTC & ~is_constant(truth, inside_Bs)
        forecasts = (block.rollout, block.one_step, block.persistence, block.one_step_persistence)
        for number, forecast in enumerate(forecasts):
            place = divmod(number, 2)
            self.error_norms[place][:, leads] = _norms(forecast - truth)
            if self.frames:
                for metric, errors_BTC in frame_errors(forecast, truth, inside_Bs).items():
                    self.frames[metric][place][:, leads] = errors_BTC
        self.truth_norms_BLC[:, leads] = truth_norms_BTC
        self.counted_BLC[:, leads] = counted_BTC
        self.varies_BLC[:, leads] = varies_BTC
        self.zeros_B += (present_BTC & ~counted_BTC).sum((1, 2)).cpu()
        self.constants_B += (counted_BTC & ~varies_BTC).sum((1, 2)).cpu()


def _norms(frames_BTCs: Tensor) -> Tensor:
    """Return (B, T, C) of single frames, in double."""
    norms_Cs = norm(frames_BTCs.flatten(0, 1)[:, None])
    return norms_Cs.view(frames_BTCs.shape[:3]).double()


def _reduced(
    metric: str, forecast: int, batch: _Batch, quantities: Quantities
) -> tuple[Tensor, Tensor]:
    """Return (B, G, Q) of one metric of each trajectory, and which of them there are."""
    counted_BLC = batch.varies_BLC if metric == "vrmse" else batch.counted_BLC
    if metric == REL_L2:
        rollout_BLC, one_step_BLC = batch.error_norms[forecast] / (
            batch.truth_norms_BLC + NORM_FLOOR
        )
    else:
        rollout_BLC, one_step_BLC = batch.frames[metric][forecast]
    largest = metric == MAX_ERROR
    lead_BLG, has_BLG = _grouped(rollout_BLC, counted_BLC, largest=largest)
    one_BLG, _ = _grouped(one_step_BLC, counted_BLC, largest=largest)

    def over(leads: slice) -> Tensor:
        if metric == REL_L2:
            return _rel_l2_over(batch, forecast, leads)
        return _over_leads(lead_BLG[:, leads], has_BLG[:, leads], largest=largest)

    everywhere, windows = slice(None), quantities.windows.values()
    columns = [
        over(everywhere)[..., None],
        _over_leads(one_BLG, has_BLG, largest=largest)[..., None],
        lead_BLG.transpose(1, 2),
        *[over(window)[..., None] for window in windows],
    ]
    has = [
        has_BLG.any(1)[..., None].expand(-1, -1, 2),
        has_BLG.transpose(1, 2),
        *[has_BLG[:, window].any(1)[..., None] for window in windows],
    ]
    return torch.cat(columns, dim=2), torch.cat(has, dim=2)


def _rel_l2_over(batch: _Batch, forecast: int, leads: slice) -> Tensor:
    """Return (B, G): the relative L2 error over these frames together, as the paper has it."""
    error_BC = batch.error_norms[forecast, 0][:, leads].square().sum(1).sqrt()
    truth_BC = batch.truth_norms_BLC[:, leads].square().sum(1).sqrt()
    counted_BC = batch.counted_BLC[:, leads].any(1)
    grouped, _ = _grouped(
        (error_BC / (truth_BC + NORM_FLOOR))[:, None], counted_BC[:, None], largest=False
    )
    return grouped[:, 0]


def _grouped(values_BLC: Tensor, counted_BLC: Tensor, *, largest: bool) -> tuple[Tensor, Tensor]:
    """Return (B, L, G), for all fields together and for each, and which of them there are."""
    kept_BLC = values_BLC.where(counted_BLC, 0)
    together_BL1 = (
        kept_BLC.amax(2, keepdim=True)
        if largest
        else kept_BLC.sum(2, keepdim=True) / counted_BLC.sum(2, keepdim=True).clamp(min=1)
    )
    has_BL1 = counted_BLC.any(2, keepdim=True)
    return torch.cat([together_BL1, kept_BLC], 2), torch.cat([has_BL1, counted_BLC], 2)


def _over_leads(values_BLG: Tensor, has_BLG: Tensor, *, largest: bool) -> Tensor:
    """Return (B, G): the mean over lead times, or the largest."""
    kept_BLG = values_BLG.where(has_BLG, 0)
    return kept_BLG.amax(1) if largest else kept_BLG.sum(1) / has_BLG.sum(1).clamp(min=1)
