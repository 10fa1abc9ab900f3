"""The results of the trials that have finished."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Literal

import numpy as np

from dpot_scale.engine.update import update_flops
from dpot_scale.runs.result import TrainingResult, read_result
from dpot_scale.scaling.design import FactorValue
from dpot_scale.scaling.plan import Trial
from dpot_scale.scaling.report.laws.choice import FEWEST_SIZES
from dpot_scale.scaling.report.laws.points import Array, Points, geometric_mean
from dpot_scale.scaling.report.predictions import Prediction, kept
from dpot_scale.scaling.report.training_data import (
    TrainingSplit,
    distinct_windows,
    training_splits,
)

Measure = Literal["parameters", "block_parameters", "flops_per_window"]
BANDS = ("first third", "middle third", "last third")
# Factors of a design along which a law is fitted. Trials that differ in another one follow others.
LAW_FACTORS = {"size", "windows", "flops", "seed", "trajectories"}
MUON_COUNTS = 5  # the format of results from which on FLOPs hold those of Muon
LAW_FACTORS |= {"model.size", "model.width", "model.depth"}  # of a grid


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """A finished trial."""

    trial: Trial
    result: TrainingResult
    splits: Mapping[str, TrainingSplit] | None  # what it was trained on; None: the data are gone
    foretold: Prediction | None = None  # the last time before it finished

    @property
    def distinct_windows(self) -> float:
        """Windows that it saw which are no repeats; all of them where the data are gone."""
        return distinct_windows(self.trial.run, self.splits)

    @property
    def train_flops(self) -> float:
        """FLOPs of the whole training; results before format 5 have none of Muon's."""
        missing = 0.0 if self.result.format >= MUON_COUNTS else self._update_flops
        return self.result.train_flops + missing

    @property
    def _update_flops(self) -> float:
        run = self.trial.run
        return self.result.steps * update_flops(run.model, run.optim, run.start)

    @property
    def budget(self) -> float:
        """FLOPs that the design gave to the trial, or those that it took.

        A design of equal FLOPs gives them to the model, and the updates of Muon come on top.
        """
        return float(self.trial.factors.get("flops", self.train_flops))

    @property
    def flops_per_window(self) -> float:
        """FLOPs of training on one window."""
        return self.train_flops / self.result.windows


def finished_trials(trials: Sequence[Trial]) -> list[Finished]:
    """Return the trials that have a result, in the order of the plan, without those of a probe.

    Raises:
        RecordError: a result is damaged, or another version wrote it.
        DataError: an index or the record of the costs of a dataset is damaged.
    """
    points = [trial for trial in trials if trial.role == "point"]
    results = [(trial, read_result(trial.run.directory)) for trial in points]
    return [
        Finished(
            trial=trial,
            result=result,
            splits=training_splits(trial.run),
            foretold=next(reversed(kept(trial.run.directory)), None),
        )
        for trial, result in results
        if result is not None
    ]


def chosen_by_valid(finished: Sequence[Finished]) -> Finished | None:
    """Return the trial with the least error on the valid split; None where no dataset has one.

    What was chosen by the test split would look better on it than on new data.
    """
    errors = {number: entry.result.mean_valid_rel_l2 for number, entry in enumerate(finished)}
    finite = {n: error for n, error in errors.items() if error is not None and isfinite(error)}
    return finished[min(finite, key=finite.__getitem__)] if finite else None


def best_trial(finished: Sequence[Finished]) -> Finished | None:
    """Return the trial with the least error on the valid split, or on the test where none has one.

    None where no error is finite.
    """
    tested = {n: entry.result.mean_rel_l2 for n, entry in enumerate(finished)}
    finite = {n: error for n, error in tested.items() if isfinite(error)}
    least = finished[min(finite, key=finite.__getitem__)] if finite else None
    return chosen_by_valid(finished) or least


def by_windows(finished: Sequence[Finished]) -> dict[int, list[Finished]]:
    """Return the trials of equal training length together, each group by model size."""
    groups: dict[int, list[Finished]] = defaultdict(list)
    for entry in sorted(finished, key=lambda entry: entry.result.parameters):
        groups[entry.result.windows].append(entry)
    return dict(sorted(groups.items()))


def arms(finished: Sequence[Finished]) -> dict[str, list[Finished]]:
    """Return the trials that one law may go through together, by what they have in common.

    A family, a learning rate, a start, an ablation: each value has laws of its own. The label of
    the only arm is empty. Families have the same order, and so colours, whatever has finished.
    """
    labels = arm_labels([entry.trial for entry in finished])
    groups: dict[str, list[Finished]] = defaultdict(list)
    for entry in sorted(finished, key=lambda entry: entry.trial.run.model.family):
        groups[labels[entry.trial.id]].append(entry)
    return dict(groups)


def arm_labels(trials: Sequence[Trial]) -> dict[str, str]:
    """Return the label of the arm of each trial, by its id; empty where there is only one."""
    found = {trial.id: arm_of(trial) for trial in trials}
    if len(set(found.values())) == 1:
        return dict.fromkeys(found, "")
    several = len({dict(arm)["family"] for arm in found.values()}) > 1
    return {
        trial: ", ".join(_named(*factor) for factor in arm if several or factor[0] != "family")
        for trial, arm in found.items()
    }


def arm_of(trial: Trial) -> tuple[tuple[str, FactorValue], ...]:
    """Return the factors of a trial that no law goes along, its family first."""
    factors = {k: v for k, v in trial.factors.items() if k not in LAW_FACTORS}
    return tuple(({"family": trial.run.model.family} | factors).items())


def _named(factor: str, value: FactorValue) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if factor in ("family", "start", "ablation") else f"{factor} = {text}"


def longest(finished: Sequence[Finished]) -> list[Finished]:
    """Return the trials of one length, by size: the longest that has sizes enough for a law.

    In a design of equal FLOPs the longest trainings are all of the smallest model. Where the amount
    of data varies, those with the most are taken.
    """
    most = max(float(entry.trial.factors.get("trajectories", 0)) for entry in finished)
    with_most = [e for e in finished if float(e.trial.factors.get("trajectories", 0)) == most]
    groups = list(by_windows(with_most).values())
    with_law = [
        group
        for group in groups
        if len({entry.result.parameters for entry in group}) >= FEWEST_SIZES
    ]
    return (with_law or groups)[-1]


def errors_of(finished: Sequence[Finished]) -> dict[str, list[float]]:
    """Return every held-out error that a law is fitted to, of each trial.

    A rollout has all lead times and one step the first; the means are over datasets. In the
    geometric one each dataset weighs as much as another, in the other one as much as its error.
    Bands are thirds of the lead times of each dataset.
    """
    series = {
        "rollout, mean": [entry.result.mean_rel_l2 for entry in finished],
        "rollout, geometric mean": [_geometric_mean(entry.result) for entry in finished],
        "one step, mean": [entry.result.mean_one_step_rel_l2 for entry in finished],
    }
    if all(entry.result.lead_times for entry in finished):
        bands = [_bands(entry.result) for entry in finished]
        series |= {
            f"rollout, {band} of the lead times, mean": [of_trial[i] for of_trial in bands]
            for i, band in enumerate(BANDS)
        }
    for name in finished[0].result.evaluation:
        scores = [entry.result.evaluation[name] for entry in finished]
        series[f"rollout, {name}"] = [score.rel_l2 for score in scores]
        series[f"one step, {name}"] = [score.one_step_rel_l2 for score in scores]
    return series


def _geometric_mean(result: TrainingResult) -> float:
    return geometric_mean([score.rel_l2 for score in result.evaluation.values()])


def _bands(result: TrainingResult) -> list[float]:
    """Return the error in each band of lead times, mean over datasets; NaN where one is empty."""
    errors = [np.array_split(np.array(lead), len(BANDS)) for lead in result.lead_times.values()]
    return [
        float(np.mean([band.mean() if len(band) else np.nan for band in bands]))
        for bands in zip(*errors, strict=True)
    ]


def points_of(
    finished: Sequence[Finished],
    errors: Sequence[float],
    measure: Measure = "parameters",
) -> Points:
    """Return the errors of trials as points of a law.

    Args:
        finished: The trials.
        errors: Of each of them.
        measure: What counts as the size of a model.
    """
    sizes: Mapping[Measure, Sequence[float]] = {
        "parameters": [entry.result.parameters for entry in finished],
        "block_parameters": [entry.result.block_parameters for entry in finished],
        # Rounded: the quotient of one model at two lengths may differ in its last digit.
        "flops_per_window": [float(f"{entry.flops_per_window:.9g}") for entry in finished],
    }
    return Points.of(
        sizes[measure],
        errors,
        windows=[entry.result.windows for entry in finished],
        distinct=[entry.distinct_windows for entry in finished],
    )


def mean_points(finished: Sequence[Finished], measure: Measure = "parameters") -> Points:
    """Return the rollout errors of trials, mean over datasets, as points of a law."""
    return points_of(finished, [entry.result.mean_rel_l2 for entry in finished], measure)


def flops_of(finished: Sequence[Finished], points: Points) -> Array:
    """Return the budget of each point, whose sizes are counted in parameters."""
    cost = {(entry.result.parameters, entry.result.windows): entry.budget for entry in finished}
    return np.array([cost[key] for key in zip(points.sizes, points.windows, strict=True)])
