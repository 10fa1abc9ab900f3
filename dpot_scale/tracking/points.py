"""Sends the points of a spool that an MLflow run does not have yet.

What was sent and not answered is asked for before it is sent again. If it arrives only then, it is
the same point with the same time, which MLflow keeps once.
"""

import itertools
import logging
import math
from collections.abc import Iterator, Sequence
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

from dpot_scale.tracking.mlflow_client import is_refusal, reason, warn_if_deleted, warn_once
from dpot_scale.tracking.names import LOSS
from dpot_scale.tracking.patience import Beat
from dpot_scale.tracking.spool import STEP, TIME, complete_records, values_of

if TYPE_CHECKING:
    from mlflow.entities import Metric
    from mlflow.tracking import MlflowClient

LARGEST_BATCH = 1000  # metrics in one request, MLflow's limit
ANEW_TAG = "steps_made_anew"
ONE_NUMBER = 0  # the step of what is one number for a run
SAME = 1e-9  # by which a value may change in a database, relatively

log = logging.getLogger(__name__)


class Points:
    """The points of a spool, for one MLflow run.

    Args:
        mlflow_client: Where the run is.
        run_id: The run.
        spool: The file of the points.
    """

    def __init__(self, mlflow_client: "MlflowClient", run_id: str, spool: Path) -> None:
        self.run_id = run_id
        self._client = mlflow_client
        self._spool = spool
        self._offset = 0
        self._there: dict[str, dict[int, float]] = {}  # what MLflow has: key -> step -> value
        self._refused: set[str] = set()
        self._anew: set[int] = set()

    def send(self, beat: Beat) -> int:
        """Send the points since the last call, and those before it that MLflow lacks.

        What is one number for a run is sent again where MLflow has another one.

        Args:
            beat: Called at each answer.

        Returns:
            How many were sent.
        """
        try:
            records, offset = complete_records(self._spool, self._offset)
            last = _last_of_each_step(records)
            metrics = [metric for metric in last if self._is_missing(metric, beat)]
            for batch in _batches(metrics):
                self._log(batch)
                beat()
            self._mark(last)
        except Exception:
            self._there.clear()  # the offset has not moved
            raise
        self._offset = offset
        return len(metrics)

    def _is_missing(self, metric: "Metric", beat: Beat) -> bool:
        if metric.key in self._refused:
            return False
        if metric.key not in self._there:
            history = self._client.get_metric_history(self.run_id, metric.key)
            history = sorted(history, key=attrgetter("timestamp"))
            self._there[metric.key] = {point.step: point.value for point in history}
            beat()
        there = self._there[metric.key]
        if metric.step == ONE_NUMBER and metric.step in there:
            # Of a step that has two, MLflow shows the later one.
            return not math.isclose(there[metric.step], metric.value, rel_tol=SAME)
        return metric.step not in there

    def _log(self, batch: "Sequence[Metric]") -> None:
        """Send a batch; a metric that MLflow refuses costs only itself."""
        try:
            self._client.log_batch(self.run_id, metrics=batch)
        except Exception as error:
            if not is_refusal(error) or warn_if_deleted(self._client, self.run_id):
                raise
            keys = {metric.key for metric in batch}
            if len(keys) == 1:
                self._refused |= keys
                warn_once(f"MLflow refuses the metric {keys.pop()}: {reason(error)}")
                return
            by_key = sorted(batch, key=attrgetter("key"))
            for _, of_key in itertools.groupby(by_key, key=attrgetter("key")):
                self._log(list(of_key))
            return
        for metric in batch:
            self._there[metric.key][metric.step] = metric.value

    def _mark(self, last: "Sequence[Metric]") -> None:
        """Say in a tag which steps MLflow shows as they were before a run went back.

        MLflow removes no points. A resumed run makes the same losses again, but not the same speed.
        """
        there = self._there.get(LOSS, {})
        steps = {
            metric.step
            for metric in last
            if metric.key == LOSS
            and not math.isclose(there.get(metric.step, metric.value), metric.value, rel_tol=SAME)
        }
        if not steps <= self._anew:
            self._anew |= steps
            text = f"{min(self._anew)} to {max(self._anew)}, see {self._spool.name}"
            self._client.set_tag(self.run_id, ANEW_TAG, text)


def _last_of_each_step(records: Sequence[dict[str, float]]) -> "list[Metric]":
    """Return the points of records; of a step recorded twice, the last. MLflow shows no other.

    One that was the same before keeps its time, and a step that was made again with the same loss
    keeps all that was recorded with it first, also how long it took: what a killed attempt had
    sent, and arrives only now, is the same point then. MLflow would show infinity as 1.8e308.
    """
    from mlflow.entities import Metric

    unique: dict[tuple[str, float], Metric] = {}
    for record in records:
        when, step = int(record[TIME] * 1000), int(record[STEP])
        loss = unique.get((LOSS, step))
        is_repeated = loss is not None and loss.value == record.get(LOSS)
        for key, value in values_of(record).items():
            before = unique.get((key, step))
            is_known = before is not None and (is_repeated or before.value == value)
            if math.isfinite(value) and not is_known:
                unique[key, step] = Metric(key, value, when, step)
    return list(unique.values())


def _batches(metrics: "Sequence[Metric]") -> "Iterator[Sequence[Metric]]":
    for first in range(0, len(metrics), LARGEST_BATCH):
        yield metrics[first : first + LARGEST_BATCH]
