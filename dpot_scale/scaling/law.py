"""Power laws through measured errors."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats


@dataclass(frozen=True, kw_only=True, slots=True)
class PowerLaw:
    """error = coefficient x size^-exponent."""

    coefficient: float
    exponent: float
    # Both None where two points decide the line: nothing is left to judge it by.
    exponent_error: float | None  # standard error
    r_squared: float | None  # in logarithms

    def predict(self, size: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the error at each size."""
        predicted: NDArray[np.float64] = self.coefficient * np.asarray(size) ** -self.exponent
        return predicted

    def __str__(self) -> str:
        law = f"{self.coefficient:.3g} N^{-self.exponent:+.3f}"
        if self.exponent_error is None:
            return law
        return f"{law} (exponent +- {self.exponent_error:.3f}, R2 {self.r_squared:.3f})"


def fit_power_law(sizes: Sequence[float], errors: Sequence[float]) -> PowerLaw | None:
    """Return the least-squares line through the logarithms; None for fewer than two sizes."""
    if len(set(sizes)) < 2:
        return None
    line = stats.linregress(np.log(sizes), np.log(errors))
    is_exact = len(sizes) == 2
    return PowerLaw(
        coefficient=float(np.exp(line.intercept)),
        exponent=-float(line.slope),
        exponent_error=None if is_exact else float(line.stderr),
        r_squared=None if is_exact else float(line.rvalue**2),
    )
