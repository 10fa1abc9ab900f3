"""Measured errors as arrays, those that differ in the seed alone put together."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Points:
    """What models of some size made of some data; arrays of equal length, one entry per point.

    A point is a size at a length of training. Its error is the geometric mean over its seeds.
    """

    sizes: Array  # N: parameters, or FLOPs of a window
    windows: Array  # D: windows seen
    distinct: Array  # of these, the ones that are no repeats
    log_errors: Array
    seeds: Array  # how many trials a point is the mean of
    spread: float  # sum of squares of log errors about their points
    spread_freedom: int  # its degrees of freedom; 0 with one seed per point

    @classmethod
    def of(
        cls,
        sizes: ArrayLike,
        errors: ArrayLike,
        *,
        windows: ArrayLike | None = None,
        distinct: ArrayLike | None = None,
    ) -> Self:
        """Return the points of trials, in the order of size and length.

        Errors that are not finite, of trials whose forecasts blow up, are left out.

        Args:
            sizes: N of each trial.
            errors: Relative L2 error of each trial.
            windows: D of each trial; the same for all by default.
            distinct: Distinct windows among D; all of them by default.
        """
        error = np.asarray(errors, float)
        size = np.asarray(sizes, float)
        seen = np.ones_like(size) if windows is None else np.asarray(windows, float)
        new = seen if distinct is None else np.minimum(np.asarray(distinct, float), seen)
        good = np.isfinite(error) & (error > 0)
        keys = np.column_stack([size, seen, new])[good]
        logs = np.log(error[good])
        cells, cell = np.unique(keys, axis=0, return_inverse=True)
        cell = cell.reshape(-1)  # NumPy 2.0 returned it with the axis
        count = np.bincount(cell, minlength=len(cells)).astype(float)
        mean = np.bincount(cell, logs, minlength=len(cells)) / np.maximum(count, 1)
        return cls(
            sizes=cells[:, 0],
            windows=cells[:, 1],
            distinct=cells[:, 2],
            log_errors=mean,
            seeds=count,
            spread=float(((logs - mean[cell]) ** 2).sum()),
            spread_freedom=len(logs) - len(cells),
        )

    @classmethod
    def at(cls, sizes: ArrayLike, windows: ArrayLike, distinct: ArrayLike | None = None) -> Self:
        """Return points that are yet to be measured; their errors are NaN."""
        size, seen = np.broadcast_arrays(np.asarray(sizes, float), np.asarray(windows, float))
        new = seen if distinct is None else np.minimum(np.asarray(distinct, float), seen)
        flat = size.ravel()
        return cls(
            sizes=flat,
            windows=seen.ravel(),
            distinct=np.broadcast_to(new, size.shape).ravel(),
            log_errors=np.full_like(flat, np.nan),
            seeds=np.ones_like(flat),
            spread=0.0,
            spread_freedom=0,
        )

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def errors(self) -> Array:
        """Return the error of each point."""
        return np.exp(self.log_errors)

    def where(self, chosen: NDArray[np.bool_]) -> Self:
        """Return some of the points. What seeds say of the noise is kept: it is that of all."""
        names = ("sizes", "windows", "distinct", "log_errors", "seeds")
        return replace(self, **{name: getattr(self, name)[chosen] for name in names})


def geometric_mean(values: Array | Sequence[float]) -> float:
    """Return the geometric mean of numbers from 0 on; 1 for none."""
    with np.errstate(divide="ignore"):
        return float(np.exp(np.mean(np.log(values)))) if len(values) else 1.0
