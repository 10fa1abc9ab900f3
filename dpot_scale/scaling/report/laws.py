"""Power laws through measured errors."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np
from numpy.typing import NDArray
from scipy import stats

# A line goes through any two sizes: only a third one can say that it is no law.
FEWEST_SIZES = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class PowerLaw:
    """error = coefficient x size^-exponent."""

    coefficient: float
    exponent: float
    exponent_error: float  # standard error
    r_squared: float  # in logarithms

    def predict(self, size: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the error at each size."""
        predicted: NDArray[np.float64] = self.coefficient * np.asarray(size) ** -self.exponent
        return predicted

    def __str__(self) -> str:
        law = f"{self.coefficient:.3g} N^{-self.exponent:+.3f}"
        return f"{law} (exponent +- {self.exponent_error:.3f}, R2 {self.r_squared:.3f})"


def fit_power_law(sizes: Sequence[float], errors: Sequence[float]) -> PowerLaw | None:
    """Return the least-squares line through the logarithms; None for fewer than three sizes.

    An error that is not finite, of a trial whose forecasts blow up, is left out.
    """
    finite = [(size, error) for size, error in zip(sizes, errors, strict=True) if isfinite(error)]
    sizes, errors = [size for size, _ in finite], [error for _, error in finite]
    if len(set(sizes)) < FEWEST_SIZES:
        return None
    line = stats.linregress(np.log(sizes), np.log(errors))
    return PowerLaw(
        coefficient=float(np.exp(line.intercept)),
        exponent=-float(line.slope),
        exponent_error=float(line.stderr),
        r_squared=float(line.rvalue**2),
    )
