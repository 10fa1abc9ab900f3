"""Finds the parameters of a law: starts by variable projection, then robust Gauss-Newton steps.

What goes wrong otherwise: with five parameters at once the coefficients hardly change the error
while the exponents do, so that optimizers stop early (arXiv 2404.10102) or in a local minimum
(arXiv 2603.22339). For given exponents the rest is linear, so a grid of exponents finds where to
start; and whatever is fitted, it is fitted for many vectors of parameters at once.
Legend: z parameter vectors, p points, k parameters, q linear coefficients.
"""

from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

from dpot_scale.scaling.report.laws.forms import LOG_LEAST, Form
from dpot_scale.scaling.report.laws.points import Array, Points

EXPONENTS = np.geomspace(0.02, 3.0, 20)
REPEATS = np.geomspace(0.5, 500.0, 6)
STARTS = 48
FINALISTS = 8  # of the starts by least squares, those that robust steps go on from
MOST_STEPS = 100
SMALLEST_GAIN = 1e-7  # of the loss, relative: a step that gains less is the last
# Residuals beyond so many standard deviations count linearly: 95 % as efficient as least squares
# where the noise is normal.
HUBER = 1.345
LEAST_NOISE = 1e-9  # of log errors: that of numbers that follow a law exactly


def fit_form(form: Form, points: Points, huber: float | None = None) -> Array:
    """Return the parameters (k,) that fit best.

    Args:
        form: The form of the law.
        points: At least as many as it has parameters.
        huber: Residual of a log error from which on it counts linearly. Default: `HUBER` standard
            deviations of the residuals themselves.
    """
    first_zk, loss = refine(form, start(form, points), points, points.log_errors, np.inf)
    first_zk = first_zk[loss.argsort()[:FINALISTS]]
    if huber is None:
        huber = huber_threshold(form, first_zk[0], points)
    theta_zk, loss = refine(form, first_zk, points, points.log_errors, huber)
    best: Array = theta_zk[loss.argmin()]
    return best


def huber_threshold(form: Form, theta_k: Array, points: Points) -> float:
    """Return the residual from which on a point counts linearly, from the spread of all."""
    residual = points.log_errors - form.linearize(theta_k[None], points)[0][0]
    freedom = max(len(points) - form.count, 1)
    # The median of absolute residuals is blind to a few outliers; with few points it is small by
    # chance, so what least squares leave bounds it from below.
    robust = float(np.median(np.abs(residual))) / 0.6745
    least_squares = float(np.sqrt((residual**2).sum() / freedom))
    return HUBER * max(robust, 0.5 * least_squares, LEAST_NOISE)


def start(form: Form, points: Points) -> Array:
    """Return parameter vectors (z, k) to start from, found by variable projection on a grid."""
    grid = [EXPONENTS] * len(form.powers)
    if len(form.powers) == 1 and not form.floor:
        grid = [np.concatenate([-EXPONENTS[::-1], [0.0], EXPONENTS])]
    grid += [REPEATS] * form.repeats
    shape_zk = np.array(list(product(*grid)))
    theta_zk = np.zeros((len(shape_zk), form.count))
    exponents = slice(form.floor + 1, form.floor + 2 * len(form.powers), 2)
    theta_zk[:, exponents] = shape_zk[:, : len(form.powers)]
    if form.repeats:
        theta_zk[:, -1] = np.log(shape_zk[:, -1])
    logs, _ = form.log_units(theta_zk, points)
    columns = [np.ones((len(theta_zk), len(points)))] * form.floor
    columns += [
        np.exp(-theta_zk[:, exponents][:, i, None] * log_unit) for i, log_unit in enumerate(logs)
    ]
    # Errors relative to the measured ones are what log errors are to first order.
    design_zpq = np.stack(columns, axis=-1) / points.errors[:, None]
    coefficients_zq, loss = _nonnegative_least_squares(design_zpq, points.seeds)
    least = np.exp(points.log_errors.min() + LOG_LEAST / 2)
    terms = [*range(form.floor, form.count - form.repeats, 2)]
    theta_zk[:, : form.floor] = coefficients_zq[:, : form.floor]
    theta_zk[:, terms] = np.log(np.maximum(coefficients_zq[:, form.floor :], least))
    order = loss.argsort()
    spaced = order[:: max(1, 2 * len(order) // STARTS)]
    chosen: Array = theta_zk[np.unique(np.concatenate([order[: STARTS // 2], spaced]))]
    return chosen


def _nonnegative_least_squares(design_zpq: Array, weights: Array) -> tuple[Array, Array]:
    """Return non-negative coefficients (z, q) whose combination is nearest 1, and its loss (z,).

    There are three at most, so each set of those that are not zero is tried.
    """
    count, _, linear = design_zpq.shape
    best = np.zeros((count, linear))
    best_loss = np.full(count, np.inf)
    for size in range(1, linear + 1):
        for chosen in map(list, combinations(range(linear), size)):
            part = design_zpq[..., chosen]
            scale = np.sqrt((part**2).mean(axis=1, keepdims=True))
            unit = part / scale
            gram = np.einsum("zpi,zpj,p->zij", unit, unit, weights)
            gram += 1e-12 * weights.sum() * np.eye(size)
            right = np.einsum("zpi,p->zi", unit, weights)
            found = np.linalg.solve(gram, right[..., None])[..., 0]
            loss = (weights * (np.einsum("zpi,zi->zp", unit, found) - 1) ** 2).sum(axis=1)
            better = (found >= 0).all(axis=1) & (loss < best_loss)
            best_loss[better] = loss[better]
            best[better] = 0.0
            best[np.ix_(better, chosen)] = (found / scale[:, 0])[better]
    return best, best_loss


def refine(
    form: Form, theta_zk: Array, points: Points, log_errors: Array, huber: float
) -> tuple[Array, Array]:
    """Return parameters (z, k) after Levenberg-Marquardt steps, and their losses (z,).

    Args:
        form: The form of the law.
        theta_zk: Where to start.
        points: Sizes, windows and seeds; their errors are not read.
        log_errors: (p,), or (z, p): others for each parameter vector.
        huber: Residual from which on a point counts linearly; infinite for least squares.
    """
    targets = np.broadcast_to(log_errors, (len(theta_zk), len(points)))
    low, high = form.bounds(log_errors)
    theta = np.clip(theta_zk, low, high)
    predicted, change = form.linearize(theta, points)
    loss = _loss(targets - predicted, points.seeds, huber)
    damping = np.full(len(theta), 1e-4)
    active = np.arange(len(theta))
    for _ in range(MOST_STEPS):
        here = theta[active]
        step = _step(
            targets[active] - predicted,
            change,
            points.seeds,
            huber,
            damping[active],
            (here <= low, here >= high),
        )
        tried = np.clip(here + step, low, high)
        tried_predicted, tried_change = form.linearize(tried, points)
        tried_loss = _loss(targets[active] - tried_predicted, points.seeds, huber)
        gain = loss[active] - tried_loss
        accepted = gain >= 0
        theta[active[accepted]] = tried[accepted]
        loss[active[accepted]] = tried_loss[accepted]
        predicted = np.where(accepted[:, None], tried_predicted, predicted)
        change = np.where(accepted[:, None, None], tried_change, change)
        damping[active] = np.where(accepted, damping[active] / 10, damping[active] * 10)
        ended = accepted & (gain <= SMALLEST_GAIN * loss[active] + LEAST_NOISE**2)
        going = ~ended & (damping[active] < 1e10)
        active, predicted, change = active[going], predicted[going], change[going]
        if not len(active):
            break
    return theta, loss


def _loss(residual: Array, weights: Array, huber: float) -> Array:
    size = np.abs(residual)
    quadratic = np.minimum(size, huber)
    linear = size - quadratic
    loss: Array = (weights * (quadratic**2 / 2 + quadratic * linear)).sum(axis=-1)
    return loss


def _step(
    residual: Array,
    change_zpk: Array,
    weights: Array,
    huber: float,
    damping: Array,
    at_bound_zk: tuple[NDArray[np.bool_], NDArray[np.bool_]],
) -> Array:
    """Return the step (z, k) of reweighted, damped least squares.

    A parameter at its low or high bound that would leave it is held, so that the others move as
    they do without it.
    """
    factor = np.minimum(1.0, huber / np.maximum(np.abs(residual), 1e-300))
    weighted = np.swapaxes(change_zpk * (weights * factor)[..., None], 1, 2)
    normal = weighted @ change_zpk
    right = weighted @ residual[..., None]
    at_low, at_high = at_bound_zk
    free = ~((at_low & (right[..., 0] < 0)) | (at_high & (right[..., 0] > 0)))
    normal *= free[:, :, None] & free[:, None]
    right *= free[..., None]
    diagonal = np.einsum("zkk->zk", normal)
    diagonal += damping[:, None] * diagonal + 1e-14 * weights.sum()
    return np.asarray(np.linalg.solve(normal, right)[..., 0], float)
