"""ViT as a family: what `models/family.py` asks of one."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from dpot_scale.config.strategy import Dtype
from dpot_scale.models.family import (
    Family,
    Flops,
    Footprint,
    Matrices,
    ParameterCount,
    Recompute,
    SpectralDtype,
)
from dpot_scale.models.vit.config import ViTConfig
from dpot_scale.models.vit.cost import count_flops, count_parameters, matrix_shapes
from dpot_scale.models.vit.footprint import footprint

if TYPE_CHECKING:
    from dpot_scale.models.transfer import Adaptation, Fields, State
    from dpot_scale.models.vit.network import ViT


class ViTFamily:
    """A transformer over patches in space and time (Dosovitskiy et al. 2021, Arnab et al. 2021)."""

    config = ViTConfig
    components: Mapping[str, tuple[str, ...]] = {
        "patch_embed": ("patch_embed.",),
        "pos_embed": ("space_embed", "time_embed"),
        "statistics": ("statistics.",),
        "blocks": ("blocks.",),
        "output": ("norm.", "output."),
    }
    matrices = (
        "blocks.*.attention.*.query.weight",
        "blocks.*.attention.*.key.weight",
        "blocks.*.attention.*.value.weight",
        "blocks.*.attention.*.output.weight",
        "blocks.*.mlp.*.weight",
    )
    block = "dpot_scale.models.vit.network.Block"

    def parameters(self, model: ViTConfig) -> ParameterCount:
        """Return the number of parameters of each component."""
        return count_parameters(model)

    def matrix_shapes(self, model: ViTConfig) -> tuple[Matrices, ...]:
        """Return how many of its matrices there are of each shape."""
        return matrix_shapes(model)

    def flops(self, model: ViTConfig, recompute: Recompute) -> Flops:
        """Return the FLOPs of one window."""
        return count_flops(model, recompute)

    def footprint(
        self, model: ViTConfig, recompute: Recompute, dtype: Dtype, spectral_dtype: SpectralDtype
    ) -> Footprint:
        """Return what the memory of a training depends on."""
        del spectral_dtype  # it has no Fourier part
        return footprint(model, recompute, dtype)

    def network(
        self, model: ViTConfig, recompute: Recompute, spectral_dtype: SpectralDtype
    ) -> "ViT":
        """Build the network."""
        from dpot_scale.models.vit.network import ViT

        del spectral_dtype
        return ViT(model, recompute=recompute)

    def adaptation(
        self, source: ViTConfig, target: ViTConfig, state: "State", fields: "Fields"
    ) -> "Adaptation":
        """Return how weights are made to fit another ViT."""
        from dpot_scale.models.vit.transfer import ViTAdaptation

        del state
        return ViTAdaptation(source, target, fields)


FAMILY: Family[ViTConfig] = ViTFamily()
