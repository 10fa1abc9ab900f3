"""Held-out scores of a model, beside the persistence forecast, computed by all ranks together.

Legend: B trajectories, T frames, C fields, s any number of space axes, L lead times.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpot_scale.config.data import DataConfig
from dpot_scale.config.model import ModelConfig
from dpot_scale.config.run import EvaluationConfig
from dpot_scale.data.grids import seen_on
from dpot_scale.data.info import DatasetInfo
from dpot_scale.data.store.dataset import DatasetStore, Split
from dpot_scale.data.stream.assembly import Assembler, Batch
from dpot_scale.engine.runtime import World
from dpot_scale.evaluation.details import DetailKeeper, Details
from dpot_scale.evaluation.example import KEPT_FRAMES, KEPT_POINTS, Keeper, evenly, shown_leads
from dpot_scale.evaluation.frames import Shown
from dpot_scale.evaluation.grids import grid_of
from dpot_scale.evaluation.inputs import Wanted
from dpot_scale.evaluation.scores import REL_L2, DatasetScore
from dpot_scale.evaluation.tally import FIRST_LEAD, ONE_STEP, ROLLOUT, Tally, Totals
from dpot_scale.evaluation.trajectories import (
    Frames,
    Share,
    exists,
    forecast_trajectories,
    read_on_all,
    shares_of,
    up_to_its_end,
)
from dpot_scale.forecasting.physical import (
    Model,
    Network,
    in_physical_units,
    with_given_channels,
    without_obstacles,
)
from dpot_scale.forecasting.rollout import Block, forecast_blocks
from dpot_scale.models.forecaster import Forecast

Array = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class DatasetEvaluation:
    """The scores of one dataset on the grid of the model, and one forecast to look at."""

    info: DatasetInfo
    score: DatasetScore
    rel_l2_L: Array  # per lead time, mean over trajectories
    persistence_rel_l2_L: Array
    example_leads: tuple[int, ...]  # shown lead times, from 1
    example_truth_LCs: Array  # the first held-out trajectory at these; real fields only
    example_forecast_LCs: Array
    # Of one worker for a forward, by trajectory: the median of the forwards of this rank.
    forward_seconds: float = 0.0
    shown: Shown | None = None  # the same trajectory at more lead times, for reports
    details: Details | None = None  # of the evaluation of given weights


def evaluate(
    model: Model,
    stores: Mapping[str, DatasetStore],
    config: EvaluationConfig,
    model_config: ModelConfig,
    data_config: DataConfig,
    world: World,
    split: Split = "test",
    wanted: Wanted | None = None,
) -> dict[str, DatasetEvaluation]:
    """Score a held-out split of every dataset. Collective: every rank must call it.

    Frames are read and forecast a forward at a time: a long rollout takes no more memory than a
    short one.

    Args:
        model: Takes and gives frames of the shape that its config says.
        stores: The datasets.
        config: How many trajectories are forecast, and how far.
        model_config: The model.
        data_config: How frames reach the model.
        world: The ranks, which share the trajectories.
        split: The split to score.
        wanted: What is reported beyond the scores of a training; None: nothing.
    """
    found = {}
    with torch.no_grad():
        for name, store in stores.items():
            seen = model_config.on(seen_on(store.info.grid, model_config, data_config))
            scorer = _Scorer(model, store, config, seen, data_config, world, split, wanted)
            found[name] = scorer.evaluation()
    return found


class _Timed:
    """A model, and how long its forwards take.

    Attributes:
        seconds: Of each forward, by trajectory.
    """

    def __init__(self, model: Network) -> None:
        self._model = model
        self.seconds: list[float] = []

    def __call__(self, frames_BTCs: Tensor, *conditions_BK: Tensor) -> Forecast:
        started = time.perf_counter()
        forecast = self._model(frames_BTCs, *conditions_BK)
        if frames_BTCs.is_cuda:  # else only the launch of its kernels is measured
            torch.cuda.synchronize(frames_BTCs.device)
        self.seconds.append((time.perf_counter() - started) / len(frames_BTCs))
        return forecast


class _Scorer:
    """Scores one dataset; arguments as those of `evaluate`."""

    def __init__(
        self,
        model: Model,
        store: DatasetStore,
        config: EvaluationConfig,
        model_config: ModelConfig,
        data_config: DataConfig,
        world: World,
        split: Split,
        wanted: Wanted | None,
    ) -> None:
        self._model, self._store, self._split, self._world = _Timed(model), store, split, world
        self._history, self._horizon = model_config.history, model_config.horizon
        self._known = max(self._history, 0 if wanted is None else wanted.known)
        self._held_out = forecast_trajectories(store, split, config, self._known)
        self._most = max(self._held_out.values())
        self._shares = shares_of(list(self._held_out), config.batch, world)
        self._assembler = Assembler(model_config, data_config, world.device)
        self._tally = Tally((REL_L2,), self._most, model_config.channels)
        first = self._held_out[self._shares[0].indices[0]]
        fields = len(store.info.channels)
        self._keeper = Keeper(shown_leads(first), fields)
        self._kept_leads = evenly(first, KEPT_FRAMES)
        self._frames = Keeper(self._kept_leads, fields, KEPT_POINTS, planes=True)
        self._details = None
        if wanted is not None:
            grid = grid_of(wanted, store, split, model_config, data_config, world)
            times = self._times()
            self._details = DetailKeeper(
                wanted, store.info, grid, self._held_out, model_config, times
            )

    def evaluation(self) -> DatasetEvaluation:
        """Return the scores of all trajectories. Collective."""
        for number, share in enumerate(self._shares):
            self._forecast(share, keeps=number == 0)
            self._tally.end_batch(share.weights_B)
            if self._details is not None:
                self._details.end_batch()
        example, info = self._keeper.example(), self._store.info
        totals = self._tally.totals(len(self._held_out), self._world)
        return DatasetEvaluation(
            info=info,
            score=_score(totals),
            rel_l2_L=_leads(totals, "model"),
            persistence_rel_l2_L=_leads(totals, "persistence"),
            example_leads=example.leads,
            example_truth_LCs=example.truth_LCs,
            example_forecast_LCs=example.forecast_LCs,
            forward_seconds=float(np.median(self._model.seconds)),
            shown=self._shown(example.truth_LCs.shape[2:]),
            details=None if self._details is None else self._details.details(self._world),
        )

    def _shown(self, grid: tuple[int, ...]) -> Shown:
        """Return the kept frames of the first trajectory, which the model sees on a grid."""
        info = self._store.info
        if info.grid != grid:  # the points of the dataset are not those of the frames
            info = replace(info, coordinates=())
        times_L = self._times()
        return Shown(
            info=info,
            times=tuple(float(times_L[lead - 1]) for lead in self._kept_leads),
            example=self._frames.example(),
        )

    def _times(self) -> NDArray[np.float64]:
        """Return the time since the last known frame at each lead time of the first trajectory.

        Collective.
        """
        first = self._shares[0].indices[0]
        times = read_on_all(
            partial(self._store.times, self._split, first), self._store, self._world
        )
        since_L: NDArray[np.float64] = times[self._known :] - times[self._known - 1]
        return since_L

    def _forecast(self, share: Share, *, keeps: bool) -> None:
        """Forecast a batch of trajectories, a block at a time, and measure each block."""
        frames = Frames(self._assembler, self._store, self._split, share.indices, self._world)
        start = frames.read(self._known - self._history, self._history)
        leads = [self._held_out[index] for index in share.indices]
        exists_BL = exists(leads, self._most, self._world.device)
        if self._details is not None:
            self._details.begin(share, start, exists_BL)

        def read(lead: int, length: int) -> Tensor:
            return frames.read(self._known + lead, length).frames_BTCxy

        blocks = forecast_blocks(
            _of_fields(self._model, start), start.frames_BTCxy, self._horizon, self._most, read
        )
        for number, whole in enumerate(blocks):
            lead = number * self._horizon
            exists_BT = exists_BL[:, lead : lead + whole.truth.shape[1]]
            block = _counted(whole, start, exists_BT)
            self._tally.add(block, start.scored_BC, exists_BT, None)
            if keeps:
                self._keeper.add(block, lead + 1)
                self._frames.add(block, lead + 1)
            if self._details is not None:
                self._details.add(whole, lead)


def _score(totals: Totals) -> DatasetScore:
    model, persistence = (totals.of(REL_L2, name) for name in ("model", "persistence"))
    return DatasetScore(
        rel_l2=float(model[ROLLOUT]),
        one_step_rel_l2=float(model[ONE_STEP]),
        persistence_rel_l2=float(persistence[ROLLOUT]),
        persistence_one_step_rel_l2=float(persistence[ONE_STEP]),
        zero_targets=totals.zero_targets,
    )


def _leads(totals: Totals, forecast: str) -> Array:
    errors: Array = totals.of(REL_L2, forecast)[FIRST_LEAD:][: totals.quantities.leads].numpy()
    return errors.astype(np.float32)


def _counted(block: Block, batch: Batch, exists_BT: Tensor) -> Block:
    """Return a block with zeros where nothing counts: in obstacles and after the end."""
    return Block(*[up_to_its_end(without_obstacles(f, batch), exists_BT) for f in block])


def _of_fields(model: Model, batch: Batch) -> Model:
    """Return a model of physical fields that leaves masks and padding as they are."""
    physical = in_physical_units(model, batch)

    def forecast(history_BTCs: Tensor) -> Forecast:
        frames_BTCs, logits = physical(history_BTCs)
        return Forecast(with_given_channels(frames_BTCs, history_BTCs, batch), logits)

    return forecast
