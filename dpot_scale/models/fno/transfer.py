"""How the weights of one FNO are made to fit another: with other modes, or for other fields."""

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from dpot_scale.models.fields import inputs_of_fields, outputs_of_fields
from dpot_scale.models.fno.config import FNOConfig
from dpot_scale.models.transfer import Adaptation, Adapted, Fields


class FNOAdaptation(Adaptation):
    """Channels, and the modes of other grids.

    Args:
        source: The model of the weights.
        target: The model that gets them.
        fields: Which channel of the source each channel takes.
    """

    flexible = frozenset({"grid", "channels", "modes"})
    decides: Mapping[str, tuple[str, ...]] = MappingProxyType({
        "space_dims": ("lift", "blocks"),
        "history": ("lift",),
        "horizon": ("output",),
        "target": ("output",),
        "depth": ("blocks",),
    })  # fmt: skip

    def __init__(self, source: FNOConfig, target: FNOConfig, fields: Fields) -> None:
        self._fields = fields
        self._places = target.space_dims
        self._channels = (source.channels, target.channels)
        # The shapes of the last layer do not show what it gives.
        same = source.target == target.target
        self.redrawn = frozenset(() if same else self.decides["target"])

    def adapt(self, name: str, value: Tensor, shape: tuple[int, ...]) -> Adapted | None:
        """Return a tensor of the source in the shape of the model; None if nothing leads there."""
        if name.endswith("spectral.weight"):
            return _of_modes(value, shape)
        if not self._fields.are_all_of(self._channels[0]):
            match name:
                case "lift.weight":
                    return self._lift(value, shape)
                case "statistics.weight":
                    return inputs_of_fields(value, shape, self._channels, 1, self._fields)
                case "output.2.weight" | "output.2.bias":
                    return outputs_of_fields(value, shape, self._channels, self._fields)
        return super().adapt(name, value, shape)

    def _lift(self, value: Tensor, shape: tuple[int, ...]) -> Adapted | None:
        """Adapt the first layer, whose last inputs are the place of a point."""
        of_fields, place = value[:, : -self._places], value[:, -self._places :]
        wanted = (shape[0], shape[1] - self._places)
        adapted = inputs_of_fields(of_fields, wanted, self._channels, 1, self._fields)
        if adapted is None:
            return None
        return adapted._replace(value=torch.cat([adapted.value, place], dim=1))


def _of_modes(value: Tensor, shape: tuple[int, ...]) -> Adapted | None:
    """Keep the matrices of the lower modes; those that it lacks begin at zero."""
    if tuple(value.shape) == shape:
        return Adapted(value)
    if value.ndim != len(shape) or value.shape[-2:] != shape[-2:]:
        return None
    mine, theirs = [], []
    *full, half = zip(value.shape[1:-2], shape[1:-2], strict=True)
    for known, wanted in full:  # the lowest mode lies in the middle
        fewer = min(known, wanted)
        theirs.append(slice((known - fewer) // 2, (known + fewer) // 2))
        mine.append(slice((wanted - fewer) // 2, (wanted + fewer) // 2))
    theirs.append(slice(min(half)))
    mine.append(slice(min(half)))
    adapted = value.new_zeros(shape)
    adapted[:, *mine] = value[:, *theirs]
    before, after = (" x ".join(map(str, sizes[1:-2])) for sizes in (value.shape, shape))
    return Adapted(adapted, f"{before} to {after} modes")
