"""FNO as a family: what `models/family.py` asks of one."""

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
from dpot_scale.models.fno.config import FNOConfig
from dpot_scale.models.fno.cost import count_flops, count_parameters, matrix_shapes
from dpot_scale.models.fno.footprint import footprint

if TYPE_CHECKING:
    from dpot_scale.models.fno.network import FNO
    from dpot_scale.models.transfer import Adaptation, Fields, State


class FNOFamily:
    """A Fourier neural operator (Li et al. 2021)."""

    config = FNOConfig
    components: Mapping[str, tuple[str, ...]] = {
        "lift": ("lift.",),
        "statistics": ("statistics.",),
        "blocks": ("blocks.",),
        "output": ("output.",),
    }
    matrices = ("blocks.*.spectral.weight", "blocks.*.pointwise.weight")
    block = "dpot_scale.models.fno.network.Block"

    def parameters(self, model: FNOConfig) -> ParameterCount:
        """Return the number of parameters of each component."""
        return count_parameters(model)

    def matrix_shapes(self, model: FNOConfig) -> tuple[Matrices, ...]:
        """Return how many of its matrices there are of each shape."""
        return matrix_shapes(model)

    def flops(self, model: FNOConfig, recompute: Recompute) -> Flops:
        """Return the FLOPs of one window."""
        return count_flops(model, recompute)

    def footprint(
        self, model: FNOConfig, recompute: Recompute, dtype: Dtype, spectral_dtype: SpectralDtype
    ) -> Footprint:
        """Return what the memory of a training depends on."""
        return footprint(model, recompute, dtype, spectral_dtype)

    def network(
        self, model: FNOConfig, recompute: Recompute, spectral_dtype: SpectralDtype
    ) -> "FNO":
        """Build the network."""
        from dpot_scale.models.fno.network import FNO

        return FNO(model, recompute=recompute, spectral_dtype=spectral_dtype)

    def adaptation(
        self, source: FNOConfig, target: FNOConfig, state: "State", fields: "Fields"
    ) -> "Adaptation":
        """Return how weights are made to fit another FNO."""
        from dpot_scale.models.fno.transfer import FNOAdaptation

        del state
        return FNOAdaptation(source, target, fields)


FAMILY: Family[FNOConfig] = FNOFamily()
