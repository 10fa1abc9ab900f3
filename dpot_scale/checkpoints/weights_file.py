"""A model as one file: our safetensors export, and the reader of it and of released weights."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dpot_scale.checkpoints.tensor_file import tensor_header
from dpot_scale.config.model import DEFAULT_FAMILY, FAMILIES, ModelConfig, config_class
from dpot_scale.config.record import (
    FIRST_FORMAT,
    FORMAT_KEY,
    of_another_version,
    require_format,
    with_unknown,
)
from dpot_scale.data.channels import TrainingData, read_training_data
from dpot_scale.downloads import check_download
from dpot_scale.errors import CheckpointError, DataError
from dpot_scale.files import cannot_write, replacing
from dpot_scale.models.dpot.released import read_released, write_released
from dpot_scale.models.families import count_parameters, described, family_of
from dpot_scale.models.family import KEEP_ALL

# A file that lacks more of its parameters is refused without the names of what is missing.
MOST_TIMES_HELD = 100
# The metadata of an export are texts under keys. MODEL_KEY holds the dimensions of the model as
# JSON; the first format has those of a DPOT under the other key, and does not name the family.
# Since format 3 DATA_KEY holds what is known of the data that the model was trained on.
FORMAT = 3
MODEL_KEY, FIRST_MODEL_KEY = "model", "architecture"
DATA_KEY = "data"


class Weights(NamedTuple):
    """The content of a weights file, whose keys account for the whole model."""

    model: ModelConfig
    state: dict[str, Tensor]
    data: TrainingData | None = None  # what it was trained on, where that is known


def save_model(
    path: Path,
    model: ModelConfig,
    state_dict: Mapping[str, Tensor],
    data: TrainingData | None = None,
) -> None:
    """Write weights, their model and its data as a safetensors file, all of it or nothing.

    Raises:
        CheckpointError: the keys or shapes are not those of the model.
        DiskError: the file cannot be written.
    """
    weights = Weights(model, dict(state_dict))
    require_keys(weights.model, _shapes_in(weights.state), path)
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in weights.state.items()}
    with replacing(path) as partial:
        try:
            save_file(tensors, partial, metadata=_metadata(model, data))
        except SafetensorError as error:
            raise cannot_write(path, RuntimeError(str(error))) from error


def stream_model(
    path: Path,
    model: ModelConfig,
    tensors: Iterable[tuple[str, Tensor]],
    data: TrainingData | None = None,
) -> None:
    """Write the file that `save_model` writes, in fp32, one tensor at a time.

    Args:
        path: The safetensors file, all of which is written or nothing.
        model: Described completely.
        tensors: Its named parameters in fp32 on the CPU, in the order of the state dict.
        data: What it was trained on, where that is known.

    Raises:
        DiskError: the file cannot be written.
    """
    shapes = shapes_of(model)
    with replacing(path) as partial, partial.open("wb") as file:
        described = {name: (torch.float32, shape) for name, shape in shapes.items()}
        file.write(tensor_header(described, _metadata(model, data)))
        for (expected, shape), (name, tensor) in zip(shapes.items(), tensors, strict=True):
            assert (name, tuple(tensor.shape), tensor.dtype) == (expected, shape, torch.float32)
            file.write(tensor.contiguous().numpy().data)


def _metadata(model: ModelConfig, data: TrainingData | None) -> dict[str, str]:
    metadata = {FORMAT_KEY: str(FORMAT), MODEL_KEY: json.dumps(model.dimensions())}
    return metadata if data is None else metadata | {DATA_KEY: data.model_dump_json()}


def save_released(path: Path, weights: Weights) -> None:
    """Write weights in the released format, all of it or nothing.

    Raises:
        DiskError: the file cannot be written.
    """
    with replacing(path) as partial, partial.open("wb") as file:
        write_released(file, weights.model, weights.state)


def read_weights_file(path: Path) -> Weights:
    """Return the content of a weights file of either format.

    Raises:
        CheckpointError: the file is neither, or its keys do not account for the whole model.
    """
    weights = _read_export(path) if _is_safetensors(path) else Weights(*read_released(path))
    require_keys(weights.model, _shapes_in(weights.state), path)
    return weights


def _is_safetensors(path: Path) -> bool:
    """Tell the format by its content: eight bytes of length, then JSON."""
    try:
        check_download(path)
        with path.open("rb") as file:
            return file.read(9)[8:] == b"{"
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    except DataError as error:
        raise CheckpointError(str(error)) from error


def read_data_in(path: Path) -> TrainingData | None:
    """Return what a weights file says of the data of its model; a released one says nothing.

    Raises:
        CheckpointError: the file cannot be read.
    """
    if not _is_safetensors(path):
        return None
    with _opened(path) as file:
        return _data_in(file.metadata() or {}, path)


def read_model_in(path: Path) -> ModelConfig:
    """Return the model of a weights file; of our own, its weights are not read.

    Raises:
        CheckpointError: the file is none.
    """
    if not _is_safetensors(path):
        return read_weights_file(path).model
    with _opened(path) as file:
        return _model_in(file.metadata() or {}, path)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise CheckpointError(f"{path} is a damaged safetensors file: {error}") from error


def _data_in(metadata: Mapping[str, str], path: Path) -> TrainingData | None:
    if DATA_KEY not in metadata:
        return None
    return read_training_data(_from_json(metadata[DATA_KEY], DATA_KEY, path), path)


def _read_export(path: Path) -> Weights:
    with _opened(path) as file:
        metadata: dict[str, str] = file.metadata() or {}
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, no mapping
    return Weights(_model_in(metadata, path), state, _data_in(metadata, path))


def _model_in(metadata: Mapping[str, str], path: Path) -> ModelConfig:
    version = _from_json(metadata.get(FORMAT_KEY, f"{FIRST_FORMAT}"), FORMAT_KEY, path)
    require_format({FORMAT_KEY: version}, FORMAT, path, CheckpointError)
    key = FIRST_MODEL_KEY if version == FIRST_FORMAT else MODEL_KEY
    if key not in metadata:
        raise CheckpointError(
            f"{path} has no {key!r} in its metadata, so it is no export of dpot_scale"
        )
    return model_of(_from_json(metadata[key], key, path), path)


def _from_json(text: str, key: str, path: Path) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: its {key!r} is not JSON: {error}") from error


def model_of(dimensions: object, path: Path) -> ModelConfig:
    """Return the model that has the dimensions which a weights file or a marker names.

    Args:
        dimensions: What `ModelConfig.dimensions` said; the first format names no family, and older
            ones lack younger fields.
        path: Where they were read.

    Raises:
        CheckpointError: they are not those of a model, or another version wrote them.
    """
    if not isinstance(dimensions, dict):
        raise CheckpointError(f"{path}: the dimensions of its model must be a JSON object")
    dimensions = {"family": DEFAULT_FAMILY, **dimensions}
    found = config_class(dimensions)
    if found is ModelConfig:
        raise of_another_version(
            f"it holds a model of the family {dimensions['family']!r}, which is none of: "
            f"{', '.join(FAMILIES)}",
            path,
            CheckpointError,
        )
    known = set(found.dimension_names())
    dimensions = {**found.younger, **dimensions}
    if unknown := sorted(dimensions.keys() - known):
        raise with_unknown(unknown, path, CheckpointError)
    if missing := sorted(known - dimensions.keys()):
        raise CheckpointError(f"{path} does not say the {', '.join(missing)} of its model")
    return described(found, dimensions, path)


def require_keys(model: ModelConfig, given: Mapping[str, tuple[int, ...]], path: Path) -> None:
    """Account for every key, listing all that are missing, unknown or of another shape.

    Args:
        model: That the weights are said to be of.
        given: The shapes of the weights.
        path: Where they come from.

    Raises:
        CheckpointError: they are not those of the model.
    """
    parameters = count_parameters(model).total
    held = sum(prod(shape) for shape in given.values())
    if parameters > MOST_TIMES_HELD * held:  # do not build so many: it may take for ever
        raise CheckpointError(
            f"{path} describes a {model.family} with {parameters:,} parameters, but holds only "
            f"{held:,}, in {len(given)} tensors"
        )
    expected = shapes_of(model)
    misshaped = [
        f"{key} {given[key]} instead of {shape}"
        for key, shape in expected.items()
        if key in given and given[key] != shape
    ]
    problems = {
        "missing": [f"{key} {shape}" for key, shape in expected.items() if key not in given],
        "unknown": [key for key in given if key not in expected],
        "of another shape": misshaped,
    }
    if any(problems.values()):
        found = "; ".join(f"{kind}: {', '.join(keys)}" for kind, keys in problems.items() if keys)
        raise CheckpointError(
            f"{path} does not hold exactly the keys of its {model.family}: {found}"
        )


def have_same_shapes(one: ModelConfig, other: ModelConfig) -> bool:
    """Return whether the weights of one model are weights of another, too."""
    return shapes_of(one) == shapes_of(other)


def shapes_of(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the names of all parameters in the order of the state dict, and their shapes."""
    with torch.device("meta"):
        network = family_of(model).network(model, KEEP_ALL, "float32")
    return {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}


def _shapes_in(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in state.items()}
