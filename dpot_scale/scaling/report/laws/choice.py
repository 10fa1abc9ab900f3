"""Which law the points support, if any, and what it foretells of the largest size."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product

import numpy as np

from dpot_scale.scaling.report.laws.fit import DRAWS, Fit, Interval, fit
from dpot_scale.scaling.report.laws.fitting import LEAST_NOISE, fit_form
from dpot_scale.scaling.report.laws.forms import Form
from dpot_scale.scaling.report.laws.points import Points

# A line goes through any two sizes: only a third one can say that it is no law.
FEWEST_SIZES = 3
FEWEST_LENGTHS = 3
# Errors that have nothing to do with size fall with each of so many sizes in 1 of 24 sweeps.
DECISIVE_STEPS = 4
NOT_WITH_EVERY_STEP = "does not fall with every step"


@dataclass(frozen=True, kw_only=True, slots=True)
class NoFit:
    """The points do not support a law."""

    reason: str  # a sentence without its full stop

    def __str__(self) -> str:
        return self.reason


def choose(points: Points, *, draws: int = DRAWS, seed: int = 0) -> Fit | NoFit:
    """Return the law that the points support, with its uncertainty, or why there is none.

    Of the forms that the design can tell apart the one with the least corrected Akaike criterion is
    taken, so a term of size or data must earn its parameters.

    Args:
        points: Sizes at one length, lengths of one size, or both.
        draws: How many draws of the law to make.
        seed: Of the draws.
    """
    sizes, lengths = len(set(points.sizes)), len(set(points.windows))
    if sizes < FEWEST_SIZES and lengths < FEWEST_LENGTHS:
        return NoFit(
            reason=f"{sizes} finished size{'s' * (sizes != 1)}: a power law needs at least "
            f"{FEWEST_SIZES}"
        )
    forms = list(_candidates(points))
    if not forms:
        return NoFit(reason=f"{len(points)} points are too few for a law")
    best = min(forms, key=lambda form: criterion(form, points))
    if len(best.powers) == 1:
        plain = fit(replace(best, floor=False), points, draws=draws, seed=seed)
        if (refusal := _refusal(plain)) is not None or not best.floor:
            return refusal or plain
    return fit(best, points, draws=draws, seed=seed)


def _candidates(points: Points) -> Iterator[Form]:
    """Yield the forms that the design can tell apart and that leave the points enough freedom.

    Where there are points enough for a floor, which may be 0, there is one: without it the interval
    far beyond the points would be that of an error known to fall to 0, and in 200 simulated sweeps
    with a weak floor three of four of these intervals missed.
    """
    size = len(set(points.sizes)) >= FEWEST_SIZES
    data = len(set(points.windows)) >= FEWEST_LENGTHS
    repeats = data and len(set(points.windows / points.distinct)) >= FEWEST_LENGTHS
    terms = [(size, False)] * size + [(False, data)] * data + [(True, True)] * (size and data)
    for (has_size, has_data), has_repeats in product(terms, (False, True)):
        if has_repeats and not (has_data and repeats):
            continue
        plain = Form.of(points, size=has_size, data=has_data, repeats=has_repeats)
        floored = replace(plain, floor=True)
        # Beyond the noise Akaike's correction needs a point more than there are parameters.
        if len(points) > floored.count + 2:
            yield floored
        elif len(points) > plain.count:
            yield plain


def criterion(form: Form, points: Points) -> float:
    """Return Akaike's criterion, corrected for few points, of a form fitted to points."""
    theta = fit_form(form, points)
    residual = points.log_errors - form.linearize(theta[None], points)[0][0]
    count, parameters = len(points), form.count + 1  # and the noise
    spare = count - parameters - 1
    variance = max(float((points.seeds * residual**2).sum()) / count, LEAST_NOISE**2)
    correction = 2 * parameters * (parameters + 1) / spare if spare > 0 else np.inf
    return float(count * np.log(variance) + 2 * parameters + correction)


def _refusal(found: Fit) -> NoFit | None:
    """Return why a single power without a floor says nothing: it is flat, rises or is scattered.

    An error that falls with each of enough steps falls, though few points leave open how fast.
    """
    exponent = found.parameters()["a" if found.form.size else "b"]
    if exponent.low > 0:
        return None
    what = "size" if found.form.size else "length of training"
    interval = f"the exponent of {what} is {exponent}"
    if exponent.high < 0:
        return NoFit(reason=f"the error rises with {what}: {interval}")
    means = _means(found)
    if not all(after < before for before, after in pairwise(means)):
        flat = max(means) - min(means) <= 2 * found.noise.deviation
        how = "is flat within its scatter" if flat else "does not fall with every step"
        return NoFit(reason=f"the error {how} in {what}: {interval}")
    if len(means) < DECISIVE_STEPS:
        return NoFit(reason=f"{len(means)} points leave open whether the error falls: {interval}")
    return None


def _means(found: Fit) -> list[float]:
    along = found.points.sizes if found.form.size else found.points.windows
    return [float(found.points.log_errors[along == value].mean()) for value in np.unique(along)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Foretold:
    """What the smaller sizes said of the largest, and what it was."""

    size: float
    windows: float
    expected: Interval  # of the mean over the seeds of this point
    measured: float
    law: Fit  # of the smaller sizes

    @property
    def holds(self) -> bool:
        """Return whether the measured error is inside the interval."""
        return self.expected.low <= self.measured <= self.expected.high


def foretell_largest(points: Points, *, draws: int = DRAWS) -> Sequence[Foretold] | NoFit:
    """Return for the largest size what the law of all smaller ones says of it.

    The same numbers come out before the largest size has run.
    """
    largest = points.sizes == points.sizes.max(initial=0)
    law = choose(points.where(~largest), draws=draws)
    if isinstance(law, NoFit):
        return NoFit(reason=f"without the largest size, {law}")
    at = points.where(largest)
    return [
        Foretold(
            size=float(size),
            windows=float(windows),
            expected=expected,
            measured=float(error),
            law=law,
        )
        for size, windows, expected, error in zip(
            at.sizes, at.windows, law.foresee(at), at.errors, strict=True
        )
    ]
