"""Scores: of a model that is persistence, on any number of ranks, and as a table."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dpot_scale.config.load import load_run
from dpot_scale.config.run import EvaluationConfig, RunConfig
from dpot_scale.data.datasets import open_datasets
from dpot_scale.data.info import DatasetInfo
from dpot_scale.data.store.dataset import DatasetStore, open_store
from dpot_scale.data.store.writer import StoreWriter
from dpot_scale.engine.runtime import World, start_world
from dpot_scale.evaluation.evaluator import (
    DatasetEvaluation,
    evaluate,
)
from dpot_scale.evaluation.monitor import eval_metrics
from dpot_scale.evaluation.tables import score_table
from dpot_scale.forecasting.physical import Model
from dpot_scale.models.families import family_of
from dpot_scale.models.family import KEEP_ALL
from dpot_scale.models.forecaster import Forecast

Stores = dict[str, DatasetStore]


@pytest.fixture(scope="module")
def config(tiny_yaml: Path) -> RunConfig:
    return load_run(str(tiny_yaml))


@pytest.fixture(scope="module")
def stores(config: RunConfig) -> Stores:
    return open_datasets(config.data, config.model, progress=lambda _: None)


@pytest.fixture(scope="module")
def world() -> World:
    return start_world()


class Repeat:
    """The last frame times a factor; counts its forwards by their batch."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor
        self.batches: list[int] = []

    def __call__(self, history: Tensor) -> Forecast:
        self.batches.append(len(history))
        return Forecast(frames=self.factor * history[:, -1:], logits=torch.empty(0))


def scored(
    model: Model,
    stores: Stores,
    config: RunConfig,
    world: World,
    **evaluation: int,
) -> dict[str, DatasetEvaluation]:
    options = EvaluationConfig(**evaluation)
    return evaluate(model, stores, options, config.model, config.data, world)


class Slow(Repeat):
    """Takes 20 ms for each trajectory of a forward."""

    def __call__(self, history: Tensor) -> Forecast:
        time.sleep(0.02 * len(history))
        return super().__call__(history)


def test_the_time_of_a_forward_is_measured_by_trajectory(
    stores: Stores, config: RunConfig, world: World
) -> None:
    for found in scored(Slow(), stores, config, world, trajectories=3, batch=2).values():
        assert 0.02 <= found.forward_seconds < 0.1


def test_a_model_that_is_persistence_scores_as_persistence(
    stores: Stores, config: RunConfig, world: World
) -> None:
    for name, found in scored(Repeat(), stores, config, world).items():
        assert found.score.rel_l2 == found.score.persistence_rel_l2 > 0, name
        assert found.score.one_step_rel_l2 == found.score.persistence_one_step_rel_l2 > 0, name
        assert found.score.one_step_rel_l2 < found.score.rel_l2, name
        np.testing.assert_array_equal(found.rel_l2_L, found.persistence_rel_l2_L)


@pytest.mark.parametrize("normalize", ["none", "dataset"])
@pytest.mark.parametrize("mask_points", [False, True])
def test_a_fresh_residual_scores_as_persistence(
    normalize: str, mask_points: bool, stores: Stores, config: RunConfig, world: World
) -> None:
    data = config.data.model_copy(update={"normalize": normalize, "mask_points": mask_points})
    model = config.model.model_copy(update={"target": "residual"})
    residual = config.model_copy(update={"model": model, "data": data})
    network = family_of(model).network(model, KEEP_ALL, "float32")
    for name, found in scored(network, stores, residual, world).items():
        score = found.score
        assert score.rel_l2 == pytest.approx(score.persistence_rel_l2, rel=1e-5), name
        expected = score.persistence_one_step_rel_l2
        assert score.one_step_rel_l2 == pytest.approx(expected, rel=1e-5), name


def test_scores_are_means_over_real_fields_and_trajectories(
    stores: Stores, config: RunConfig, world: World
) -> None:
    """Against numpy, on a dataset with one real field and one of padding."""
    store = stores["swe_pdb_generated"]
    history = config.model.history
    found = scored(Repeat(1.5), {"swe": store}, config, world)["swe"]
    truth_NLxy = np.stack([store.read("test", i, 0, 9)[:, 0] for i in range(2)])
    leads = 9 - history
    growing_L = 1.5 ** np.arange(1, leads + 1)
    forecast_NLxy = truth_NLxy[:, history - 1, None] * growing_L[None, :, None, None]
    error_NLxy = forecast_NLxy - truth_NLxy[:, history:]
    norms_N = np.linalg.norm(truth_NLxy[:, history:].reshape(2, -1), axis=1)
    errors_N = np.linalg.norm(error_NLxy.reshape(2, -1), axis=1)
    assert found.score.rel_l2 == pytest.approx(np.mean(errors_N / norms_N), rel=1e-5)
    assert found.info.channels == ("h",)
    assert found.example_truth_LCs.shape == (leads, 1, 16, 16)
    np.testing.assert_allclose(found.example_truth_LCs[:, 0], truth_NLxy[0, history:])
    np.testing.assert_allclose(found.example_forecast_LCs[:, 0], forecast_NLxy[0], rtol=1e-6)


def test_a_model_of_normalised_fields_is_scored_in_physical_units(
    stores: Stores, config: RunConfig, world: World
) -> None:
    """Repeating a normalised frame is repeating the frame."""
    normalized = config.model_copy(
        update={"data": config.data.model_copy(update={"normalize": "dataset"})}
    )
    model = Repeat()
    for name, found in scored(model, stores, normalized, world).items():
        expected = scored(Repeat(), stores, config, world)[name].score
        assert found.score.rel_l2 == pytest.approx(expected.rel_l2, rel=1e-5), name


def described(name: str, **scored: bool) -> DatasetInfo:
    """Return a dataset on 16 x 16 points, with these channels."""
    return DatasetInfo(
        name=name,
        equation="none",
        channels=tuple(scored),
        scored=tuple(scored.values()),
        spatial_axes=("x", "y"),
        grid=(16, 16),
        domain_length=(1.0, 1.0),
        frame_interval=1.0,
        boundary="periodic",
        origin="generated",
        source="a test",
    )


@pytest.fixture
def at_rest(tmp_path: Path) -> DatasetStore:
    """Fluids: u begins at rest and stays there in the first; h is 2 and then 3."""
    info = described("at_rest", h=True, u=True)
    fields = np.full((3, 9, 2, 16, 16), 2.0)
    fields[:, 4:, 0] = 3.0
    fields[:, :6, 1] = 0.0
    fields[0, :, 1] = 0.0
    with StoreWriter(tmp_path, info) as writer:
        writer.append("train", fields)
        writer.append("test", fields)
    return open_store(tmp_path, "at_rest")


def test_a_field_at_rest_is_left_out_and_counted(
    at_rest: DatasetStore, config: RunConfig, world: World
) -> None:
    """A model that forecasts 1 everywhere, and persistence: h is off by 2/3 and 1/3."""

    def ones(history: Tensor) -> Forecast:
        return Forecast(torch.ones_like(history[:, -1:]), torch.empty(0))

    found = scored(ones, {"at_rest": at_rest}, config, world)["at_rest"]
    both = (2 / 3 + 0.5) / 2  # u is 2 in frames 6 to 8, where 1 is off by half
    first_u_error = np.sqrt(2 * 1.0 + 3 * 1.0) / np.sqrt(3 * 4.0)  # over all five frames
    assert found.rel_l2_L == pytest.approx([2 / 3, 2 / 3, *[(2 / 3 + 2 * both) / 3] * 3])
    assert found.score.rel_l2 == pytest.approx((2 / 3 + 2 * (2 / 3 + first_u_error) / 2) / 3)
    assert found.persistence_rel_l2_L[:2] == pytest.approx([1 / 3, 1 / 3])
    assert found.score.persistence_rel_l2 < 1
    assert found.score.zero_targets == 5 + 2 + 2
    assert eval_metrics({"at_rest": found})["eval/at_rest/zero_targets"] == 9
    lines = score_table({"at_rest": found.score}).splitlines()
    assert lines[2:] == ["left out of at_rest: 9 frames of a field that are zero everywhere"]


def test_nothing_is_left_out_where_nothing_is_zero(
    stores: Stores, config: RunConfig, world: World
) -> None:
    found = scored(Repeat(), stores, config, world)
    assert {evaluation.score.zero_targets for evaluation in found.values()} == {0}
    assert not [key for key in eval_metrics(found) if key.endswith("zero_targets")]


class Blind:
    """Knows the truth, 5, but not where the mask is 0; forgets the mask."""

    def __call__(self, history: Tensor) -> Forecast:
        inside = history[:, -1:, 1:2] == 0
        field = torch.where(inside, -1.0, 5.0)
        return Forecast(torch.cat([field, torch.full_like(field, 9.0)], 2), torch.empty(0))


@pytest.mark.parametrize("mask_points", [False, True])
def test_points_inside_obstacles_count_where_asked(
    mask_points: bool, config: RunConfig, world: World, tmp_path: Path
) -> None:
    info = replace(described("obstacle", u=True, mask=False), fluid_mask="mask")
    fields = np.full((1, 9, 2, 16, 16), 5.0)
    fields[:, :, 1] = 1
    fields[:, :, 1, :4] = 0
    with StoreWriter(tmp_path, info) as writer:
        writer.append("train", fields)
        writer.append("test", fields)
    data = config.data.model_copy(update={"mask_points": mask_points})
    masked = config.model_copy(update={"data": data})
    stores = {"obstacle": open_store(tmp_path, "obstacle")}
    score = scored(Blind(), stores, masked, world)["obstacle"].score
    # Wrong by 6 at a quarter of the points. A forgotten mask would be seen in the rollout.
    expected = 0.0 if mask_points else 6 * 0.25**0.5 / 5
    assert score.rel_l2 == pytest.approx(expected)
    assert score.one_step_rel_l2 == pytest.approx(expected)


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_ranks_share_the_trajectories(
    batch: int, stores: Stores, config: RunConfig, world: World
) -> None:
    """Each of three pretended ranks returns its share of the means; here no rank adds them up."""
    model = Repeat(1.5)
    whole = scored(model, stores, config, world, trajectories=16, batch=8)
    ranks = [World(rank=r, local_rank=r, world_size=3, device=world.device) for r in range(3)]
    models = [Repeat(1.5) for _ in ranks]
    shares = [
        scored(model, stores, config, rank, trajectories=16, batch=batch)
        for model, rank in zip(models, ranks, strict=True)
    ]
    for name, expected in whole.items():
        total = sum(share[name].score.rel_l2 for share in shares)
        assert total == pytest.approx(expected.score.rel_l2), name
    assert models[0].batches == models[1].batches == models[2].batches, "a forward is collective"
    assert set(models[0].batches) == {1}, "three trajectories, three ranks: nothing twice"


def test_fewer_trajectories_and_frames(stores: Stores, config: RunConfig, world: World) -> None:
    store = {"dr": stores["dr_pdb_generated"]}
    found = scored(Repeat(), store, config, world, trajectories=1, rollout_frames=2)["dr"]
    assert found.rel_l2_L.shape == (2,)
    everything = scored(Repeat(), store, config, world)["dr"]
    assert found.score.rel_l2 < everything.score.rel_l2


@pytest.mark.parametrize("batch", [1, 2, 8])
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_trajectory_counts_up_to_its_end(
    batch: int, ranks: int, config: RunConfig, world: World, tmp_path: Path
) -> None:
    """Each has the scores that it has alone; one without a frame to forecast has none."""
    history, lengths = config.model.history, (9, 0, 5, 7)
    noise = np.random.default_rng(0)
    tests = [noise.normal(size=(1, history + n - 4, 1, 16, 16)) for n in lengths if n]
    tests.insert(1, noise.normal(size=(1, history, 1, 16, 16)))
    with StoreWriter(tmp_path, described("mixed", h=True)) as writer:
        for trajectory in tests:
            writer.append("test", trajectory)
    alone = []
    for number, trajectory in enumerate(tests):
        if trajectory.shape[1] > history:
            with StoreWriter(tmp_path, described(f"alone_{number}", h=True)) as writer:
                writer.append("test", trajectory)
            one = {"one": open_store(tmp_path, f"alone_{number}")}
            alone.append(scored(Repeat(1.5), one, config, world)["one"])
    mixed = {"mixed": open_store(tmp_path, "mixed")}
    worlds = [
        World(rank=r, local_rank=r, world_size=ranks, device=world.device) for r in range(ranks)
    ]
    found = [scored(Repeat(1.5), mixed, config, w, batch=batch)["mixed"] for w in worlds]
    for name in ("rel_l2", "one_step_rel_l2", "persistence_rel_l2"):
        total = sum(getattr(share.score, name) for share in found)
        assert total == pytest.approx(np.mean([getattr(one.score, name) for one in alone]))
    for lead in range(5 if ranks == 1 else 0):  # pretended ranks do not add up who counts
        at_lead = [one.rel_l2_L[lead] for one in alone if len(one.rel_l2_L) > lead]
        assert found[0].rel_l2_L[lead] == pytest.approx(np.mean(at_lead), rel=1e-5), lead
    assert found[0].rel_l2_L.shape == (5,)
    assert found[0].score.zero_targets == 0
    np.testing.assert_allclose(found[0].example_truth_LCs, tests[0][0, history:], rtol=1e-6)
    if ranks == 2:
        assert found[1].example_truth_LCs.shape[0] == 1, "the shorter one ends after a frame"


def test_a_forecast_is_kept_for_reports_with_its_times(
    stores: Stores, config: RunConfig, world: World
) -> None:
    store = stores["swe_pdb_generated"]
    history, interval = config.model.history, store.info.frame_interval
    shown = scored(Repeat(1.5), {"swe": store}, config, world)["swe"].shown
    assert shown is not None
    leads = range(1, 9 - history + 1)
    assert shown.example.leads == tuple(leads)
    assert shown.times == pytest.approx([lead * interval for lead in leads])
    truth_Lxy = store.read("test", 0, 0, 9)[history:, 0]
    np.testing.assert_allclose(shown.example.truth_LCs[:, 0], truth_Lxy)
    assert shown.info == store.info
