"""What a model is told of a window, as datasets keep it."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dpot_scale.config.data import DataConfig
from dpot_scale.data.conditions import Conditions, require_conditions
from dpot_scale.data.store.dataset import DatasetStore, open_store
from dpot_scale.data.store.writer import StoreWriter
from dpot_scale.data.stream.assembly import Assembler, Window
from dpot_scale.data.stream.mixture import Cut
from dpot_scale.errors import ConfigError, DataError
from dpot_scale.models.dpot.config import DPOTConfig

NAMES = ("dt", "viscosity", "forcing")


@pytest.fixture
def flow(describe, coded, tmp_path: Path) -> DatasetStore:
    """Two shards of training trajectories that differ in their viscosity, and a text of each."""
    with StoreWriter(tmp_path, describe("flow"), shard_bytes=1) as writer:
        for first in (0, 2):
            viscosity = {"viscosity": np.array([1e-3, 1e-5]) * (1 + first)}
            words = {"problem": np.array([b"tube", b"dam"]), "seed": np.arange(2)}
            writer.append("train", coded(first, 2, 6, 1, 4), viscosity | words)
        writer.append("test", coded(4, 1, 6, 1, 4), {"viscosity": np.array([0.5])})
    return open_store(tmp_path, "flow")


@pytest.fixture
def uneven(describe, coded, tmp_path: Path) -> DatasetStore:
    """Each trajectory has a time step of its own, and forces of both axes."""
    with StoreWriter(tmp_path, replace(describe("uneven"), frame_interval=2.0)) as writer:
        own = {"frame_interval": np.array([2.0, 3.0]), "forcing": np.ones((2, 2))}
        writer.append("train", coded(0, 2, 6, 1, 4), own)
    return open_store(tmp_path, "uneven")


def test_each_trajectory_has_its_own(flow, uneven) -> None:
    told = Conditions(NAMES)
    assert told.of(flow, "train", Cut(0, 0, 1))[:2] == [0.5, 1e-3]
    assert told.of(flow, "train", Cut(3, 2, 2))[:2] == pytest.approx([1.0, 3e-5])
    assert told.of(flow, "test", Cut(0, 0, 1))[:2] == [0.5, 0.5]
    assert told.of(uneven, "train", Cut(1, 0, 2))[0] == 6.0


def test_a_file_that_is_missing_costs_its_own_trajectories_alone(flow) -> None:
    missing = flow.file_of("train", 2)
    missing.unlink()
    told = Conditions(NAMES)
    kept = [told.of(flow, "train", Cut(trajectory, 0, 1))[1] for trajectory in (0, 1, 3)]
    assert kept == pytest.approx([1e-3, 1e-5, 3e-5])
    with pytest.raises(DataError, match=f"cannot read {missing} "):
        told.of(flow, "train", Cut(2, 0, 1))


def test_what_is_not_kept_or_no_single_number_is_unknown(flow, uneven) -> None:
    assert math.isnan(Conditions(NAMES).of(flow, "train", Cut(0, 0, 1))[2])
    assert all(map(math.isnan, Conditions(NAMES).of(uneven, "train", Cut(0, 0, 1))[1:]))
    assert math.isnan(Conditions(("problem",)).of(flow, "train", Cut(0, 0, 1))[0])


def test_a_batch_carries_them(flow, uneven) -> None:
    model = DPOTConfig(
        size="debug", grid=8, conditioning=("dt", "parameters"), parameters=("viscosity",)
    )
    assembler = Assembler(model, DataConfig(weights={"flow": 1}), torch.device("cpu"))
    windows = [Window(flow, "train", Cut(1, 0, 2)), Window(uneven, "train", Cut(0, 0, 1))]
    batch = assembler.batch(windows, assembler.empty(2, 3))
    torch.testing.assert_close(
        batch.conditions_BK, torch.tensor([[1.0, 1e-5], [2.0, math.nan]]), equal_nan=True
    )
    unknown = assembler.unknown_conditions(2)
    assert unknown is not None
    assert unknown.shape == (2, 2)
    assert unknown.isnan().all()
    plain = Assembler(DPOTConfig(size="debug", grid=8), assembler.data, assembler.device)
    assert plain.batch(windows, plain.empty(2, 3)).conditions_BK is None
    assert plain.unknown_conditions(2) is None


def test_a_parameter_that_no_dataset_keeps_is_refused(flow, uneven) -> None:
    def wanted(*names: str) -> DPOTConfig:
        return DPOTConfig(size="debug", conditioning=("parameters",), parameters=names)

    stores = {"flow": flow, "uneven": uneven}
    require_conditions(stores, wanted("viscosity"))
    require_conditions(stores, DPOTConfig(size="debug", conditioning=("dt",)))
    for name in ("forcing", "problem", "viscocity"):
        with pytest.raises(ConfigError) as refused:
            require_conditions(stores, wanted("viscosity", name))
        assert f"no dataset keeps a parameter {name!r}" in str(refused.value)
        assert "(they keep flow: viscosity)" in str(refused.value)
