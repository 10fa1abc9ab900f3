"""Held-out scores of a model, beside the persistence forecast, computed by all ranks together.

Legend: B trajectories, T frames, C fields, s any number of space axes, L lead times.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpot_scale.config.data import DataConfig
from dpot_scale.config.model import ModelConfig
from dpot_scale.config.run import EvaluationConfig
from dpot_scale.data.grids import seen_on
from dpot_scale.data.store.dataset import DatasetStore, Split
from dpot_scale.data.stream.assembly import Assembler, Batch, Window
from dpot_scale.data.stream.mixture import Cut
from dpot_scale.engine.collectives import raise_on_all, sum_over_ranks
from dpot_scale.engine.runtime import World
from dpot_scale.errors import DataError
from dpot_scale.evaluation.scores import DatasetScore
from dpot_scale.forecasting.errors import counted_fields, mean_rel_l2
from dpot_scale.forecasting.physical import (
    Model,
    in_physical_units,
    with_given_channels,
    without_obstacles,
)
from dpot_scale.forecasting.rollout import (
    persistence,
    rollout,
    teacher_forced,
    teacher_forced_persistence,
)
from dpot_scale.models.forecaster import Forecast

Array = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class DatasetEvaluation:
    """The scores of one dataset, their growth with lead time, and one forecast to look at."""

    channels: tuple[str, ...]
    score: DatasetScore
    rel_l2_L: Array  # per lead time, mean over trajectories
    persistence_rel_l2_L: Array
    example_truth_LCs: Array  # the first held-out trajectory; real fields only
    example_forecast_LCs: Array


def evaluate(
    model: Model,
    stores: Mapping[str, DatasetStore],
    config: EvaluationConfig,
    model_config: ModelConfig,
    data_config: DataConfig,
    world: World,
    split: Split = "test",
) -> dict[str, DatasetEvaluation]:
    """Score a held-out split of every dataset. Collective: every rank must call it."""
    found = {}
    with torch.no_grad():
        for name, store in stores.items():
            seen = model_config.on(seen_on(store.info.grid, model_config, data_config))
            found[name] = _evaluate_dataset(model, store, split, config, seen, data_config, world)
    return found


def _evaluate_dataset(
    model: Model,
    store: DatasetStore,
    split: Split,
    config: EvaluationConfig,
    model_config: ModelConfig,
    data_config: DataConfig,
    world: World,
) -> DatasetEvaluation:
    held_out = forecast_trajectories(store, split, config, model_config.history)
    lead_frames, trajectories = max(held_out.values()), len(held_out)
    assembler = Assembler(model_config, data_config, world.device)
    columns = 4 + 2 * lead_frames
    sums = torch.zeros(2 * columns + 1, dtype=torch.float64)
    examples: list[tuple[Array, Array]] = []
    for indices, weights_B in _shares(list(held_out), config.batch, world):
        windows = [Window(store, split, Cut(index, start=0, stride=1)) for index in indices]
        room = assembler.empty(len(windows), model_config.history + lead_frames)
        batch = _read_together(assembler, windows, room, world)
        exists_BL = _exists([held_out[index] for index in indices], lead_frames, world.device)
        forecasts = _forecast(model, batch, model_config, exists_BL)
        errors = torch.column_stack(_errors(forecasts, batch.scored_BC, exists_BL))
        sums += weights_B @ errors.double().cpu()
        fields, leads = len(store.info.channels), held_out[indices[0]]
        examples.append(
            (_first(forecasts.truth, leads, fields), _first(forecasts.rollout, leads, fields))
        )
    totals = sum_over_ranks(sums, world).numpy()
    with np.errstate(invalid="ignore"):  # NaN where no trajectory has a field that counts
        means = totals[:columns] / (trajectories - totals[columns:-1])
    return DatasetEvaluation(
        channels=store.info.channels,
        score=DatasetScore(
            rel_l2=means[0],
            one_step_rel_l2=means[1],
            persistence_rel_l2=means[2],
            persistence_one_step_rel_l2=means[3],
            zero_targets=int(totals[-1]),
        ),
        rel_l2_L=means[4 : 4 + lead_frames].astype(np.float32),
        persistence_rel_l2_L=means[4 + lead_frames :].astype(np.float32),
        example_truth_LCs=examples[0][0],
        example_forecast_LCs=examples[0][1],
    )


def _read_together(
    assembler: Assembler, windows: Sequence[Window], room: Tensor, world: World
) -> Batch:
    """Return a batch; a rank that cannot read its own stops all of them. Collective."""
    batch, problem = None, None
    try:
        batch = assembler.batch(windows, room)
    except DataError as error:
        problem = error
    raise_on_all(problem, world)
    assert batch is not None
    return batch


class _Forecasts(NamedTuple):
    """What is compared, each (B, L, C, *s)."""

    truth: Tensor
    rollout: Tensor
    one_step: Tensor
    persistence: Tensor
    one_step_persistence: Tensor


def _exists(leads: Sequence[int], most: int, device: torch.device) -> Tensor:
    """Return (B, L): whether a trajectory, with so many frames to forecast, has one at a lead."""
    leads_B1 = torch.tensor(leads, device=device)[:, None]
    return torch.arange(most, device=device) < leads_B1


def _forecast(model: Model, batch: Batch, config: ModelConfig, exists_BL: Tensor) -> _Forecasts:
    frames_BTCs, history, horizon = batch.frames_BTCxy, config.history, config.horizon
    history_BTCs, truth_BLCs = frames_BTCs[:, :history], frames_BTCs[:, history:]
    leads = truth_BLCs.shape[1]
    known = _of_fields(model, batch)
    forecasts = _Forecasts(
        truth=truth_BLCs,
        rollout=rollout(known, history_BTCs, leads),
        one_step=teacher_forced(known, frames_BTCs, history, horizon),
        persistence=persistence(history_BTCs, leads),
        one_step_persistence=teacher_forced_persistence(frames_BTCs, history, horizon),
    )
    return _Forecasts(
        *[_up_to_its_end(without_obstacles(frames, batch), exists_BL) for frames in forecasts]
    )


def _up_to_its_end(frames_BLCs: Tensor, exists_BL: Tensor) -> Tensor:
    """Return frames with zeros after the end of a trajectory, which count in no error."""
    if exists_BL.all():
        return frames_BLCs
    exists = exists_BL.view(*exists_BL.shape, *[1] * (frames_BLCs.ndim - 2))
    return frames_BLCs.where(exists, 0)  # a forecast that went astray may be infinite


def _of_fields(model: Model, batch: Batch) -> Model:
    """Return a model of physical fields that leaves masks and padding as they are."""
    physical = in_physical_units(model, batch)

    def forecast(history_BTCs: Tensor) -> Forecast:
        frames_BTCs, logits = physical(history_BTCs)
        return Forecast(with_given_channels(frames_BTCs, history_BTCs, batch), logits)

    return forecast


def _errors(
    forecasts: _Forecasts, scored_BC: Tensor, exists_BL: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the scores of each trajectory, which of them do not count, and what was left out.

    A frame after the end of a trajectory is zero in the truth and in every forecast. So it adds
    nothing to the error of a rollout, and at its lead time the trajectory does not count.

    Returns:
        (B, 4 + 2 L): the four scores, then rollout and persistence per lead time; 0 where no field
            counts.
        (B, 4 + 2 L): 1 where no field counts, else 0.
        (B,): in how many frames a field is zero everywhere, summed over fields.
    """
    truth = forecasts.truth
    leads = range(truth.shape[1])
    counted_BLC = torch.stack(
        [counted_fields(truth[:, t : t + 1], scored_BC) for t in leads], dim=1
    )
    has_score_BL = counted_BLC.any(2)
    has_score_B1 = has_score_BL.any(1, keepdim=True)
    one_step, one_step_persistence = (
        _per_lead(forecast, truth, scored_BC).sum(1, keepdim=True)
        / has_score_BL.sum(1, keepdim=True).clamp(min=1)
        for forecast in (forecasts.one_step, forecasts.one_step_persistence)
    )
    scores = [
        mean_rel_l2(forecasts.rollout, truth, scored_BC)[:, None],
        one_step,
        mean_rel_l2(forecasts.persistence, truth, scored_BC)[:, None],
        one_step_persistence,
        _per_lead(forecasts.rollout, truth, scored_BC),
        _per_lead(forecasts.persistence, truth, scored_BC),
    ]
    has_none = torch.cat([has_score_B1] * 4 + [has_score_BL] * 2, dim=1).logical_not()
    left_out_BLC = scored_BC[:, None] & exists_BL[:, :, None] & counted_BLC.logical_not()
    return torch.cat(scores, dim=1), has_none, left_out_BLC.sum((1, 2))


def forecast_trajectories(
    store: DatasetStore, split: Split, config: EvaluationConfig, history: int
) -> dict[int, int]:
    """Return the trajectories that are forecast, and how many frames of each.

    Each is forecast to its end, or to `rollout_frames`. One that ends with the history is not.
    """
    lengths = [frames for run, frames in store.lengths(split) for _ in range(run)]
    longest = max(lengths, default=0)
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


def _shares(indices: Sequence[int], batch: int, world: World) -> list[tuple[list[int], Tensor]]:
    """Return this rank's batches of trajectory indices, with a weight (0 or 1) for each.

    Under ZeRO-3 a forward is a collective, so every rank gets equally many, equally large
    batches; those past the end repeat the last trajectory with weight 0.
    """
    trajectories = len(indices)
    batch = min(batch, math.ceil(trajectories / world.world_size))
    shares = []
    for first in range(0, trajectories, batch * world.world_size):
        positions = [first + i * world.world_size + world.rank for i in range(batch)]
        weights_B = torch.tensor([float(p < trajectories) for p in positions], dtype=torch.float64)
        shares.append(([indices[min(p, trajectories - 1)] for p in positions], weights_B))
    return shares


def _per_lead(forecast_BTCs: Tensor, truth_BTCs: Tensor, scored_BC: Tensor) -> Tensor:
    """Return (B, T): the relative L2 error of each lead time on its own; 0 where nothing counts."""
    leads = range(truth_BTCs.shape[1])
    per_frame = [
        mean_rel_l2(forecast_BTCs[:, t : t + 1], truth_BTCs[:, t : t + 1], scored_BC) for t in leads
    ]
    return torch.stack(per_frame, dim=1)


def _first(frames_BTCs: Tensor, leads: int, fields: int) -> Array:
    example: Array = frames_BTCs[0, :leads, :fields].float().cpu().numpy()
    return example
