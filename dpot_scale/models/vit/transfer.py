"""How the weights of one ViT are made to fit another: on another grid, or for other fields."""

from collections.abc import Mapping
from types import MappingProxyType

from torch import Tensor

from dpot_scale.models.fields import inputs_of_fields, outputs_of_fields
from dpot_scale.models.positions import resized_positions
from dpot_scale.models.transfer import Adaptation, Adapted, Fields
from dpot_scale.models.vit.config import ViTConfig


class ViTAdaptation(Adaptation):
    """Channels and grids.

    Args:
        source: The model of the weights.
        target: The model that gets them.
        fields: Which channel of the source each channel takes.
    """

    flexible = frozenset({"grid", "channels"})
    decides: Mapping[str, tuple[str, ...]] = MappingProxyType({
        "space_dims": ("patch_embed", "pos_embed", "output"),
        "patch": ("patch_embed", "output"),
        "history": ("patch_embed",),
        "time_tokens": ("patch_embed", "pos_embed", "blocks"),
        "horizon": ("output",),
        "target": ("output",),
        "depth": ("blocks",),
        "heads": ("blocks",),
        "mlp_ratio": ("blocks",),
    })  # fmt: skip

    def __init__(self, source: ViTConfig, target: ViTConfig, fields: Fields) -> None:
        self._fields = fields
        self._channels = (source.channels, target.channels)
        self._cell = target.patch**target.space_dims
        theirs, mine = source.dimensions(), target.dimensions()
        changed = [name for name in _UNSEEN if theirs[name] != mine[name]]
        self.redrawn = frozenset(part for name in changed for part in self.decides[name])

    def adapt(self, name: str, value: Tensor, shape: tuple[int, ...]) -> Adapted | None:
        """Return a tensor of the source in the shape of the model; None if nothing leads there."""
        if name == "space_embed":
            return _on_grid(value, shape)
        if not self._fields.are_all_of(self._channels[0]):
            match name:
                case "patch_embed.weight":
                    return inputs_of_fields(value, shape, self._channels, self._cell, self._fields)
                case "statistics.weight":
                    return inputs_of_fields(value, shape, self._channels, 1, self._fields)
                case "output.weight" | "output.bias":
                    return outputs_of_fields(value, shape, self._channels, self._fields)
        return super().adapt(name, value, shape)


# Dimensions that give components another meaning, which the shapes of their tensors need not show.
_UNSEEN = ("space_dims", "patch", "history", "time_tokens", "heads", "target")


def _on_grid(value: Tensor, shape: tuple[int, ...]) -> Adapted | None:
    """Interpolate the embedding (1, E, *patches) to other numbers of patches."""
    if tuple(value.shape) == shape:
        return Adapted(value)
    if value.shape[:2] != shape[:2] or value.ndim != len(shape):
        return None
    before, after = (" x ".join(map(str, sizes[2:])) for sizes in (value.shape, shape))
    return Adapted(resized_positions(value.float(), shape[2:]), f"{before} to {after} patches")
