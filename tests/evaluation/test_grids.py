"""Where forecasts are compared: on the stored grid, or as it was published."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from dpot_scale.config.load import load_run
from dpot_scale.config.run import EvaluationConfig, RunConfig
from dpot_scale.data.info import DatasetInfo
from dpot_scale.data.store.dataset import DatasetStore, open_store
from dpot_scale.data.store.writer import StoreWriter
from dpot_scale.engine.runtime import World, start_world
from dpot_scale.errors import ConfigError
from dpot_scale.evaluation.details import Details
from dpot_scale.evaluation.evaluator import DatasetEvaluation, evaluate
from dpot_scale.evaluation.inputs import ScoredOn, Wanted
from dpot_scale.evaluation.tally import FIRST_LEAD, ROLLOUT
from dpot_scale.models.forecaster import Forecast


@pytest.fixture(scope="module")
def config(tiny_yaml: Path) -> RunConfig:
    return load_run(str(tiny_yaml))  # history 4, 16 x 16 points


@pytest.fixture(scope="module")
def world() -> World:
    return start_world()


def double(history: Tensor) -> Forecast:
    return Forecast(2 * history[:, -1:], None)


def stored(folder: Path, grid: int, *, mask: bool = False) -> tuple[DatasetStore, Tensor]:
    """A dataset of one test trajectory, and its frames (T, *grid) of the field u."""
    info = DatasetInfo(
        name="flow",
        equation="none",
        channels=("u", "mask") if mask else ("u",),
        scored=(True, False) if mask else (True,),
        spatial_axes=("x", "y"),
        grid=(grid, grid),
        domain_length=(1.0, 1.0),
        frame_interval=1.0,
        boundary="periodic",
        origin="generated",
        source="a test",
        fluid_mask="mask" if mask else "",
    )
    fields = np.random.default_rng(0).normal(size=(1, 6, len(info.channels), grid, grid))
    fields = fields.astype(np.float32)
    if mask:
        fields[:, :, 1] = 1
        fields[:, :, 1, : grid // 2] = 0
    with StoreWriter(folder, info) as writer:
        writer.append("test", fields)
    return open_store(folder, "flow"), torch.from_numpy(fields[0, :, 0])


def scored(
    store: DatasetStore, config: RunConfig, world: World, scored_on: ScoredOn = "stored"
) -> DatasetEvaluation:
    wanted = Wanted(scored_on=scored_on)
    options = EvaluationConfig()
    return evaluate(
        double, {"flow": store}, options, config.model, config.data, world, wanted=wanted
    )["flow"]


def details(found: DatasetEvaluation) -> Details:
    assert found.details is not None
    return found.details


def resized(frames: Tensor, grid: int) -> Tensor:
    return functional.interpolate(frames[None], size=[grid, grid], mode="bilinear")[0]


def rel_l2(forecast: Tensor, truth: Tensor) -> float:
    return float((forecast - truth).norm() / truth.norm())


def test_on_the_grid_of_the_model_both_scores_are_the_same(
    tmp_path: Path, config: RunConfig, world: World
) -> None:
    found = scored(stored(tmp_path, 16)[0], config, world)
    assert details(found).points == (16, 16)
    assert found.score.rel_l2 == details(found).totals.of("rel_l2", "model")[ROLLOUT]


@pytest.mark.parametrize("grid", [8, 24, 32])
def test_a_forecast_is_compared_on_the_stored_grid(
    grid: int, tmp_path: Path, config: RunConfig, world: World
) -> None:
    store, frames = stored(tmp_path, grid)
    found = scored(store, config, world)
    assert details(found).points == (grid, grid)
    seen = resized(frames, 16)  # training compares as the model sees it
    forecast = torch.stack([2 * seen[3], 4 * seen[3]])
    assert found.score.rel_l2 == pytest.approx(rel_l2(forecast, seen[4:]), rel=1e-6)
    errors = details(found).totals
    expected = rel_l2(resized(forecast, grid), frames[4:])
    assert errors.of("rel_l2", "model")[ROLLOUT] == pytest.approx(expected, rel=1e-6)
    expected = rel_l2(resized(2 * seen[4:5], grid)[0], frames[5])
    one_step = errors.of("rel_l2", "model")[1]
    first = errors.of("rel_l2", "model")[FIRST_LEAD]
    assert 2 * one_step - first == pytest.approx(expected, rel=1e-6)
    # Persistence knows the stored frames.
    expected = rel_l2(frames[3].expand(2, -1, -1), frames[4:])
    assert errors.of("rel_l2", "persistence")[ROLLOUT] == pytest.approx(expected, rel=1e-6)
    expected = (rel_l2(frames[3], frames[4]) + rel_l2(frames[4], frames[5])) / 2
    assert errors.of("rel_l2", "persistence")[1] == pytest.approx(expected, rel=1e-6)


def test_obstacles_are_those_of_the_stored_grid(
    tmp_path: Path, config: RunConfig, world: World
) -> None:
    store, frames = stored(tmp_path, 32, mask=True)
    data = config.data.model_copy(update={"mask_points": True})
    found = scored(store, config.model_copy(update={"data": data}), world)
    expected = rel_l2(frames[3, 16:].expand(2, -1, -1), frames[4:, 16:])
    persistence = details(found).totals.of("rel_l2", "persistence")[ROLLOUT]
    assert persistence == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("grid", "stride"), [(64, 2), (128, 1), (32, 1)])
def test_the_published_protocol_compares_at_128_points_or_every_second(
    grid: int, stride: int, tmp_path: Path, config: RunConfig, world: World
) -> None:
    model = config.model.model_copy(update={"grid": 128})
    store, frames = stored(tmp_path, grid)
    found = scored(store, config.model_copy(update={"model": model}), world, "published")
    assert details(found).points == (128 // stride,) * 2
    seen = resized(frames, 128)
    forecast = torch.stack([2 * seen[3], 4 * seen[3]])
    expected = rel_l2(forecast[:, ::stride, ::stride], seen[4:, ::stride, ::stride])
    assert details(found).totals.of("rel_l2", "model")[ROLLOUT] == pytest.approx(expected, rel=1e-6)


def test_the_published_protocol_needs_the_published_grid(
    tmp_path: Path, config: RunConfig, world: World
) -> None:
    with pytest.raises(
        ConfigError, match=r"compares at 128 x 128 points, and the .* takes 16 x 16"
    ):
        scored(stored(tmp_path, 16)[0], config, world, "published")
