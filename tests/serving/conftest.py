"""Weights that know two datasets, for the tests of what is registered and served."""

from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
import torch

from dpot_scale.checkpoints.weights_file import save_model
from dpot_scale.data.channels import Channels, TrainingData
from dpot_scale.models.dpot.config import DPOTConfig
from dpot_scale.models.dpot.network import DPOT


def _channels(*names: str) -> Channels:
    count = len(names)
    return Channels(
        names=names,
        scored=(True,) * count,
        mean=(1.0,) * count,
        std=(2.0,) * count,
        frame_interval=0.1,
    )


@pytest.fixture(scope="session")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a small model that was trained on flow (u, v) and on heat (T)."""
    config = DPOTConfig.model_validate(
        {
            "size": "debug",
            "width": 16,
            "depth": 1,
            "heads": 2,
            "out_layer_dim": 8,
            "grid": 16,
            "patch": 4,
            "channels": 2,
            "history": 3,
        }
    )
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    data = TrainingData(datasets={"flow": _channels("u", "v"), "heat": _channels("T")})
    save_model(path, config, DPOT(config).state_dict(), data)
    return path


@pytest.fixture(autouse=True)
def _own_registry() -> Iterator[None]:
    """What a test tells MLflow of its registry, it tells the environment, and so later tests."""
    yield
    mlflow.set_tracking_uri(None)
