"""The results of the trials that have finished."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

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


def by_windows(finished: Sequence[Finished]) -> dict[int, list[Finished]]:
    """Return the trials of equal training length together, each group by model size."""
    groups: dict[int, list[Finished]] = defaultdict(list)
    for entry in sorted(finished, key=lambda entry: entry.result.parameters):
        groups[entry.result.windows].append(entry)
    return dict(sorted(groups.items()))
