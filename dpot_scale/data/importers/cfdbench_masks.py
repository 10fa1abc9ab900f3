"""Where the fluid is in a case of CFDBench, and the fields as the reference completes them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

BARRIER_LEFT = 0.5  # of the dam, in metres


def fluid_mask(problem: str, values: Mapping[str, Any], grid: Sequence[int]) -> Array:
    """Return (y, x): 1 in the fluid, 0 in an obstacle, by the centres of cells.

    The cylinder is at the origin of the case's coordinates. Walls are not part of the grid. An
    obstacle that is smaller than a cell, and lies between the centres, is made as large as a cell.
    """
    rows, columns = grid
    if problem == "cylinder":
        x = _centres(values["x_min"], values["x_max"], columns)
        y = _centres(values["y_min"], values["y_max"], rows)
        radius = max(values["radius"], float(np.hypot(x[1] - x[0], y[1] - y[0])) / 2)
        solid = x**2 + y[:, None] ** 2 <= radius**2
    elif problem == "dam":
        x = _centres(0.0, values["width"], columns) - BARRIER_LEFT - values["barrier_width"] / 2
        y = _centres(0.0, values["height"], rows)
        half_width = max(values["barrier_width"], x[1] - x[0]) / 2
        solid = (np.abs(x) <= half_width) & (y[:, None] <= max(values["barrier_height"], y[0]))
    else:
        solid = np.zeros((rows, columns), dtype=bool)
    mask: Array = (~solid).astype(np.float32)
    return mask


def _centres(low: float, high: float, cells: int) -> Array:
    return low + (np.arange(cells) + 0.5) * (high - low) / cells


def reference_frames(
    problem: str, values: Mapping[str, Any], fields_Tcyx: Array, grid: int
) -> Array:
    """Return u, v and mask (T, 3, grid, grid) as the reference makes them.

    It adds the inlet on the left and walls below and above, marks these as solid but not the
    cylinder, which its test of the distance to (0.5, 0.5) misses, and resizes everything.
    """
    ones_T1yx = np.ones_like(fields_Tcyx[:, :1])
    frames_Tcyx = np.concatenate([fields_Tcyx, ones_T1yx], axis=1)
    if problem != "cavity":
        frames_Tcyx = np.pad(frames_Tcyx, ((0, 0), (0, 0), (1, 1), (1, 0)))
        frames_Tcyx[:, 0, 1:-1, 0] = values["vel_in"]
    return _resize(frames_Tcyx, grid)


def _resize(frames_Tcyx: Array, grid: int) -> Array:
    """Resize linearly with aligned corners; to the last bit as torch does it."""
    if frames_Tcyx.shape[2:] == (grid, grid):
        return frames_Tcyx
    import torch  # slow to load, and needed by this mode alone
    from torch.nn import functional

    resized = functional.interpolate(
        torch.from_numpy(frames_Tcyx), size=(grid, grid), mode="bilinear", align_corners=True
    )
    array: Array = resized.numpy()
    return array
