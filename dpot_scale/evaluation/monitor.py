"""Scores of a model while it is trained, and at its end, as tracked metrics."""

from collections.abc import Mapping

import numpy as np

from dpot_scale.config.data import DataConfig
from dpot_scale.config.model import ModelConfig
from dpot_scale.config.run import EvaluationConfig
from dpot_scale.data.store.dataset import DatasetStore, Split
from dpot_scale.engine.engine import Engine
from dpot_scale.engine.runtime import World
from dpot_scale.evaluation.evaluator import DatasetEvaluation, evaluate
from dpot_scale.evaluation.scores import ZERO_TARGETS
from dpot_scale.evaluation.trajectories import forecast_trajectories
from dpot_scale.tracking.names import MEAN, score_key


class Monitor:
    """Scores a model during its training and at its end, and remembers the newest scores.

    During the training the valid split is scored where a dataset has one, else the test split: what
    is chosen by a curve, such as a learning rate or when to stop, is not chosen by the test.

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
        self._rest = (config, model_config, data_config, world)
        self.valid: dict[str, DatasetEvaluation] = {}
        self.latest: dict[str, DatasetEvaluation] = {}  # on the test split

    def __call__(self) -> dict[str, float]:
        """Return the scores during the training, as metrics. Collective: every rank must call it.

        A mean is of all datasets that have the split; of the test only where it is of all datasets.
        """
        self.valid = self._score(self._validated, "valid")
        others = {name: s for name, s in self._stores.items() if name not in self._validated}
        self.latest = self._score(others, "test")
        tested = eval_metrics(self.latest, with_mean=not self._validated)
        return tested | eval_metrics(self.valid, "valid")

    def report(self) -> dict[str, float]:
        """Score what is missing at the end, and return that as metrics. Collective."""
        missing = {name: s for name, s in self._stores.items() if name not in self.latest}
        unseen = {name: s for name, s in self._validated.items() if name not in self.valid}
        if not missing:
            return {}
        valid, tested = self._score(unseen, "valid"), self._score(missing, "test")
        self.valid |= valid
        self.latest = {name: (self.latest | tested)[name] for name in self._stores}
        found = eval_metrics(valid, "valid") | eval_metrics(tested, with_mean=False)
        return found | {score_key(MEAN): _mean(self.latest)}

    def _score(
        self, stores: Mapping[str, DatasetStore], split: Split
    ) -> dict[str, DatasetEvaluation]:
        if not stores:
            return {}
        self._model.eval()
        found = evaluate(self._model, stores, *self._rest, split)
        self._model.train()
        return found


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


def _mean(evaluations: Mapping[str, DatasetEvaluation]) -> float:
    return float(np.mean([evaluation.score.rel_l2 for evaluation in evaluations.values()]))
