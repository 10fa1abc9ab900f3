"""The weights of a run as a model in MLflow: with its numbers, and a file that stays where it is.

It is what MLflow calls an external model. Weights are large, and nobody serves most of them: what
is registered gets a copy of its file, and all others say where theirs lies.
"""

import re
from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

from dpot_scale.tracking.parameters import MODEL
from dpot_scale.tracking.points import ONE_NUMBER
from dpot_scale.tracking.spool import STEP, complete_records, values_of

if TYPE_CHECKING:
    from mlflow.entities import Metric
    from mlflow.tracking import MlflowClient

EXTERNAL = "mlflow.model.isExternal"  # by which MLflow marks such a model
WEIGHTS_TAG = "weights"
NOT_IN_A_NAME = re.compile(r"[/:.%\"']")


def log_model(
    mlflow_client: "MlflowClient",
    run_id: str,
    *,
    weights: Path,
    spool: Path,
    params: Mapping[str, str],
) -> None:
    """Show the weights of a finished run as a model, unless the run has one.

    Args:
        mlflow_client: The client.
        run_id: The MLflow run that trained them.
        weights: Where they lie.
        spool: The metrics of the run. Those that are one number for a run are of its model, too.
        params: The parameters of the run. Those of its model are of this one.
    """
    from mlflow.entities import LoggedModelOutput

    run = mlflow_client.get_run(run_id)
    if run.outputs is not None and run.outputs.model_outputs:
        return
    model = mlflow_client.create_logged_model(
        run.info.experiment_id,
        name=NOT_IN_A_NAME.sub("_", run.info.run_name or "model"),
        source_run_id=run_id,
        tags={EXTERNAL: "true", WEIGHTS_TAG: str(weights)},
        params={key: text for key, text in params.items() if key.startswith(MODEL)},
    )
    mlflow_client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    mlflow_client.log_batch(run_id, metrics=_numbers(mlflow_client, run_id, spool, model.model_id))
    mlflow_client.finalize_logged_model(model.model_id, "READY")


def external_model(mlflow_client: "MlflowClient", run_id: str | None) -> str | None:
    """Return the id of the model that `log_model` made of a run and that has no file so far."""
    if run_id is None:
        return None
    outputs = mlflow_client.get_run(run_id).outputs
    for output in () if outputs is None else outputs.model_outputs:
        if EXTERNAL in mlflow_client.get_logged_model(output.model_id).tags:
            return str(output.model_id)
    return None


def _numbers(mlflow_client: "MlflowClient", run_id: str, spool: Path, model: str) -> list["Metric"]:
    """Return the metrics of step 0, each as MLflow has it: it keeps equal ones once.

    Each attempt records some of them again, and those of the first may never have been sent.
    """
    from mlflow.entities import Metric

    records = [record for record in complete_records(spool, 0)[0] if record[STEP] == ONE_NUMBER]
    found = []
    for key in dict.fromkeys(key for record in records for key in values_of(record)):
        history = mlflow_client.get_metric_history(run_id, key)
        points = [point for point in history if point.step == ONE_NUMBER]
        if points:
            newest = max(points, key=attrgetter("timestamp"))
            value, when = newest.value, newest.timestamp
            found.append(Metric(key, value, when, ONE_NUMBER, model_id=model))
    return found
