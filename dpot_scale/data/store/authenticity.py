"""Checks that imported files are what their publisher computed, where the data can tell.

PDEBench draws each initial state from the number of its group, with NumPy's older generator: the
noise of diffusion-reaction, and the radius of the dam of shallow water.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpot_scale.data.store.dataset import SPLITS, DatasetStore

Array = NDArray[Any]

SEED = "seed"
NOISE_TOLERANCE = 1e-6
RADII = (0.3, 0.7)
DEPTHS = (1.0, 2.0)  # outside and inside the dam
SHOWN = 5


def check_authenticity(store: DatasetStore) -> list[str]:
    """Return a sentence on the trajectories whose initial state is not the one of their seed."""
    check = CHECKS.get(store.info.name)
    if check is None or store.info.origin != "imported":
        return []
    wrong = []
    for split in SPLITS:
        for number, seed in enumerate(store.parameters(split).get(SEED, ())):
            if not check(store, store.read(split, number, 0, 1)[0], int(seed)):
                wrong.append(f"{split} {number} of seed {seed}")
    if not wrong:
        return []
    shown = "; ".join(wrong[:SHOWN]) + ("; ..." if len(wrong) > SHOWN else "")
    return [f"{len(wrong)} trajectories do not begin as PDEBench draws them ({shown})"]


def _is_noise(store: DatasetStore, state_Cxy: Array, seed: int) -> bool:
    """Return whether u and v are the normal numbers of a seed, drawn row by row of y."""
    shape = state_Cxy.shape if store.info.spatial_axes == ("y", "x") else state_Cxy.mT.shape
    drawn_Cyx = np.random.RandomState(seed).standard_normal(shape)
    drawn = drawn_Cyx if store.info.spatial_axes == ("y", "x") else drawn_Cyx.mT
    return bool(np.abs(drawn - state_Cxy).max() < NOISE_TOLERANCE)


def _is_dam(store: DatasetStore, state_Cxy: Array, seed: int) -> bool:
    """Return whether the deep water fills the cells within the radius of a seed."""
    radius = np.random.RandomState(seed).uniform(*RADII)
    axes = [
        ((np.arange(points) + 0.5) / points - 0.5) * length
        for points, length in zip(store.info.grid, store.info.domain_length, strict=True)
    ]
    x, y = np.meshgrid(*axes, indexing="ij")
    shallow, deep = DEPTHS
    return bool((state_Cxy[0] == np.where(np.hypot(x, y) <= radius, deep, shallow)).all())


CHECKS: dict[str, Callable[[DatasetStore, Array, int], bool]] = {
    "dr_pdb": _is_noise,
    "swe_pdb": _is_dam,
}
