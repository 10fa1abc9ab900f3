"""The forms that a law may have: a floor, and a falling power of size, of data, or of both.

    error = E + A N^-a + B D'^-b                       Hoffmann et al. 2022, equation 2
    D' = U + U R (1 - exp(-(D / U - 1) / R))           Muennighoff et al. 2023, equation 5

N is the size, D the windows seen and U the distinct ones among them; repeats lose their worth after
about R passes. Legend: z parameter vectors, p points, k parameters.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from dpot_scale.scaling.report.laws.points import Array, Points, geometric_mean

STEEPEST = 4.0  # exponent; errors fall slower, and what rises faster is no law
LOG_REPEATS = (np.log(0.1), np.log(1e4))  # bounds of log R
# A term this much below the errors is none, and a fit could not get it back from less.
LOG_LEAST = np.log(1e-6)
INVISIBLE = 1e-3  # of another term
SYMBOLS = {"N": ("A", "a"), "D": ("B", "b")}  # coefficient and exponent of each power


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """Which terms a law has, and the units in which its parameters are nearly independent.

    Its parameters are E, then for size and for data the log of the term at the unit and the
    exponent, then log R; those of terms that it lacks are left out.
    """

    floor: bool = False
    size: bool = True
    data: bool = False
    repeats: bool = False
    size_unit: float = 1.0
    windows_unit: float = 1.0

    @classmethod
    def of(cls, points: Points, **terms: bool) -> Self:
        """Return a form with its units at the middle of some points."""
        return cls(
            size_unit=geometric_mean(points.sizes),
            windows_unit=geometric_mean(points.windows),
            **terms,
        )

    @property
    def powers(self) -> tuple[str, ...]:
        """Return the names of its terms: N, D."""
        return tuple(name for name, has in (("N", self.size), ("D", self.data)) if has)

    @property
    def count(self) -> int:
        """Return the number of parameters."""
        return self.floor + 2 * len(self.powers) + self.repeats

    def bounds(self, log_errors: Array) -> tuple[Array, Array]:
        """Return the least and the greatest (k,) of each parameter, for errors of this range."""
        low_term = float(np.min(log_errors)) + LOG_LEAST
        high_term = float(np.max(log_errors)) + 3.0
        # Beside other terms a rising power could stand for anything.
        flattest = 0.0 if self.floor or len(self.powers) > 1 else -STEEPEST
        # Draws through three points reach errors that only their logarithms can be.
        ranges = [(0.0, float(np.exp(np.max(log_errors))))] if self.floor else []
        ranges += [(low_term, high_term), (flattest, STEEPEST)] * len(self.powers)
        ranges += [LOG_REPEATS] * self.repeats
        low, high = np.array(ranges).T
        return low, high

    def log_units(self, theta_zk: Array, points: Points) -> tuple[list[Array], Array | None]:
        """Return log N and log D' of each term over its unit, and how log D' changes with log R."""
        logs: list[Array] = []
        slope = None
        if self.size:
            logs.append(np.log(points.sizes / self.size_unit)[None])
        if self.data and self.repeats:
            distinct = np.maximum(points.distinct, 1e-300)[None]
            passes = points.windows / distinct - 1
            worth = np.exp(theta_zk[:, -1:])
            gone = np.exp(-passes / worth)
            gain = 1 + worth * (1 - gone)
            logs.append(np.log(distinct * gain / self.windows_unit))
            slope = (worth * (1 - gone) - passes * gone) / gain
        elif self.data:
            logs.append(np.log(points.windows / self.windows_unit)[None])
        return logs, slope

    def predict(self, theta_zk: Array, points: Points) -> Array:
        """Return the error (z, p) of each point under each parameter vector."""
        return np.exp(self.linearize(theta_zk, points)[0])

    def linearize(self, theta_zk: Array, points: Points) -> tuple[Array, Array]:
        """Return the log errors (z, p) and their derivatives (z, p, k)."""
        logs, slope = self.log_units(theta_zk, points)
        shape = (len(theta_zk), len(points))
        change = np.empty((*shape, self.count))
        column = int(self.floor)
        total = np.zeros(shape)
        if self.floor:
            change[..., 0] = 1.0
            total = total + theta_zk[:, :1]
        for log_unit in logs:
            term = np.exp(theta_zk[:, column, None] - theta_zk[:, column + 1, None] * log_unit)
            change[..., column] = term
            change[..., column + 1] = -log_unit * term
            total = total + term
            column += 2
        if slope is not None:
            change[..., -1] = -theta_zk[:, -2, None] * slope * term
        return np.log(total), change / total[..., None]

    def named(self, theta_zk: Array) -> Mapping[str, Array]:
        """Return the parameters (z,) of the law by their names in the equation: E, A, a, B, b, R.

        A floor that no error could show is 0.
        """
        values: dict[str, Array] = {}
        first = int(self.floor)
        if self.floor:
            lowest = np.exp(theta_zk[:, first]) * INVISIBLE
            floor = theta_zk[:, 0]
            values["E"] = np.where(floor > lowest, floor, 0.0)
        units = {"N": self.size_unit, "D": self.windows_unit}
        for number, power in enumerate(self.powers):
            coefficient, exponent = SYMBOLS[power]
            log_term, slope = theta_zk[:, first + 2 * number], theta_zk[:, first + 2 * number + 1]
            values[coefficient] = np.exp(log_term + slope * np.log(units[power]))
            values[exponent] = slope
        if self.repeats:
            values["R"] = np.exp(theta_zk[:, -1])
        return values
