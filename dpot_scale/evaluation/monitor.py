"""Scores of a model while it is trained, and at its end, as tracked metrics."""

from collections.abc import Mapping, Sequence

import numpy as np

from dpot_scale.config.data import DataConfig
from dpot_scale.config.model import ModelConfig
from dpot_scale.config.run import EvaluationConfig
from dpot_scale.data.store.dataset import DatasetStore, Split
from dpot_scale.engine.engine import Engine
from dpot_scale.engine.runtime import World
from dpot_scale.evaluation.evaluator import DatasetEvaluation, evaluate
from dpot_scale.evaluation.scores import ZERO_TARGETS, DatasetScore
from dpot_scale.evaluation.trajectories import forecast_trajectories
from dpot_scale.tracking.names import (
    MEAN,
    ONE_STEP_REL_L2,
    OVER_PERSISTENCE,
    REL_L2,
    final_key,
    score_key,
)


class Monitor:
    """Scores a model during its training and at its end, and remembers the newest scores.

    During the training the valid split is scored where a dataset has one, else the test split: what
    is chosen by a curve, such as a learning rate or when to stop, is not chosen by the test.

    `EvaluationConfig.watched` scores fewer trajectories during the training. Those curves stay
    apart from the scores at the end, which are of all.

    Raises:
        DataError: a dataset holds too few frames to forecast; found before any training.
    """

    def __init__(
        self,
        model: Engine,
        stores: Mapping[str, DatasetStore],
        config: EvaluationConfig,
        model_config: ModelConfig,
        data_config: DataConfig,
        world: World,
    ) -> None:
        self._validated = {name: store for name, store in stores.items() if store.shards["valid"]}
        for store in stores.values():
            forecast_trajectories(store, "test", config, model_config.history)
        for store in self._validated.values():
            forecast_trajectories(store, "valid", config, model_config.history)
        self._model = model
        self._stores = stores
        self._config = config
        self._watched = min(config.watched or config.trajectories, config.trajectories)
        self._rest = (model_config, data_config, world)
        self.valid: dict[str, DatasetEvaluation] = {}
        self.latest: dict[str, DatasetEvaluation] = {}  # on the test split

    def __call__(self) -> dict[str, float]:
        """Return the scores during the training, as metrics. Collective: every rank must call it.

        A mean is of all datasets that have the split; of the test only where it is of all datasets.
        """
        watched = self._config.model_copy(update={"trajectories": self._watched})
        valid = self._score(self._validated, "valid", watched)
        others = {name: s for name, s in self._stores.items() if name not in self._validated}
        tested = self._score(others, "test", watched)
        if self._watches_all:
            self.valid, self.latest = valid, tested
        metrics = eval_metrics(tested, with_mean=not self._validated)
        return metrics | eval_metrics(valid, "valid")

    def report(self) -> dict[str, float]:
        """Score what is missing at the end, and return what belongs to a curve. Collective."""
        missing = {name: s for name, s in self._stores.items() if name not in self.latest}
        unseen = {name: s for name, s in self._validated.items() if name not in self.valid}
        if not missing:
            return {}
        valid = self._score(unseen, "valid", self._config)
        tested = self._score(missing, "test", self._config)
        self.valid |= valid
        self.latest = {name: (self.latest | tested)[name] for name in self._stores}
        if not self._watches_all:  # of the other datasets the curves have another point
            own = {name: found for name, found in tested.items() if name in self._validated}
            return eval_metrics(own, with_mean=False)
        found = eval_metrics(valid, "valid") | eval_metrics(tested, with_mean=False)
        return found | {score_key(MEAN): _mean(self.latest)}

    @property
    def _watches_all(self) -> bool:
        """Whether the scores during the training are as good as those at the end."""
        return self._watched == self._config.trajectories

    def _score(
        self, stores: Mapping[str, DatasetStore], split: Split, config: EvaluationConfig
    ) -> dict[str, DatasetEvaluation]:
        if not stores:
            return {}
        self._model.eval()
        try:
            return evaluate(self._model, stores, config, *self._rest, split)
        finally:
            self._model.train()


def eval_metrics(
    evaluations: Mapping[str, DatasetEvaluation], split: Split = "test", *, with_mean: bool = True
) -> dict[str, float]:
    """Return the scores as tracked metrics, `eval/<dataset>/<score>`, and their mean.

    Those of the valid split are `valid/<dataset>/<score>`.
    """
    metrics = {
        score_key(name, key, split): float(value)
        for name, evaluation in evaluations.items()
        for key, value in evaluation.score
        if value or key != ZERO_TARGETS
    }
    if with_mean and evaluations:
        metrics[score_key(MEAN, split=split)] = _mean(evaluations)
    return metrics


def final_metrics(
    tested: Mapping[str, DatasetScore], valid: Mapping[str, DatasetScore]
) -> dict[str, float]:
    """Return the scores at the end of a run as tracked metrics: their means, then each dataset.

    Args:
        tested: Of each dataset, on the test split.
        valid: Of those that have a valid split.
    """
    metrics: dict[str, float] = {}
    for dataset, scores in ((None, list(tested.values())), *((k, [v]) for k, v in tested.items())):
        error = _mean_of(scores, REL_L2)
        metrics |= {
            final_key(REL_L2, dataset): error,
            final_key(ONE_STEP_REL_L2, dataset): _mean_of(scores, ONE_STEP_REL_L2),
        }
        persistence = _mean_of(scores, "persistence_rel_l2")
        if persistence:
            metrics[final_key(OVER_PERSISTENCE, dataset)] = error / persistence
    if valid:
        metrics[final_key(f"valid_{REL_L2}")] = _mean_of(list(valid.values()), REL_L2)
    return metrics


def _mean_of(scores: Sequence[DatasetScore], key: str) -> float:
    return float(np.mean([getattr(score, key) for score in scores]))


def _mean(evaluations: Mapping[str, DatasetEvaluation]) -> float:
    return float(np.mean([evaluation.score.rel_l2 for evaluation in evaluations.values()]))
