"""A fitted law with its uncertainty, and draws of it for plans and predictions."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import stats

from dpot_scale.scaling.report.laws.fitting import (
    LEAST_NOISE,
    fit_form,
    huber_threshold,
    refine,
)
from dpot_scale.scaling.report.laws.forms import SYMBOLS, Form
from dpot_scale.scaling.report.laws.points import Array, Points

LEVEL = 0.95  # of every interval
DRAWS = 1000
# Where the sizes leave the law by more than seeds explain, seeds say nothing of how well it holds.
LACK_OF_FIT = 0.05


class Interval(NamedTuple):
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g} (95 %: {self.low:.3g} to {self.high:.3g})"


class Noise(NamedTuple):
    """How far trials are from the law."""

    deviation: float  # of the log error of one trial
    freedom: int  # degrees of freedom that say so
    lack_of_fit: float  # p-value of points leaving the law as their seeds leave them; NaN: no seeds


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """A law through points, with draws from what its parameters may as well be.

    Each draw is the law fitted again to errors that the fitted law and its noise would have given
    at the same points: a parametric bootstrap. The noise is drawn too, as few points know it badly;
    for a line this gives Student's intervals. Points are not drawn again: without one of a few
    sizes another question would be asked.
    """

    form: Form
    points: Points
    theta_k: Array
    draws_zk: Array
    noise: Noise
    noise_z: Array  # deviation of one trial, in each draw

    def predict(self, at: Points) -> Array:
        """Return the error (p,) at each point."""
        predicted: Array = self.form.predict(self.theta_k[None], at)[0]
        return predicted

    def predict_draws(self, at: Points) -> Array:
        """Return the error (z, p) at each point in each draw."""
        return self.form.predict(self.draws_zk, at)

    def band(self, at: Points) -> tuple[Array, Array]:
        """Return the ends (p,) of the interval of the law at each point."""
        return ends(self.predict_draws(at))

    def foresee(self, at: Points, seed: int = 0) -> list[Interval]:
        """Return what new trials at each point will measure, mean over its seeds."""
        rng = np.random.default_rng(seed)
        draws = self.predict_draws(at)
        noise = self.noise_z[:, None] / np.sqrt(at.seeds) * rng.standard_normal(draws.shape)
        low, high = ends(draws * np.exp(noise))
        return [Interval(*map(float, one)) for one in zip(self.predict(at), low, high, strict=True)]

    def parameters(self) -> Mapping[str, Interval]:
        """Return the parameters by their names in the equation, with their intervals."""
        values = self.form.named(self.theta_k[None])
        draws = self.form.named(self.draws_zk)
        return {
            name: Interval(float(value[0]), *map(float, ends(draws[name])))
            for name, value in values.items()
        }

    def __str__(self) -> str:
        named = self.form.named(self.theta_k[None])
        found = {name: float(value[0]) for name, value in named.items()}
        terms = [f"{found['E']:.3g}"] if found.get("E") else []
        for power in self.form.powers:
            coefficient, exponent = (found[name] for name in SYMBOLS[power])
            letter = "D'" if power == "D" and self.form.repeats else power
            terms.append(f"{coefficient:.3g} {letter}^{-exponent:.3f}")
        return " + ".join(terms)


def ends(draws: Array) -> tuple[Array, Array]:
    """Return the ends of the interval of draws, along their first axis."""
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return low, high


def fit(form: Form, points: Points, *, draws: int = DRAWS, seed: int = 0) -> Fit:
    """Return a law of a form through points, with its uncertainty.

    Args:
        form: The form of the law.
        points: More than it has parameters.
        draws: How many draws to make.
        seed: Of the draws; the same give the same.
    """
    theta = fit_form(form, points)
    noise = measure_noise(form, theta, points)
    rng = np.random.default_rng(seed)
    noise_z = noise.deviation * np.sqrt(noise.freedom / rng.chisquare(noise.freedom, draws))
    predicted = form.linearize(theta[None], points)[0]
    errors = predicted + noise_z[:, None] / np.sqrt(points.seeds) * rng.standard_normal(
        (draws, len(points))
    )
    huber = huber_threshold(form, theta, points)
    drawn, _ = refine(form, np.tile(theta, (draws, 1)), points, errors, huber)
    return Fit(
        form=form, points=points, theta_k=theta, draws_zk=drawn, noise=noise, noise_z=noise_z
    )


def measure_noise(form: Form, theta_k: Array, points: Points) -> Noise:
    """Return how far trials are from a law: by points and seeds, or where these differ by points.

    Raises:
        ValueError: there are no more points than parameters.
    """
    freedom = len(points) - form.count
    if freedom < 1:
        raise ValueError(f"{len(points)} points leave no freedom to {form.count} parameters")
    residual = points.log_errors - form.linearize(theta_k[None], points)[0][0]
    between = float((points.seeds * residual**2).sum())
    deviation = np.sqrt(max(between / freedom, LEAST_NOISE**2))
    if not points.spread_freedom:
        return Noise(float(deviation), freedom, np.nan)
    within = max(points.spread / points.spread_freedom, LEAST_NOISE**2)
    ratio = between / freedom / within
    p_value = float(stats.f.sf(ratio, freedom, points.spread_freedom))
    if p_value < LACK_OF_FIT:
        return Noise(float(deviation), freedom, p_value)
    together = freedom + points.spread_freedom
    pooled = np.sqrt(max((between + points.spread) / together, LEAST_NOISE**2))
    return Noise(float(pooled), together, p_value)
