"""DPOT as a family: what `models/family.py` asks of one."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from dpot_scale.config.strategy import Dtype
from dpot_scale.models.dpot.config import DPOTConfig
from dpot_scale.models.dpot.cost import count_flops, count_parameters, matrix_shapes
from dpot_scale.models.dpot.footprint import footprint
from dpot_scale.models.family import (
    Family,
    Flops,
    Footprint,
    Matrices,
    ParameterCount,
    Recompute,
    SpectralDtype,
)

if TYPE_CHECKING:
    from dpot_scale.models.dpot.network import DPOT
    from dpot_scale.models.transfer import Adaptation, Fields, State


class DPOTFamily:
    """A Fourier mixer over patches of a field whose frames are aggregated (Hao et al. 2024)."""

    config = DPOTConfig
    components: Mapping[str, tuple[str, ...]] = {
        "patch_embed": ("patch_embed.",),
        "pos_embed": ("pos_embed",),
        "time_agg": ("time_agg_layer.",),
        "blocks": ("blocks.",),
        "head": ("cls_head.",),
        "output": ("out_layer.", "skip."),
        "conditioning": ("conditioning.",),
        "statistics": ("scale_feats_mu.", "scale_feats_sigma."),
    }
    matrices = ("blocks.*.filter.w[12]", "blocks.*.mlp.*.weight")
    block = "dpot_scale.models.dpot.network.Block"

    def parameters(self, model: DPOTConfig) -> ParameterCount:
        """Return the number of parameters of each component."""
        return count_parameters(model)

    def matrix_shapes(self, model: DPOTConfig) -> tuple[Matrices, ...]:
        """Return how many of its matrices there are of each shape."""
        return matrix_shapes(model)

    def flops(self, model: DPOTConfig, recompute: Recompute) -> Flops:
        """Return the FLOPs of one window."""
        return count_flops(model, recompute)

    def footprint(
        self, model: DPOTConfig, recompute: Recompute, dtype: Dtype, spectral_dtype: SpectralDtype
    ) -> Footprint:
        """Return what the memory of a training depends on."""
        return footprint(model, recompute, dtype, spectral_dtype)

    def network(
        self, model: DPOTConfig, recompute: Recompute, spectral_dtype: SpectralDtype
    ) -> "DPOT":
        """Build the network."""
        from dpot_scale.models.dpot.network import DPOT

        return DPOT(model, recompute=recompute, spectral_dtype=spectral_dtype)

    def adaptation(
        self,
        source: DPOTConfig,
        target: DPOTConfig,
        state: "State",
        fields: "Fields",
    ) -> "Adaptation":
        """Return how weights are made to fit another DPOT."""
        from dpot_scale.models.dpot.transfer import DPOTAdaptation

        return DPOTAdaptation(source, target, state, fields)


FAMILY: Family[DPOTConfig] = DPOTFamily()
