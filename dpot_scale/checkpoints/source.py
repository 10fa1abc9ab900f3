"""What is wrong with weights, as far as it can be told without torch."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from dpot_scale.errors import CheckpointError, ConfigError
from dpot_scale.models.dpot.sizes import Architecture


def no_weights(path: Path) -> CheckpointError:
    """Return what to say of a path at which there are no weights."""
    held = sorted(path.glob("*.safetensors"))  # the folder of a run
    named = f"; it holds {', '.join(map(str, held))}" if held else ""
    return CheckpointError(f"{path} is not a file; give a .pth or .safetensors weights file{named}")


def require_agreement(
    weights: Architecture, config: Architecture, names: Iterable[str] | None = None
) -> None:
    """Make sure that a config describes the model of given weights.

    Args:
        weights: The architecture of the weights.
        config: That of the config.
        names: The dimensions that must agree; None for all.

    Raises:
        ConfigError: they do not; it names every override that is needed.
    """
    needed, said = asdict(weights), asdict(config)
    differing = [name for name in names or needed if needed[name] != said[name]]
    if differing:
        raise ConfigError(
            f"the config says {', '.join(_override(name, said) for name in differing)}, but the "
            f"weights need: {' '.join(_override(name, needed) for name in differing)}"
        )


def _override(name: str, values: dict[str, object]) -> str:
    value = values[name]
    return f"model.{name}={str(value).lower() if isinstance(value, bool) else value}"
