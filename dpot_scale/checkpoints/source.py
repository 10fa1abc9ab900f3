"""Finds the config that weights belong to, and says what is wrong with weights, without torch."""

import os
from collections.abc import Iterable
from pathlib import Path

from dpot_scale.config.model import ModelConfig
from dpot_scale.config.places import CHECKPOINTS, RUN_CONFIG
from dpot_scale.errors import CheckpointError, ConfigError

# What stands for weights, in words.
SOURCE = "the folder of a run, a checkpoint in it, a .safetensors export, or a released .pth"
ANY_SOURCE = f"{SOURCE}; or models:/NAME/VERSION of MLflow"


def config_of(source: Path) -> Path | None:
    """Return the config of the run that weights belong to, by the place where they lie.

    Args:
        source: The folder of a run, a checkpoint in it, or a file in it.
    """
    whole = source.absolute()
    if os.path.isdir(whole):  # noqa: PTH112 - never raises, whatever a user writes
        run = whole.parents[1] if whole.parent.name == CHECKPOINTS else whole
    else:
        run = whole.parent
    has_config = os.path.isfile(run / RUN_CONFIG)  # noqa: PTH113 - never raises
    return run / RUN_CONFIG if has_config else None


def no_weights(path: Path) -> CheckpointError:
    """Return the error for a path at which there are no weights."""
    if not os.path.exists(path):  # noqa: PTH110 - never raises, whatever a user writes
        problem = "does not exist"
    else:
        problem = f"holds no {'checkpoint' if path.is_dir() else 'weights'}"
    held = sorted(path.glob("*.safetensors"))
    hint = f"; it holds {', '.join(map(str, held))}" if held else ""
    return CheckpointError(f"{path} {problem}; give {SOURCE}{hint}")


def require_agreement(
    weights: ModelConfig, config: ModelConfig, names: Iterable[str] | None = None
) -> None:
    """Make sure that a config describes the model of given weights.

    Args:
        weights: The model of the weights.
        config: That of the config.
        names: The dimensions that must agree; None for all.

    Raises:
        ConfigError: they do not; it names every override that is needed.
    """
    if names is None:
        names = weights.dimensions() if weights.family == config.family else ["family"]
    if differing := disagreement(weights, config, names):
        raise ConfigError(differing)


def disagreement(weights: ModelConfig, config: ModelConfig, names: Iterable[str]) -> str:
    """Return in which of some dimensions weights and a config differ, with every override needed.

    Args:
        weights: The model of the weights.
        config: That of the config.
        names: The dimensions.

    Returns:
        A clause; an empty one where they agree.
    """
    needed, said = weights.dimensions(), config.dimensions()
    differing = [name for name in names if needed[name] != said[name]]
    if not differing:
        return ""
    return (
        f"the config says {', '.join(_override(name, said) for name in differing)}, but the "
        f"weights need: {' '.join(_override(name, needed) for name in differing)}"
    )


def _override(name: str, values: dict[str, object]) -> str:
    value = values[name]
    return f"model.{name}={str(value).lower() if isinstance(value, bool) else value}"
