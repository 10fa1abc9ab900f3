"""How much narrower a law would be with points that have not run yet."""

import numpy as np
from scipy import stats

from dpot_scale.scaling.report.laws.fit import LEVEL, Fit
from dpot_scale.scaling.report.laws.points import Array, Points

PLANNING_DRAWS = 100
# Of the largest curvature: a parameter that the points say less about, as a floor of 0, is held.
LEAST_CURVATURE = 1e-12


def expected_width(law: Fit, planned: Points, at: Points) -> Array:
    """Return log(high / low) (p,) of the expected 95 % interval of the law at points.

    Each draw of the law is taken for the truth in turn; the interval that its points and the
    planned ones will give is that of the law made linear there. So a plan may weigh many choices
    in milliseconds each.

    Args:
        law: The law of what has been measured.
        planned: What would be measured beside; without any, the present law is described.
        at: Where the law is to be known.
    """
    draws_zk = law.draws_zk[:PLANNING_DRAWS]
    information = sum(_information(law, draws_zk, points) for points in (law.points, planned))
    values_zk, vectors_zkk = np.linalg.eigh(information)
    known = values_zk > LEAST_CURVATURE * values_zk[:, -1:]
    inverse = np.where(known, 1 / np.where(known, values_zk, 1.0), 0.0)
    change_zpk = _changes(law, draws_zk, at) @ vectors_zkk
    variance_zp = (change_zpk**2 * inverse[:, None]).sum(axis=-1)
    freedom = law.noise.freedom + len(planned)
    reach = stats.t.ppf((1 + LEVEL) / 2, freedom)
    width: Array = (2 * reach * law.noise.deviation * np.sqrt(variance_zp)).mean(axis=0)
    return width


def _information(law: Fit, draws_zk: Array, points: Points) -> Array:
    """Return what points say of the parameters (z, k, k), in units of the noise."""
    change_zpk = _changes(law, draws_zk, points)
    found: Array = np.einsum("zpi,zpj,p->zij", change_zpk, change_zpk, points.seeds)
    return found


def _changes(law: Fit, draws_zk: Array, points: Points) -> Array:
    """Return the derivatives (z, p, k) of log errors; a floor of 0 is held, as it falls no more."""
    change_zpk = law.form.linearize(draws_zk, points)[1]
    if law.form.floor:
        change_zpk[draws_zk[:, 0] <= 0, :, 0] = 0.0
    return change_zpk
