"""The network of a run: which of its parameters train, and at which multiple of the rates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from dpot_scale.config.run import RunConfig
from dpot_scale.config.start import StartConfig
from dpot_scale.models.adapter import is_of_pair
from dpot_scale.models.families import family_of
from dpot_scale.models.family import Family, Recompute, SpectralDtype
from dpot_scale.models.forecaster import Forecaster
from dpot_scale.models.transfer import component_of

# In a group of parameters of an optimizer: the multiple of the learning rates that they train at.
FACTOR = "factor"


@dataclass(frozen=True, slots=True)
class Group:
    """Parameters that train alike."""

    factor: float
    parameters: dict[str, nn.Parameter]


def build(config: RunConfig, spectral_dtype: SpectralDtype) -> Forecaster:
    """Build the network of a run, with its adapter, if it has one."""
    recompute = Recompute.of(config.engine)
    model = family_of(config.model).network(config.model, recompute, spectral_dtype)
    if config.start.adapter is not None:
        model.adapt(config.start.adapter.rank)
    return model


def freeze_and_group(
    parameters: Mapping[str, nn.Parameter], family: Family[Any], start: StartConfig
) -> list[Group]:
    """Freeze the parameters that stay as they are; return the others by their factor, in order.

    Args:
        parameters: Those of the model, by name.
        family: Says which component a name belongs to.
        start: Says at which rate each component trains.
    """
    groups: dict[float, Group] = {}
    for name, parameter in parameters.items():
        is_pair = is_of_pair(name)  # which trains whatever its block does
        factor = 1.0 if is_pair else start.rate(component_of(name, family.components))
        if factor == 0:
            parameter.requires_grad_(False)
        else:
            groups.setdefault(factor, Group(factor, {})).parameters[name] = parameter
    return list(groups.values())


def optimizer_groups(groups: Sequence[Group]) -> list[dict[str, Any]] | list[nn.Parameter]:
    """Return groups as an optimizer takes them; parameters alone where all train at one rate."""
    if [group.factor for group in groups] == [1.0]:
        return list(groups[0].parameters.values())
    return [{"params": list(g.parameters.values()), FACTOR: g.factor} for g in groups]
