"""How the weights of one DPOT are made to fit another.

The first forecasts of what came along are those of the source, as far as that can be: where a layer
gets wider, the new inputs of the next one begin at zero.

Legend: T history frames, C fields, E width, O features of a patch.
"""

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from dpot_scale.models.dpot.config import DPOTConfig
from dpot_scale.models.positions import resized_positions
from dpot_scale.models.transfer import Adaptation, Adapted, Fields, State

PATCH_LAYERS = ("patch_embed.proj.0.weight", "patch_embed.proj.2.weight")


class DPOTAdaptation(Adaptation):
    """Channels, frames, grids, datasets of the head, and 2D blocks in 3D.

    Args:
        source: The model of the weights.
        target: The model that gets them.
        state: The weights.
        fields: Which channel of the source each channel takes.
    """

    flexible = frozenset({
        "grid", "channels", "history", "horizon", "num_datasets", "modes", "modes_kept",
        "conditioning", "parameters",
    })  # fmt: skip
    decides: Mapping[str, tuple[str, ...]] = MappingProxyType(
        {
            "space_dims": ("patch_embed", "pos_embed", "output"),
            "patch": ("patch_embed", "output"),
            "time_aggregation": ("time_agg",),
            "target": ("output",),
            "out_layer_dim": ("output",),
            "skip_frames": ("output",),
            "depth": ("blocks",),
            "heads": ("blocks",),
            "mlp_ratio": ("blocks",),
            "normalize": ("statistics",),
        }
    )

    def __init__(
        self, source: DPOTConfig, target: DPOTConfig, state: State, fields: Fields
    ) -> None:
        self.source, self.target = source, target
        self._state, self._fields = state, fields
        self._mine, self._theirs = fields.known
        theirs, mine = source.dimensions(), target.dimensions()
        changed = [name for name in _UNSEEN if theirs[name] != mine[name]]
        self.redrawn = frozenset(part for name in changed for part in self.decides[name])

    def adapt(self, name: str, value: Tensor, shape: tuple[int, ...]) -> Adapted | None:
        """Return a tensor of the source in the shape of the model; None if nothing leads there."""
        same_fields = self._fields.are_all_of(self.source.channels)
        match name:
            case "pos_embed" if tuple(value.shape) != shape:
                return _resized(value, shape)
            case "time_agg_layer.w" if tuple(value.shape) != shape:
                return self._resampled(value.float(), shape)
            case "cls_head.4.weight" | "cls_head.4.bias" if tuple(value.shape) != shape:
                return _with_rows(value, shape, "datasets of the head")
            case "conditioning.hidden.weight" if self.source.conditions != self.target.conditions:
                return self._of_conditions(value, shape)
            case "out_layer.4.weight" | "out_layer.4.bias":
                if same_fields and self.source.horizon == self.target.horizon:
                    return super().adapt(name, value, shape)
                return self._forecast_rows(value, shape)
            case _ if name.startswith(_OF_FIELDS) and not same_fields:
                return self._of_fields(name, value.float(), shape)
        return super().adapt(name, value, shape)

    def _of_fields(self, name: str, value: Tensor, shape: tuple[int, ...]) -> Adapted | None:
        """Adapt a layer whose inputs are fields, or what a layer makes of them."""
        if name.startswith("patch_embed."):
            return self._patch_layer(name, value, shape)
        if name.endswith(".bias"):
            return super().adapt(name, value, shape)
        # The inputs of `skip` and of the statistics: fields of several frames, or of two moments.
        mine, theirs = self.target.channels, self.source.channels
        if value.shape[0] != shape[0] or value.shape[1] // theirs != shape[1] // mine:
            return None
        adapted = value.new_zeros(shape)
        for group in range(shape[1] // mine):
            to = [group * mine + place for place in self._mine]
            adapted[:, to] = value[:, [group * theirs + place for place in self._theirs]]
        return Adapted(adapted, self._fields.how)

    def _of_conditions(self, value: Tensor, shape: tuple[int, ...]) -> Adapted | None:
        """Adapt the layer whose inputs are the features of conditions; new ones begin at zero."""
        theirs, mine = self.source.conditions, self.target.conditions
        if not set(theirs) & set(mine):
            return None
        of_each = dict(zip(theirs, value.float().chunk(len(theirs), dim=1), strict=True))
        unknown = torch.zeros_like(next(iter(of_each.values())))
        adapted = torch.cat([of_each.get(name, unknown) for name in mine], dim=1)
        return Adapted(adapted, "conditions by name") if tuple(adapted.shape) == shape else None

    def _patch_layer(self, name: str, value: Tensor, shape: tuple[int, ...]) -> Adapted | None:
        """Adapt a layer of the patch embedding, whose features are as many as there are fields.

        New features are drawn and have no effect at first; of too many the strongest stay.
        """
        first, last = (self._state[layer].float() for layer in PATCH_LAYERS)
        fewer = min(len(first), self.target.patch_width)
        strength_O = first.flatten(1).norm(dim=1) * last.flatten(1).norm(dim=0)
        rows = strength_O.topk(fewer).indices.sort().values
        how = f"{self._fields.how}, {len(first)} to {self.target.patch_width} features"
        adapted = value.new_zeros(shape)
        if name.endswith("2.bias"):
            return super().adapt(name, value, shape)
        if name.endswith("2.weight"):
            adapted[:, :fewer] = value[:, rows]
            return Adapted(adapted, how)
        if value.ndim > 1:
            coordinates = self.target.coordinates
            adapted[:fewer, self._mine] = value[rows][:, self._theirs]
            adapted[:fewer, -coordinates:] = value[rows, -coordinates:]
        else:
            adapted[:fewer] = value[rows]
        drawn = torch.zeros(len(adapted), *[1] * (value.ndim - 1), dtype=torch.bool)
        drawn[fewer:] = True
        return Adapted(adapted, how, drawn if fewer < len(adapted) else None)

    def _forecast_rows(self, value: Tensor, shape: tuple[int, ...]) -> Adapted | None:
        """Adapt the last layer, whose outputs are the fields of each frame of the forecast.

        Frames beyond the horizon of the source begin as its last one; fields it has not are drawn.
        """
        if value.shape[1:] != shape[1:]:
            return None
        adapted = value.new_zeros(shape, dtype=torch.float32)
        drawn = torch.ones(shape[0], *[1] * (value.ndim - 1), dtype=torch.bool)
        for frame in range(self.target.horizon):
            known = min(frame, self.source.horizon - 1)
            to = [frame * self.target.channels + place for place in self._mine]
            of = [known * self.source.channels + place for place in self._theirs]
            adapted[to], drawn[to] = value[of].float(), False
        parts = []
        if self.source.horizon != self.target.horizon:
            parts.append(f"horizon {self.source.horizon} to {self.target.horizon}")
        if not self._fields.are_all_of(self.source.channels):
            parts.append(self._fields.how)
        return Adapted(adapted, ", ".join(parts), drawn if drawn.any() else None)

    def _resampled(self, w_TEE: Tensor, shape: tuple[int, ...]) -> Adapted | None:
        """Sample the weights of frames anew, at times from 0 to 1, so that their sum stays.

        Of a history that does not change, one frame says as much as all: their weights are summed
        up as the source sums its frames.
        """
        frames, *width = w_TEE.shape
        wanted, *wanted_width = shape
        if width != wanted_width:
            return None
        how = f"{frames} to {wanted} frames of history"
        if wanted == 1:
            gamma = self._state.get("time_agg_layer.gamma")
            if gamma is not None:
                times_T1 = torch.linspace(0, 1, frames).unsqueeze(1)
                w_TEE = w_TEE * torch.cos(times_T1 * gamma.float()).unsqueeze(2)
            return Adapted(w_TEE.sum(0, keepdim=True), how)
        if frames == 1:
            return Adapted(w_TEE.repeat(wanted, 1, 1) / wanted, how)
        place_T = torch.linspace(0, frames - 1, wanted)
        before_T = place_T.long().clamp(max=frames - 2)
        share_T11 = (place_T - before_T).view(-1, 1, 1)
        sampled_TEE = torch.lerp(w_TEE[before_T], w_TEE[before_T + 1], share_T11)
        return Adapted(sampled_TEE * (frames / wanted), how)


# Dimensions that give components another meaning, which the shapes of their tensors need not show.
_UNSEEN = ("space_dims", "patch", "time_aggregation", "target")
_OF_FIELDS = ("patch_embed.", "skip.", "scale_feats_")


def _resized(value: Tensor, shape: tuple[int, ...]) -> Adapted | None:
    """Interpolate an embedding (1, E, *latent) to another latent grid."""
    space = shape[2:]
    if value.shape[:2] != shape[:2] or value.ndim != len(shape):
        return None
    resized = resized_positions(value.float(), space)
    before, after = (" x ".join(map(str, sizes)) for sizes in (value.shape[2:], space))
    return Adapted(resized, f"{before} to {after} latent points")


def _with_rows(value: Tensor, shape: tuple[int, ...], what: str) -> Adapted | None:
    """Keep the first rows of a layer; those that it lacks begin at zero."""
    if value.shape[1:] != shape[1:]:
        return None
    adapted = value.new_zeros(shape, dtype=torch.float32)
    fewer = min(len(value), shape[0])
    adapted[:fewer] = value[:fewer].float()
    return Adapted(adapted, f"{len(value)} to {shape[0]} {what}")
