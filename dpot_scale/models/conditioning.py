"""What a model is told of a window beside its frames: numbers, such as its time step.

Legend: B windows, K conditions, F features of a condition, E width, s any axes of space.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear

from dpot_scale.models.counting import conditioning_layers

# Numbers come in any unit and size: from here on, about, features grow with their logarithm.
SMALLEST = 1e-6
# Of the sines of that logarithm. The fastest repeats after a factor of 500, so that a number
# between two known ones gets features between theirs; half precision tells apart half a percent.
FREQUENCIES = (0.125, 0.25, 0.5, 1.0)


class Conditioning(nn.Module):
    """z + scale z + shift, with scale and shift of each channel by a small MLP of the conditions.

    Its last layer starts at zero: a fresh model forecasts as one without conditions does.

    Args:
        conditions: How many numbers there are.
        width: Channels of the latent state.
    """

    def __init__(self, conditions: int, width: int) -> None:
        super().__init__()
        first, last = conditioning_layers(conditions, width)
        self.hidden, self.modulation = _Linear(*first), _Linear(*last)
        for parameter in self.modulation.parameters():
            # ZeRO-3 has cut it up already; each rank holds a part.
            nn.init.zeros_(getattr(parameter, "ds_tensor", parameter))

    def forward(self, z_BsE: Tensor, conditions_BK: Tensor) -> Tensor:
        """Return the latent state of windows with these conditions; NaN: unknown."""
        features = features_of(conditions_BK).flatten(1).to(self.hidden.weight.dtype)
        per_channel = self.modulation(gelu(self.hidden(features)))
        per_channel = per_channel.view(len(z_BsE), *[1] * (z_BsE.ndim - 2), -1)
        scale, shift = per_channel.chunk(2, dim=-1)
        return z_BsE + torch.addcmul(shift, scale, z_BsE)


class _Linear(nn.Linear):
    """A linear layer whose rounding does not depend on where ZeRO-3 has gathered its weights.

    The product with one row is rounded otherwise in memory that is aligned otherwise, which differs
    between a run and the same run resumed. Copies always begin aligned.
    """

    def forward(self, x_BI: Tensor) -> Tensor:
        """Return (B, O)."""
        return linear(x_BI, self.weight.clone(), self.bias.clone())


def features_of(conditions_BK: Tensor) -> Tensor:
    """Return (B, K, F) in fp32: whether a number is known, its logarithm, and waves of that.

    The logarithm is asinh(u / 1e-6), which has a sign, is zero at zero, and linear around it. All
    features of an unknown number are zero.
    """
    is_known_BK = conditions_BK.isfinite()
    log_BK = torch.asinh(conditions_BK.where(is_known_BK, 0.0).float() / SMALLEST)
    waves = [wave(rate * log_BK) for rate in FREQUENCIES for wave in (torch.sin, torch.cos)]
    features_BKF = torch.stack([torch.ones_like(log_BK), log_BK / 16, *waves], dim=-1)
    return features_BKF * is_known_BK.unsqueeze(-1)
