"""The families that exist, by the name that a config says. No torch here."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from dpot_scale.config.engine import EngineConfig
from dpot_scale.config.model import FAMILIES, ModelConfig
from dpot_scale.config.start import StartConfig
from dpot_scale.errors import CheckpointError
from dpot_scale.models.family import Family, Footprint, ParameterCount, Recompute

C = TypeVar("C", bound=ModelConfig)


def family_of(model: ModelConfig) -> Family[Any]:
    """Return the family of a model."""
    family: Family[Any] = import_module(f"{FAMILIES[model.family]}.family").FAMILY
    return family


def count_parameters(model: ModelConfig) -> ParameterCount:
    """Return the parameters of a model."""
    return family_of(model).parameters(model)


def trained_parameters(model: ModelConfig, start: StartConfig) -> int:
    """Return how many parameters of a run train."""
    family = family_of(model)
    parts = family.parameters(model).components
    trained = sum(number for name, number in parts.items() if start.rate(name))
    return trained + adapter_parameters(model, start)


def adapter_parameters(model: ModelConfig, start: StartConfig) -> int:
    """Return how many parameters a run has beside those of its model."""
    if start.adapter is None:
        return 0
    shapes = family_of(model).matrix_shapes(model)
    return start.adapter.rank * sum(one.number * (one.rows + one.columns) for one in shapes)


def footprint_of(model: ModelConfig, engine: EngineConfig) -> Footprint:
    """Return what the memory of a training depends on."""
    recompute, dtype = Recompute.of(engine), engine.deepspeed.dtype
    return family_of(model).footprint(model, recompute, dtype, engine.spectral_dtype)


def described(config: type[C], dimensions: Mapping[str, object], path: Path) -> C:
    """Return the model that a weights file describes.

    Raises:
        CheckpointError: the dimensions are not those of a model of its family.
    """
    try:
        return config.model_validate(dimensions)
    except ValidationError as error:
        problem = error.errors()[0]
        name = ".".join(map(str, problem["loc"]))
        raise CheckpointError(
            f"{path} describes no {config.model_fields['family'].default}: "
            f"{name}={problem['input']!r}: {problem['msg']}"
        ) from error
