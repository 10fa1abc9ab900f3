"""The datasets of a run as MLflow shows them: name, digest, where they lie, what they hold."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dpot_scale.config.data import DataConfig
from dpot_scale.config.identity import Contents

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedOn:
    """A dataset that a run is trained on."""

    name: str
    digest: str
    uri: str  # of its folder
    profile: dict[str, object]  # what it holds, and how it was made


def trained_on(data: DataConfig, contents: Contents) -> list[TrainedOn]:
    """Return the datasets of a run.

    Args:
        data: With absolute paths.
        contents: What they hold.
    """
    found = []
    for name, digest in contents.datasets.items():
        profile: dict[str, object] = {"weight": data.weights[name]}
        if (stored := contents.stored.get(name)) is not None:
            most = data.most_trajectories(name) or stored.trajectories
            profile["grid"] = " x ".join(map(str, stored.grid))
            profile["train_trajectories"] = min(most, stored.trajectories)
        if data.suite is not None and name in data.suite.datasets:
            profile["recipe"] = data.suite.recipe(name)
        uri = (data.root / name).absolute().as_uri()
        found.append(TrainedOn(name=name, digest=digest, uri=uri, profile=profile))
    return found


def log_datasets(mlflow_client: "MlflowClient", run_id: str, datasets: Sequence[TrainedOn]) -> None:
    """Fill the column of datasets that the table of runs has."""
    from mlflow.entities import Dataset, DatasetInput, InputTag
    from mlflow.exceptions import MlflowException

    training = [InputTag("mlflow.data.context", "training")]
    inputs = [
        DatasetInput(
            Dataset(
                one.name,
                one.digest,
                source_type="local",  # `mlflow.data.get_source` finds the folder by it
                source=json.dumps({"uri": one.uri}),
                profile=json.dumps(one.profile, default=str),
            ),
            training,
        )
        for one in datasets
    ]
    try:
        mlflow_client.log_inputs(run_id, datasets=inputs)
    except MlflowException:  # the first time two runs of a dataset may get into each other's way
        mlflow_client.log_inputs(run_id, datasets=inputs)
