"""Held-out scores of a model, beside the persistence forecast, computed by all ranks together.

Legend: B trajectories, T frames, C fields, s any number of space axes, L lead times.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpot_scale.config.schema import EvaluationConfig, ModelConfig
from dpot_scale.data.batches import Batch, assemble
from dpot_scale.data.store import DatasetStore
from dpot_scale.engine.runtime import World
from dpot_scale.errors import DataError
from dpot_scale.evaluation.rollout import (
    Model,
    persistence,
    rollout,
    teacher_forced,
    teacher_forced_persistence,
)
from dpot_scale.training.metrics import sum_over_ranks
from dpot_scale.training.objective import mean_over_fields, rel_l2
from dpot_scale.training.result import DatasetScore

Array = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class DatasetEvaluation:
    """The scores of one dataset, their growth with lead time, and one forecast to look at."""

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
    world: World,
) -> dict[str, DatasetEvaluation]:
    """Score the test split of every dataset. Collective: every rank must call it."""
    with torch.no_grad():
        return {
            name: _evaluate_dataset(model, store, config, model_config, world)
            for name, store in stores.items()
        }


def eval_metrics(evaluations: Mapping[str, DatasetEvaluation]) -> dict[str, float]:
    """Return the scores as tracked metrics, `eval/<dataset>/<score>`, and their mean."""
    metrics: dict[str, float] = {}
    for name, evaluation in evaluations.items():
        for key, value in evaluation.score.model_dump().items():
            metrics[f"eval/{name}/{key}"] = value
    metrics["eval/mean/rel_l2"] = float(
        np.mean([evaluation.score.rel_l2 for evaluation in evaluations.values()])
    )
    return metrics


def _evaluate_dataset(
    model: Model,
    store: DatasetStore,
    config: EvaluationConfig,
    model_config: ModelConfig,
    world: World,
) -> DatasetEvaluation:
    history, horizon = model_config.history, model_config.horizon
    lead_frames = _lead_frames(store, config, history)
    trajectories = min(config.trajectories, store.num_trajectories("test"))
    sums = torch.zeros(4 + 2 * lead_frames, dtype=torch.float64)
    example: tuple[Array, Array] | None = None
    for indices, weights in _shares(trajectories, config.batch, world):
        batch = _load(store, indices, history + lead_frames, model_config, world)
        frames_BTCs = batch.frames_BTCxy
        history_BTCs, truth_BTCs = frames_BTCs[:, :history], frames_BTCs[:, history:]
        forecast_BTCs = rollout(model, history_BTCs, lead_frames)
        repeated_BTCs = persistence(history_BTCs, lead_frames)
        one_step_BTCs = teacher_forced(model, frames_BTCs, history, horizon)
        one_step_repeated_BTCs = teacher_forced_persistence(frames_BTCs, history, horizon)
        scored_BC = batch.scored_BC
        values_BS = torch.cat(
            [
                mean_over_fields(rel_l2(forecast_BTCs, truth_BTCs), scored_BC)[:, None],
                _per_lead(one_step_BTCs, truth_BTCs, scored_BC).mean(1, keepdim=True),
                mean_over_fields(rel_l2(repeated_BTCs, truth_BTCs), scored_BC)[:, None],
                _per_lead(one_step_repeated_BTCs, truth_BTCs, scored_BC).mean(1, keepdim=True),
                _per_lead(forecast_BTCs, truth_BTCs, scored_BC),
                _per_lead(repeated_BTCs, truth_BTCs, scored_BC),
            ],
            dim=1,
        )
        sums += weights @ values_BS.double().cpu()
        if example is None:
            fields = len(store.info.channels)
            example = (_example(truth_BTCs, fields), _example(forecast_BTCs, fields))
    assert example is not None
    means = (sum_over_ranks(sums, world) / trajectories).numpy()
    return DatasetEvaluation(
        score=DatasetScore(
            rel_l2=means[0],
            one_step_rel_l2=means[1],
            persistence_rel_l2=means[2],
            persistence_one_step_rel_l2=means[3],
        ),
        rel_l2_L=means[4 : 4 + lead_frames].astype(np.float32),
        persistence_rel_l2_L=means[4 + lead_frames :].astype(np.float32),
        example_truth_LCs=example[0],
        example_forecast_LCs=example[1],
    )


def _lead_frames(store: DatasetStore, config: EvaluationConfig, history: int) -> int:
    """Return how many frames are forecast."""
    available = store.num_frames("test") - history
    wanted = config.rollout_frames or available
    if not 1 <= wanted <= available:
        raise DataError(
            f"dataset {store.info.name} stores {store.num_frames('test')} test frames, but "
            f"model.history={history} plus evaluation.rollout_frames="
            f"{config.rollout_frames or 1} are needed"
        )
    return wanted


def _shares(trajectories: int, batch: int, world: World) -> list[tuple[list[int], Tensor]]:
    """Return this rank's batches of trajectory indices, with a weight (0 or 1) for each.

    Under ZeRO-3 a forward is a collective, so every rank gets equally many, equally large
    batches; those past the end repeat the last trajectory with weight 0.
    """
    per_round = batch * world.world_size
    shares = []
    for first in range(world.rank, trajectories, per_round) or [world.rank]:
        positions = [first + i * world.world_size for i in range(batch)]
        weights = torch.tensor([float(p < trajectories) for p in positions], dtype=torch.float64)
        shares.append(([min(p, trajectories - 1) for p in positions], weights))
    return shares


def _load(
    store: DatasetStore, indices: list[int], frames: int, model: ModelConfig, world: World
) -> Batch:
    windows = [store.read("test", index, 0, frames) for index in indices]
    infos = [store.info] * len(indices)
    return assemble(
        windows, infos, grid=model.grid, channels=model.channels, device=world.device
    )


def _per_lead(forecast_BTCs: Tensor, truth_BTCs: Tensor, scored_BC: Tensor) -> Tensor:
    """Return (B, T): the relative L2 error of each lead time on its own."""
    leads = range(truth_BTCs.shape[1])
    per_frame = [
        mean_over_fields(rel_l2(forecast_BTCs[:, t : t + 1], truth_BTCs[:, t : t + 1]), scored_BC)
        for t in leads
    ]
    return torch.stack(per_frame, dim=1)


def _example(frames_BTCs: Tensor, fields: int) -> Array:
    example: Array = frames_BTCs[0, :, :fields].float().cpu().numpy()
    return example
