"""dpot_scale: train DPOT, a PDE foundation model, at scale.

Importing the package imports no torch: `load_model` does, when it is called.
"""

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dpot_scale.models.forecaster import Forecaster


def __getattr__(name: str) -> str:
    if name == "__version__":  # asked for only here: a checkout that is not installed has none
        return version("dpot_scale")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


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
