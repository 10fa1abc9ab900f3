"""The same waves on several grids, learned by one small model in this process."""

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dpot_scale.config.batch import BatchConfig
from dpot_scale.config.data import DataConfig
from dpot_scale.config.run import EvaluationConfig, ObjectiveConfig
from dpot_scale.data.info import DatasetInfo
from dpot_scale.data.store.dataset import DatasetStore, open_store
from dpot_scale.data.store.writer import StoreWriter
from dpot_scale.data.stream.assembly import Assembler
from dpot_scale.data.stream.groups import open_groups
from dpot_scale.data.stream.reader import BatchStream, Share, training_windows
from dpot_scale.engine.runtime import World
from dpot_scale.evaluation.evaluator import evaluate
from dpot_scale.models.dpot.config import DPOTConfig
from dpot_scale.models.dpot.network import DPOT
from dpot_scale.training.noise import Noise
from dpot_scale.training.objective import training_loss

ALONE = World(rank=0, local_rank=0, world_size=1, device=torch.device("cpu"))
INTERVAL = 0.05
Grid = tuple[int, ...]


def waves(grid: Grid, channels: int, frames: int, speeds: np.ndarray, seed: int) -> np.ndarray:
    """Waves (N, T, C, *grid) that travel along each axis, on the periodic unit square or cube."""
    rng = np.random.default_rng(seed)
    shape = (len(speeds), channels)
    number = rng.integers(1, 3, (len(grid), *shape))  # of waves along each axis
    phase = rng.uniform(0, 2 * np.pi, shape)
    axes = [(np.arange(n) + 0.5) / n for n in grid]
    time = INTERVAL * np.arange(frames)
    place = np.meshgrid(*axes, indexing="ij")
    angle = phase[:, None, :, None] + np.zeros((1, frames, 1, *grid)).reshape(1, frames, 1, -1)
    for k, x in zip(number, place, strict=True):
        moved = x.reshape(1, 1, 1, -1) - (speeds[:, None] * time)[:, :, None, None]
        angle = angle + 2 * np.pi * k[:, None, :, None] * moved
    return np.sin(angle).reshape(len(speeds), frames, channels, *grid).astype(np.float32)


def store_of(root: Path, name: str, grid: Grid, channels: int, frames: int) -> DatasetStore:
    info = DatasetInfo(
        name=name,
        equation="waves",
        channels=tuple(f"c{i}" for i in range(channels)),
        scored=(True,) * channels,
        spatial_axes=("x", "y", "z")[: len(grid)],
        grid=grid,
        domain_length=(1.0,) * len(grid),
        frame_interval=INTERVAL,
        boundary="periodic",
        origin="generated",
        source="a test",
    )
    with StoreWriter(root, info) as writer:
        for number, (split, trajectories) in enumerate((("train", 16), ("test", 4))):
            speed = np.random.default_rng(number).uniform(0.3, 1.2, trajectories)
            fields = waves(grid, channels, frames, speed, seed=10 + number)
            writer.append(split, fields, {"speed": speed})
    return open_store(root, name)


def a_model(grid: object, channels: int, history: int, **values: Any) -> DPOTConfig:
    described = {"width": 48, "depth": 2, "heads": 4, "out_layer_dim": 16, "target": "residual"}
    described |= {"grid": grid, "channels": channels, "history": history, "normalize": True}
    return DPOTConfig.model_validate(described | values)


def train(
    model: DPOTConfig, stores: Mapping[str, DatasetStore], data: DataConfig, steps: int
) -> tuple[DPOT, list[float]]:
    torch.manual_seed(0)
    network, assembler = DPOT(model), Assembler(model, data, ALONE.device)
    frames = model.history + model.horizon
    grids = {name: assembler.space_of(store) for name, store in stores.items()}
    windows = training_windows(stores, frames, data.strides)
    mixture = open_groups(windows, grids, data, global_batch=8, seed=0)
    share = Share(BatchConfig(global_batch=8, micro_batch=8))
    stream = BatchStream(stores, mixture, share, assembler, frames)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    objective, noise, losses = ObjectiveConfig(noise=0), Noise(0, ALONE.device), []
    for batch in islice(stream.start(0), steps):
        loss = training_loss(network, batch, objective, model.history, noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    stream.close()
    return network.eval(), losses


def gains(network: DPOT, stores: Mapping[str, DatasetStore], data: DataConfig) -> dict[str, float]:
    """Errors of single steps over those of persistence."""
    found = evaluate(network, stores, EvaluationConfig(), network.config, data, ALONE)
    return {
        name: one.score.one_step_rel_l2 / one.score.persistence_one_step_rel_l2
        for name, one in found.items()
    }


def test_one_model_learns_the_same_physics_on_grids_that_it_sees_and_others(tmp_path: Path) -> None:
    grids = {"a": (64, 64), "b": (96, 160), "c": (96, 96), "d": (128, 128), "e": (60, 75)}
    stores = {name: store_of(tmp_path, name, grid, 2, 8) for name, grid in grids.items()}
    seen = {name: stores[name] for name in ("a", "b")}
    native = DataConfig(weights={"a": 1.0, "b": 1.0}, shapes="native")
    model = a_model(64, 2, 4, modes_kept="symmetric", modes=6)
    network, _ = train(model, seen, native, steps=80)
    found = gains(network, stores, native)
    assert max(found.values()) < 0.6, found


@pytest.mark.parametrize(("history", "horizon"), [(4, 2), (16, 1)])
def test_six_channels_and_any_history(tmp_path: Path, history: int, horizon: int) -> None:
    stores = {"a": store_of(tmp_path, "a", (32, 48), 6, history + 2 * horizon)}
    data = DataConfig(weights={"a": 1.0}, shapes="native")
    model = a_model((32, 48), 6, history, horizon=horizon, patch=4)
    network, losses = train(model, stores, data, steps=80)
    assert np.mean(losses[-8:]) < 0.9 * np.mean(losses[:8])
    assert gains(network, stores, data)["a"] < 1


def test_cubes_of_unequal_sides(tmp_path: Path) -> None:
    grids = {"a": (16, 16, 16), "b": (8, 16, 20)}
    stores = {name: store_of(tmp_path, name, grid, 1, 6) for name, grid in grids.items()}
    data = DataConfig(weights={"a": 1.0, "b": 1.0}, shapes="native")
    model = a_model(16, 1, 3, space_dims=3, patch=4)
    network, losses = train(model, stores, data, steps=40)
    assert np.mean(losses[-8:]) < 0.75 * np.mean(losses[:8])
    assert max(gains(network, stores, data).values()) < 1


def test_what_one_frame_does_not_show_is_learned_from_conditions(tmp_path: Path) -> None:
    """How far a wave travels to the next frame: its speed times the time step."""
    stores = {"a": store_of(tmp_path, "a", (16, 16), 1, 8)}
    data = DataConfig(weights={"a": 1.0}, strides=(1, 3))
    ends = {}
    for told in ((), ("dt",), ("dt", "parameters")):
        names = ("speed",) if "parameters" in told else ()
        model = a_model(16, 1, 1, patch=4, conditioning=told, parameters=names)
        _, losses = train(model, stores, data, steps=250)
        ends[told] = float(np.mean(losses[-25:]))
    nothing, step, both = ends.values()
    assert step < 0.92 * nothing, ends
    assert both < 0.7 * step, ends
