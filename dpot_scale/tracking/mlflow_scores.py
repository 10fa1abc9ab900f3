"""Scores of an evaluation in the MLflow run that trained the weights."""

import math
from collections.abc import Mapping
from pathlib import Path

from dpot_scale.config.places import SQLITE
from dpot_scale.tracking.mlflow_client import (
    attach,
    client,
    never_fatal,
    warn_if_deleted,
    warn_once,
)

FOLDER = "evaluation"  # of the files in the MLflow run


def log_scores(uri: str, run_id: str, scores: Mapping[str, float], files: list[Path]) -> bool:
    """Add scores and their files to an MLflow run that has ended; return whether it was done.

    MLflow may be absent or broken: that costs a warning.

    Args:
        uri: The tracking server or sqlite database of MLflow.
        run_id: The run.
        scores: Their keys and values; those that are not finite are left out.
        files: They go to the folder `evaluation` there.
    """
    database = Path(uri.removeprefix(SQLITE))
    if uri.startswith(SQLITE) and not database.is_file():  # a client would make it
        warn_once(
            f"the scores are not in the MLflow run {run_id}, as there is no database {database}: "
            "tracking.mlflow_uri=URI says where it is, and null that there is none"
        )
        return False
    with never_fatal(f"the scores are not in the MLflow run {run_id}"):
        mlflow_client = client(uri)
        if warn_if_deleted(mlflow_client, run_id):
            return False
        for key, value in scores.items():
            if math.isfinite(value):
                mlflow_client.log_metric(run_id, key, value)
        attach(mlflow_client, run_id, dict.fromkeys(files, FOLDER))
        return True
    return False
