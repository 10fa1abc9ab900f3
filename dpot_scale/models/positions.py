"""The position embedding on another latent grid than its own.

Legend: E width, h the space axes of a latent grid.
"""

from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import interpolate


def resized_positions(position_1Eh: Tensor, latent: tuple[int, ...]) -> Tensor:
    """Return a position embedding (1, E, *h) on a latent grid, (1, E, *latent).

    It is interpolated along each axis by cubic convolution (Keys 1981), in 3D as in 2D. Latent
    points are the middles of equal cells; where there are fewer of them the kernel widens, so that
    each is a mean of what it stands for. On its own grid the embedding is returned as it is. Each
    axis is one product, whose backward adds in a fixed order, where `interpolate` would not on a
    GPU.
    """
    dtype = position_1Eh.dtype
    for axis, points in enumerate(latent, start=2):
        known = position_1Eh.shape[axis]
        if known != points:
            weights = _cubic(known, points, position_1Eh.device)
            along = position_1Eh.movedim(axis, -1).float() @ weights
            position_1Eh = along.movedim(-1, axis).to(dtype)
    return position_1Eh


@cache
def _cubic(known: int, points: int, device: torch.device) -> Tensor:
    """Return (known, points): how much of each known value each point has."""
    with torch.inference_mode(False):
        unit = torch.eye(known)[None, None]
        size = (known, points)
        return interpolate(unit, size=size, mode="bicubic", antialias=True)[0, 0].to(device)
