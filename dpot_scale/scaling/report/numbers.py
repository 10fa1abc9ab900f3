"""A sweep in numbers, for the row that it has in MLflow: sweeps can be sorted by them."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from math import isfinite
from typing import NamedTuple

from dpot_scale.config.sweep import SweepConfig
from dpot_scale.scaling.journal import Entry, Journal
from dpot_scale.scaling.plan import Trial
from dpot_scale.scaling.report.analysis import Analysis
from dpot_scale.scaling.report.laws.choice import NoFit
from dpot_scale.scaling.report.results import Finished, best_trial
from dpot_scale.tracking import names
from dpot_scale.tracking.names import REL_L2, final_key


class Spell(NamedTuple):
    """An attempt, from its start to its end."""

    start: datetime
    end: datetime
    workers: int


def sweep_numbers(
    sweep: SweepConfig,
    trials: Sequence[Trial],
    finished: Sequence[Finished],
    arms: Sequence[Analysis],
) -> dict[str, float]:
    """Return what a sweep has reached and taken, as metrics; what is not known is left out.

    The law is that of the largest arm. An attempt whose driver was killed has no end and no hours.
    """
    entries = Journal(sweep.directory).entries()
    newest = {entry.trial: entry.event for entry in entries}
    done = {entry.trial.id for entry in finished}
    failed = [t for t in trials if newest.get(t.id) == "failed" and t.id not in done]
    # Attempts of older versions do not say on how many workers: their number never changed.
    spells = _spells(entries, sweep.resources.most_workers)
    hours = sum((spell.workers * (spell.end - spell.start) for spell in spells), timedelta())
    numbers = {
        **_best(finished),
        **_law(max(arms, key=lambda found: len(found.finished))),
        names.TRIALS_FINISHED: len(finished),
        names.TRIALS_FAILED: len(failed),
        names.TOTAL_FLOPS: sum(_own_flops(entry) for entry in finished),
        names.DEVICE_HOURS: hours / timedelta(hours=1),
        names.SECONDS: _together(spells).total_seconds(),
    }
    return {key: float(value) for key, value in numbers.items() if isfinite(value)}


def _best(finished: Sequence[Finished]) -> dict[str, float]:
    """Return the scores of the best trial."""
    best = best_trial(finished)
    if best is None:
        return {}
    result = best.result
    return {
        final_key(REL_L2): result.mean_rel_l2,
        final_key(names.ONE_STEP_REL_L2): result.mean_one_step_rel_l2,
        final_key(names.OVER_PERSISTENCE): result.over_persistence,
        **{final_key(REL_L2, name): score.rel_l2 for name, score in result.evaluation.items()},
    }


def _law(found: Analysis) -> dict[str, float]:
    """Return the exponent of size, and what the smaller sizes say of the largest one."""
    numbers = {}
    if not isinstance(found.law, NoFit) and "a" in found.law.parameters():
        exponent = found.law.parameters()["a"]
        numbers = {
            names.LAW_EXPONENT: exponent.value,
            names.LAW_EXPONENT_LOW: exponent.low,
            names.LAW_EXPONENT_HIGH: exponent.high,
        }
    if not isinstance(found.foretold, NoFit):
        one = found.foretold[-1]
        numbers |= {
            names.LAW_PREDICTED: one.expected.value,
            names.LAW_PREDICTED_LOW: one.expected.low,
            names.LAW_PREDICTED_HIGH: one.expected.high,
            names.LAW_MEASURED: one.measured,
        }
    return numbers


def _own_flops(entry: Finished) -> float:
    """Return the FLOPs of a trial without those that it shares with its trunk."""
    after = entry.trial.after
    shared = 0.0 if after is None else after.step / entry.result.steps
    return (1 - shared) * entry.result.train_flops


def _spells(entries: Sequence[Entry], workers: int) -> list[Spell]:
    """Return the attempts that have an end.

    Args:
        entries: The journal.
        workers: Of an attempt that says no other number.
    """
    of_trial: Mapping[str, list[Entry]] = {entry.trial: [] for entry in entries}
    for entry in entries:
        of_trial[entry.trial].append(entry)
    return sorted(
        Spell(before.time, after.time, before.workers or workers)
        for own in of_trial.values()
        for before, after in pairwise(own)
        if before.event == "started" and after.event != "started"
    )


def _together(spells: Sequence[Spell]) -> timedelta:
    """Return how long at least one attempt was running."""
    total, until = timedelta(), None
    for start, end, _ in spells:
        begun = start if until is None else max(start, until)
        total += max(end - begun, timedelta())
        until = end if until is None else max(end, until)
    return total
