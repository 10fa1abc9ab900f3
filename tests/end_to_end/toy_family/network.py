"""The network of the toy.

Legend: B windows, T history frames, C fields, s the space axes, E width.
"""

from torch import Tensor, nn
from torch.nn.functional import gelu

from dpot_scale.models.family import Recompute
from dpot_scale.models.forecaster import Forecast, Forecaster, Moments
from dpot_scale.models.recompute import runners
from toy_family.config import ToyConfig
from toy_family.family import KERNEL


class Toy(Forecaster):
    """Residual convolutions on the grid, between two linear layers at each point."""

    def __init__(self, config: ToyConfig, recompute: Recompute) -> None:
        super().__init__(config)
        inputs, outputs = (frames * config.channels for frames in (config.history, config.horizon))
        self.lift = Pointwise(inputs, config.width)
        self.blocks = nn.ModuleList(
            Block(config.width, config.space_dims) for _ in range(config.depth)
        )
        self.head = Pointwise(config.width, outputs)
        self.ends_in(self.head)
        self._run_blocks = runners(self.blocks, recompute)

    def predict(self, frames_BTCs: Tensor, moments: Moments | None) -> Forecast:
        """Predict from frames of shape (B, history, C, *space)."""
        del moments  # it takes the frames as they are
        x_BEs = self.lift(frames_BTCs.flatten(1, 2))
        for run_block in self._run_blocks:
            x_BEs = run_block(x_BEs)
        output_BFs = self.head(x_BEs).float()
        return Forecast(output_BFs.unflatten(1, (self.config.horizon, self.config.channels)))


class Pointwise(nn.Linear):
    """The same linear layer at each point, in the dtype of its parameters."""

    def forward(self, x_BIs: Tensor) -> Tensor:
        """Return (B, O, *space)."""
        return super().forward(x_BIs.to(self.weight.dtype).movedim(1, -1)).movedim(-1, 1)


class Block(nn.Module):
    """x + gelu(convolution(x)), on a periodic domain."""

    def __init__(self, width: int, space_dims: int) -> None:
        super().__init__()
        convolution = {2: nn.Conv2d, 3: nn.Conv3d}[space_dims]
        self.convolution = convolution(
            width, width, KERNEL, padding=KERNEL // 2, padding_mode="circular"
        )

    def forward(self, x_BEs: Tensor) -> Tensor:
        """Return the next state (B, E, *space)."""
        update_BEs: Tensor = gelu(self.convolution(x_BEs))
        return x_BEs + update_BEs
