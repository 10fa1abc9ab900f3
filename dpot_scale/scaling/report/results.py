"""The results of the trials that have finished."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from dpot_scale.runs.result import TrainingResult, read_result
from dpot_scale.scaling.plan import Trial


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """A finished trial."""

    trial: Trial
    result: TrainingResult


def finished_trials(trials: Sequence[Trial]) -> list[Finished]:
    """Return the trials that have a result, in the order of the plan."""
    results = [(trial, read_result(trial.run.directory)) for trial in trials]
    return [Finished(trial=t, result=r) for t, r in results if r is not None]


def chosen_by_valid(finished: Sequence[Finished]) -> Finished | None:
    """Return the trial with the least error on the valid split; None where no dataset has one.

    What was chosen by the test split would look better on it than on new data.
    """
    errors = {number: entry.result.mean_valid_rel_l2 for number, entry in enumerate(finished)}
    finite = {n: error for n, error in errors.items() if error is not None and isfinite(error)}
    return finished[min(finite, key=finite.__getitem__)] if finite else None


def by_windows(finished: Sequence[Finished]) -> dict[int, list[Finished]]:
    """Return the trials of equal training length together, each group by model size."""
    groups: dict[int, list[Finished]] = defaultdict(list)
    for entry in sorted(finished, key=lambda entry: entry.result.parameters):
        groups[entry.result.windows].append(entry)
    return dict(sorted(groups.items()))
