"""What the rest of the package knows of the toy: its components and its cost. No torch here."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from dpot_scale.config.strategy import ELEMENT_BYTES, Dtype
from dpot_scale.models.family import (
    Family,
    Flops,
    Footprint,
    Matrices,
    ParameterCount,
    Recompute,
    SpectralDtype,
)
from toy_family.config import ToyConfig

if TYPE_CHECKING:
    from dpot_scale.models.transfer import Adaptation, Fields, State
    from toy_family.network import Toy

FP32 = 4
KERNEL = 3  # points along an axis


class ToyFamily:
    """Frames as channels, and residual convolutions on the grid."""

    config = ToyConfig
    components: Mapping[str, tuple[str, ...]] = {
        "embedding": ("lift.",),
        "blocks": ("blocks.",),
        "output": ("head.",),
    }
    matrices = ()  # its kernels are of several points
    block = "toy_family.network.Block"

    def parameters(self, model: ToyConfig) -> ParameterCount:
        """Return the number of parameters of each component."""
        width, kernel = model.width, KERNEL**model.space_dims
        return ParameterCount(
            {
                "embedding": model.history * model.channels * width + width,
                "blocks": model.depth * (kernel * width**2 + width),
                "output": width * model.horizon * model.channels + model.horizon * model.channels,
            }
        )

    def matrix_shapes(self, model: ToyConfig) -> tuple[Matrices, ...]:
        """Return how many of its matrices there are of each shape: it has none."""
        del model
        return ()

    def flops(self, model: ToyConfig, recompute: Recompute) -> Flops:
        """Return the FLOPs of one window."""
        points, frames = model.grid**model.space_dims, model.history + model.horizon
        block = 2 * points * KERNEL**model.space_dims * model.width**2
        ends = 2 * points * frames * model.channels * model.width
        again = _repeated(recompute, model.depth)
        return Flops(forward=float(ends + model.depth * block), recomputed=float(again * block))

    def footprint(
        self, model: ToyConfig, recompute: Recompute, dtype: Dtype, spectral_dtype: SpectralDtype
    ) -> Footprint:
        """Return what the memory of a training depends on."""
        del spectral_dtype  # it has no Fourier part
        count, points = self.parameters(model), model.grid**model.space_dims
        kernels = KERNEL**model.space_dims * model.width**2
        element = ELEMENT_BYTES[dtype]
        state = element * model.width * points
        # Before and after each convolution; of a block that runs again, only what goes in.
        again = _repeated(recompute, model.depth)
        blocks = 2 * (model.depth - again) + again + (2 if again else 0)
        frames = (model.history + 2 * model.horizon) * model.channels * points
        return Footprint(
            parameters=count.total,
            matrices=0,
            largest_parameter=max(kernels, count.components["embedding"]),
            block=count.blocks // model.depth,
            block_matrix=kernels,
            vector=model.width,
            per_window=frames * (FP32 + element) + blocks * state,
            fixed=0,
            end_of_backward=0,
        )

    def network(
        self, model: ToyConfig, recompute: Recompute, spectral_dtype: SpectralDtype
    ) -> "Toy":
        """Build the network."""
        from toy_family.network import Toy

        del spectral_dtype
        return Toy(model, recompute)

    def adaptation(
        self, source: ToyConfig, target: ToyConfig, state: "State", fields: "Fields"
    ) -> "Adaptation":
        """Return how weights are made to fit another toy: they come along where they fit."""
        from dpot_scale.models.transfer import Adaptation

        del source, target, state, fields
        return Adaptation()


def _repeated(recompute: Recompute, depth: int) -> int:
    """Return how many blocks run again: none has a part that is cheap to repeat."""
    return 0 if recompute.blocks == "selective" else recompute.repeated(depth)


FAMILY: Family[ToyConfig] = ToyFamily()
