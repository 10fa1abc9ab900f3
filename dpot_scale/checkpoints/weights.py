"""Weights, wherever they are: in the folder of a run, in a checkpoint, or in a weights file.

One process opens them, without DeepSpeed's engine, whatever number of ranks wrote them.
"""

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from dpot_scale.checkpoints.checkpoint import is_file, newest_intact, open_checkpoint, verify
from dpot_scale.checkpoints.deepspeed_files import refuse_code
from dpot_scale.checkpoints.shards import Master, masters
from dpot_scale.checkpoints.source import config_of, no_weights
from dpot_scale.checkpoints.weights_file import (
    Weights,
    model_of,
    read_data_in,
    read_model_in,
    read_weights_file,
    require_keys,
    shapes_of,
    stream_model,
)
from dpot_scale.config.load import load_run
from dpot_scale.config.model import ModelConfig
from dpot_scale.config.places import CHECKPOINTS, HUB_CONFIG, RESULT_FILE, RUN_CONFIG, WEIGHTS
from dpot_scale.data.channels import TrainingData, read_training_data
from dpot_scale.errors import CheckpointError
from dpot_scale.models.adapter import Parts, added, is_of_pair, pairs_of
from dpot_scale.models.families import family_of
from dpot_scale.models.family import KEEP_ALL, SpectralDtype
from dpot_scale.models.forecaster import Forecaster


def read(source: Path) -> Weights:
    """Return the weights that a path stands for.

    Args:
        source: The folder of a run, which stands for the weights that it ended with, else for its
            newest intact checkpoint; one checkpoint; a `.safetensors` export; or a released `.pth`.

    Returns:
        The model and the state dict, whose keys account for the whole of it. Those of a
        checkpoint are its fp32 masters; those of a file have the dtype that it holds.

    Raises:
        CheckpointError: there are none, they are damaged, or would run code when they are read.
    """
    return read_found(find(source))


def load_model(source: str | Path) -> Forecaster:
    """Return the model whose weights a path stands for, in fp32 and eval mode.

    Raises:
        CheckpointError: as `read`.
    """
    return network_of(read(Path(source)))


def network_of(weights: Weights, dtype: torch.dtype = torch.float32) -> Forecaster:
    """Return the model with its weights, in eval mode.

    Args:
        weights: The weights.
        dtype: Their precision; that of the Fourier part is bfloat16 with them, else fp32.
    """
    spectral: SpectralDtype = "bfloat16" if dtype == torch.bfloat16 else "float32"
    with torch.device("meta"):
        model = family_of(weights.model).network(weights.model, KEEP_ALL, spectral)
    state = {key: tensor.to(dtype) for key, tensor in weights.state.items()}
    model.load_state_dict(state, assign=True)
    return model.eval()


def find(source: Path) -> Path:
    """Return the weights file, or the folder of the intact checkpoint, that a path stands for.

    Raises:
        CheckpointError: there is none, it is damaged, or the system does not say.
    """
    if os.path.isfile(source):  # noqa: PTH113 - never raises, whatever a user writes
        return source
    if not os.path.isdir(source):  # noqa: PTH112 - never raises
        raise no_weights(source)
    checkpoint = open_checkpoint(source)
    if checkpoint is not None:
        if damaged := verify(checkpoint):
            raise CheckpointError(
                f"{source} is damaged ({', '.join(damaged)}): choose another checkpoint"
            )
    elif is_file(source / WEIGHTS) and any(
        is_file(source / name) for name in (RESULT_FILE, HUB_CONFIG)
    ):
        return source / WEIGHTS
    else:
        checkpoint = newest_intact(source / CHECKPOINTS)
    if checkpoint is None:
        raise no_weights(source)
    refuse_code(checkpoint)
    return checkpoint.folder


def read_found(found: Path) -> Weights:
    """Return the weights in what `find` has found, as `read` does.

    Raises:
        CheckpointError: they are not what they seem.
    """
    if found.is_file():
        return read_weights_file(found)
    model, tensors = _masters(found)
    state = {name: tensor.read() for name, tensor in tensors.items()}
    return Weights(model, state, _data_of(found))


def read_data(source: Path) -> TrainingData | None:
    """Return what the weights that a path stands for say of their data, without reading them.

    Raises:
        CheckpointError: there are none, or their description is damaged.
    """
    # The files of a checkpoint are not verified here: whoever reads them does that.
    found = source if open_checkpoint(source) is not None else find(source)
    return read_data_in(found) if found.is_file() else _data_of(found)


def read_model(source: Path) -> ModelConfig:
    """Return the model whose weights a path stands for; of our formats, they are not read.

    Raises:
        CheckpointError: there are none, or their description is damaged.
    """
    found = source if open_checkpoint(source) is not None else find(source)
    return read_model_in(found) if found.is_file() else _model_in(found)


def export(checkpoint: Path, out: Path | None = None) -> Path:
    """Write the weights of a checkpoint as a file like that of a finished run; return its place.

    One tensor at a time is in memory.

    Args:
        checkpoint: The folder of an intact one.
        out: The .safetensors file; None for one that names the step, in the folder of the run, or
            beside a checkpoint that lies elsewhere.

    Raises:
        CheckpointError: it does not hold the model of its run.
        DiskError: the file cannot be written.
    """
    model, tensors = _masters(checkpoint)
    whole = checkpoint.absolute()
    folder = whole.parents[1] if whole.parent.name == CHECKPOINTS else whole.parent
    path = out or folder / f"model_{whole.name}.safetensors"
    state = ((name, tensors[name].read()) for name in shapes_of(model))
    stream_model(path, model, state, _data_of(checkpoint))
    return path


def _masters(checkpoint: Path) -> tuple[ModelConfig, dict[str, Master]]:
    """Return the model of a checkpoint, and its parameters on the disk."""
    model, tensors = _model_in(checkpoint), _merged(masters(checkpoint))
    require_keys(model, {name: tensor.shape for name, tensor in tensors.items()}, checkpoint)
    return model, tensors


def _data_of(checkpoint: Path) -> TrainingData | None:
    """Return what a checkpoint says of its data. Markers before format 3 say nothing."""
    found = open_checkpoint(checkpoint)
    raw = None if found is None else found.marker.data
    return None if raw is None else read_training_data(raw, checkpoint)


def _merged(tensors: Mapping[str, Master]) -> dict[str, Master]:
    """Return the parameters of the plain model that does what an adapted one does."""

    def read(name: str, pair: Parts) -> Tensor:
        matrix, up, down = (tensors[one] for one in (name, *pair))
        return matrix.read() + added(up.read(), down.read(), matrix.shape)

    pairs = pairs_of(tensors)
    return {
        name: Master(one.shape, partial(read, name, pairs[name])) if name in pairs else one
        for name, one in tensors.items()
        if not is_of_pair(name)
    }


def _model_in(checkpoint: Path) -> ModelConfig:
    """Return the model of a checkpoint. The first markers leave it to the config of the run."""
    found = open_checkpoint(checkpoint)
    if found is not None and found.marker.model is not None:
        return model_of(found.marker.model, checkpoint)
    config = config_of(checkpoint)
    if config is None:
        raise CheckpointError(
            f"{checkpoint} does not lie in the folder of its run, so its model is unknown: there "
            f"is no {RUN_CONFIG}"
        )
    return load_run(str(config)).model
