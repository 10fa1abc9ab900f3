"""Fields of any grid cut into patches, and put together again.

Legend: B windows, T frames, C fields, F all fields of a forecast, s the space axes of the grid,
latent those of the patches, c points of a patch.
"""

import torch
from torch import Tensor


def edge_padded(frames_BTCs: Tensor, points: tuple[int, ...]) -> Tensor:
    """Return frames (B, T, C, *points), in which the last value of each axis goes on to its end."""
    for axis, end in enumerate(points, start=3):
        missing = end - frames_BTCs.shape[axis]
        if missing:
            # Not `pad`, whose backward adds in no fixed order on a GPU.
            edge = frames_BTCs.narrow(axis, -1, 1)
            frames_BTCs = torch.cat([frames_BTCs, *[edge] * missing], dim=axis)
    return frames_BTCs


def cropped(frames_BTCs: Tensor, points: tuple[int, ...]) -> Tensor:
    """Return the first points (B, T, C, *points) of each axis of space."""
    for axis, end in enumerate(points, start=3):
        frames_BTCs = frames_BTCs.narrow(axis, 0, end)
    return frames_BTCs


def patches(frames_BTCs: Tensor, patch: int) -> Tensor:
    """Return the view (B, *latent, T, C, *patch) of frames."""
    batch, history, channels, *space = frames_BTCs.shape
    split = [size for points in space for size in (points // patch, patch)]
    axes = range(3, 3 + len(split))
    return frames_BTCs.reshape(batch, history, channels, *split).permute(
        0, *axes[::2], 1, 2, *axes[1::2]
    )


def pixels(frames_BTCs: Tensor, patch: int) -> Tensor:
    """Return frames as (B, *latent, c, T C): the values of all frames at each point of a patch."""
    split = patches(frames_BTCs, patch)
    dims = frames_BTCs.ndim - 3
    return split.flatten(3 + dims).flatten(1 + dims, 2 + dims).transpose(-1, -2)


def grid_from_patches(x_BhcF: Tensor, patch: int) -> Tensor:
    """Put patches (B, *latent, c, F) in their places: (B, F, *space)."""
    batch, *latent, _, fields = x_BhcF.shape
    dims = len(latent)
    split = x_BhcF.reshape(batch, *latent, *[patch] * dims, fields)
    interleaved = [axis for d in range(dims) for axis in (1 + d, 1 + dims + d)]
    return split.permute(0, 1 + 2 * dims, *interleaved).reshape(
        batch, fields, *[patch * size for size in latent]
    )
