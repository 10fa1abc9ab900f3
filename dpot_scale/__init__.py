"""dpot_scale: train DPOT, a PDE foundation model, at scale.

Importing the package imports no torch: `load` and `load_model` do, when they are called.
"""

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from dpot_scale.models.forecaster import Forecaster
    from dpot_scale.serving.forecaster import ServedModel


def __getattr__(name: str) -> str:
    if name == "__version__":  # asked for only here: a checkout that is not installed has none
        return version("dpot_scale")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load(
    source: str | Path,
    dtype: "torch.dtype | None" = None,
    device: "torch.device | str | None" = None,
    dataset: str | None = None,
) -> "ServedModel":
    """Return the model in weights from anywhere, ready to forecast arrays.

    Args:
        source: The folder of a run, a checkpoint in it, a safetensors export, a released `.pth`, a
            folder in the layout of Hugging Face, or `models:/NAME/VERSION` of MLflow, whose address
            is in MLFLOW_TRACKING_URI.
        dtype: The precision; None: fp32.
        device: Where it computes; None: the first GPU if there is one, else the CPU.
        dataset: Of which of the datasets that it was trained on the channels are; None: of the only
            one.

    Raises:
        CheckpointError: there are no weights, they are damaged, or they are not of one model.
        ConfigError: the precision or the device does not exist.
        DataError: the weights know no such dataset, or were trained on normalised fields by an
            earlier version, and the statistics are gone.
    """
    from dpot_scale.serving.forecaster import ServedModel
    from dpot_scale.serving.source import read_with_data

    model = ServedModel(read_with_data(source), dtype, device)
    return model if dataset is None else model.for_dataset(dataset)


def load_model(path: str | Path) -> "Forecaster":
    """Return the model whose weights a path stands for, in fp32 and eval mode.

    Args:
        path: The folder of a run, a checkpoint in it, a safetensors export, or a released `.pth`.

    Returns:
        A module that maps frames (B, history, C, *space) to an output with `.frames`
        (B, horizon, C, *space) and, from a DPOT, `.logits` (B, num_datasets).

    Raises:
        CheckpointError: there are no weights, they are damaged, or they are not of one model.
    """
    from dpot_scale.checkpoints.weights import load_model

    return load_model(path)
