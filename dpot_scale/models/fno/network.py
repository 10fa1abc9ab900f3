"""A Fourier neural operator for fields in two and three dimensions (Li et al. 2021).

As in the autoregressive FNO of that paper, the values of all frames at a point are its channels.

Legend: B windows, T history frames, C fields, s the space axes, E width, D space axes as channels.
"""

from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from dpot_scale.models.adapter import AdaptableLinear
from dpot_scale.models.derived import MOST_KEPT
from dpot_scale.models.family import KEEP_ALL, Recompute, SpectralDtype
from dpot_scale.models.fno.config import PROJECTION, FNOConfig
from dpot_scale.models.fno.spectral import Modes, SpectralOperator
from dpot_scale.models.forecaster import Forecast, Forecaster, Moments
from dpot_scale.models.recompute import runners

SPECTRAL_DTYPES: dict[SpectralDtype, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
}


class FNO(Forecaster):
    """Maps `history` frames of a field, standardised, to the next `horizon` frames.

    A field may have any grid: no parameter belongs to a point.
    """

    def __init__(
        self,
        config: FNOConfig,
        *,
        recompute: Recompute = KEEP_ALL,
        spectral_dtype: SpectralDtype = "float32",
    ) -> None:
        super().__init__(config, normalize=True)
        self.config: FNOConfig = config
        width, hidden = config.width, PROJECTION * config.width
        self.lift = nn.Linear(config.inputs, width)
        self.statistics = nn.Linear(2 * config.channels, width)
        modes, dtype = config.kept_modes(config.space), SPECTRAL_DTYPES[spectral_dtype]
        self.blocks = nn.ModuleList(Block(width, modes, dtype) for _ in range(config.depth))
        self._run_blocks = runners(self.blocks, recompute)
        self.output = nn.Sequential(
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.Linear(hidden, config.horizon * config.channels),
        )
        self.ends_in(self.output[-1])

    def predict(self, frames_BTCs: Tensor, moments: Moments | None) -> Forecast:
        """Predict from standardised frames of shape (B, history, C, *space)."""
        assert moments is not None
        dtype, space = self.lift.weight.dtype, tuple(frames_BTCs.shape[3:])
        place_sD = _places(space, dtype, frames_BTCs.device)
        values_BsT = frames_BTCs.flatten(1, 2).movedim(1, -1).to(dtype)
        x_BsE = self.lift(torch.cat([values_BsT, place_sD.expand(*values_BsT.shape[:-1], -1)], -1))
        statistics_B2C = torch.cat([moment.flatten(1) for moment in moments], dim=1).to(dtype)
        of_window_BE = self.statistics(statistics_B2C)
        x_BsE = x_BsE + of_window_BE.view(len(x_BsE), *[1] * len(space), -1)
        for run_block in self._run_blocks:
            x_BsE = run_block(x_BsE)
        forecast_BFs = self.output(x_BsE).float().movedim(-1, 1)
        shape = (-1, self.config.horizon, self.config.channels, *space)
        return Forecast(forecast_BFs.reshape(shape))


class Block(nn.Module):
    """gelu(K x + W x): an operator in Fourier space, and a matrix at each point.

    Args:
        width: Channels.
        modes: Frequencies that the operator knows along each axis.
        spectral_dtype: The precision of the operator, unless that of the parameters is higher.
    """

    def __init__(self, width: int, modes: Modes, spectral_dtype: torch.dtype) -> None:
        super().__init__()
        self.spectral = SpectralOperator(width, modes, spectral_dtype)
        self.pointwise = AdaptableLinear(width, width)

    def forward(self, x_BsE: Tensor) -> Tensor:
        """Return the next state (B, *space, E)."""
        next_BsE: Tensor = gelu(self.spectral(x_BsE) + self.pointwise(x_BsE))
        return next_BsE


@lru_cache(maxsize=MOST_KEPT)
def _places(space: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return (*space, D): the place of each point on each axis, from 0 to 1."""
    with torch.inference_mode(False):
        axes = [torch.linspace(0, 1, size, device=device) for size in space]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).to(dtype)
