"""The learning rates that the probe of a sweep shows, when its trials have finished.

The best rate of a model is the vertex of a parabola of the log error over the log rate, and a power
law through the best rates of all models gives every other trial its own.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from math import exp, isfinite, log

import numpy as np

from dpot_scale.config.sweep import SweepConfig
from dpot_scale.errors import ConfigError
from dpot_scale.runs.result import TrainingResult, read_result
from dpot_scale.scaling.plan import Trial
from dpot_scale.scaling.rates import BestRate, Rates, rounded, size_of

# A parabola goes through the rates within this factor of the best, and at least one to each side:
# further away the error is no parabola. A little more than 4: five rates of which each is twice the
# one before.
REACH = 4.1
FLAT = 0.02  # errors that differ by less leave the best rate open
# Best rates that leave a power law by more than this factor follow none.
WORST_MISS = 2.0

Errors = Mapping[float, float]  # by rate


def fit_rates(sweep: SweepConfig, trials: Sequence[Trial]) -> Rates:
    """Return the power law of the best rates of a probe.

    A rate whose trial failed, was cancelled or has an error that is no number is left out.

    Args:
        sweep: The sweep.
        trials: The trials of its probe.

    Raises:
        ConfigError: the trials do not show the best rate of a model, or the best rates follow no
            power law.
    """
    probe = sweep.rules.probe
    assert probe is not None
    errors: dict[tuple[str, float], dict[float, float]] = defaultdict(dict)
    for trial in trials:
        size = (str(trial.factors["size"]), size_of(trial.run.model, probe.of))
        of_size = errors[size]
        result = read_result(trial.run.directory)
        if result is not None and isfinite(error := _error(result)):
            of_size[trial.run.optim.lr] = error
    found = [
        BestRate(size=size, lr=rounded(best_rate(label, of_size)))
        for (label, size), of_size in errors.items()
    ]
    sizes = np.log([one.size for one in found])
    at = float(np.exp(sizes.mean()))
    power, height = np.polyfit(sizes - log(at), np.log([one.lr for one in found]), 1)
    rates = Rates(
        time=datetime.now(UTC),
        trials=tuple(trial.id for trial in trials),
        family=trials[0].run.model.family,
        of=probe.of,
        at=rounded(at),
        lr=rounded(exp(height)),
        power=rounded(power),
        found=tuple(found),
    )
    if rates.largest_miss > log(WORST_MISS):
        raise ConfigError(
            f"rules.lr.probe: the best rates follow no power of {probe.of}: {rates}; train the "
            "probe for more windows, or give rules.lr.power"
        )
    return rates


def best_rate(label: str, errors: Errors) -> float:
    """Return the vertex of the parabola of log error over log rate about the best of some rates.

    Args:
        label: The model, for the sentence.
        errors: Its errors by rate.

    Raises:
        ConfigError: the best rate is the least or the greatest, or the error hardly depends on it.
    """
    at = f"rules.lr.probe: of the model {label}"
    if not errors:
        raise ConfigError(f"{at} no trial has finished; `sweep status` says why")
    best = min(errors, key=lambda rate: errors[rate])
    if best in (min(errors), max(errors)):
        side, other = ("least", "lower") if best == min(errors) else ("greatest", "higher")
        raise ConfigError(
            f"{at} the {side} rate that finished, {best:g}, is the best, so the optimum may lie "
            f"beyond it; add {other} `rates`: the trials that there are stay"
        )
    near = [rate for rate in sorted(errors) if 1 / REACH <= rate / best <= REACH]
    below, above = (max(r for r in errors if r < best), min(r for r in errors if r > best))
    used = sorted({*near, below, above})
    values = [errors[rate] for rate in used]
    if max(values) / min(values) - 1 < FLAT:
        raise ConfigError(
            f"{at} the error differs by less than {FLAT:.0%} from rate {used[0]:g} to "
            f"{used[-1]:g}, which leaves the best one open; set `rates` further apart or train for "
            "more `windows`"
        )
    second, first, _ = np.polyfit(np.log(used) - log(best), np.log(values), 2)
    vertex = -first / (2 * second) if second > 0 else 0.0
    # Through more than three points it could lie beyond a neighbour of the best.
    return best * exp(min(max(vertex, log(below / best)), log(above / best)))


def _error(result: TrainingResult) -> float:
    """Return the error that chooses: of the valid split, or of the test where there is none."""
    valid = result.mean_valid_rel_l2
    return result.mean_rel_l2 if valid is None else valid
