"""Weights in MLflow's registry, brought into a local folder."""

import re
from pathlib import Path
from typing import NamedTuple

from dpot_scale.config.places import SQLITE, WEIGHTS
from dpot_scale.errors import CheckpointError
from dpot_scale.tracking.mlflow_client import client, reason

SCHEME = "models:/"


class Registered(NamedTuple):
    """The weights of a version of a registered model."""

    weights: Path
    run_id: str | None  # the MLflow run that trained them


def is_registered(source: str) -> bool:
    """Return whether a source names weights in the registry: `models:/NAME/VERSION`."""
    return source.startswith(SCHEME)


def fetch(source: str, uri: str | None, folder: Path) -> Registered:
    """Return the weights that `models:/NAME/VERSION` names.

    Args:
        source: The name and version. In the place of the version: an alias, `models:/NAME@ALIAS`.
        uri: The tracking server or sqlite database of MLflow.
        folder: Where they are put, each version in a folder of its own.

    Raises:
        CheckpointError: there is no such version, MLflow does not answer, or what is registered
            holds no weights of ours.
    """
    named = re.fullmatch(r"models:/+([^/@]+)(?:/(\w+)|@([\w-]+))", source)
    if named is None:
        raise CheckpointError(f"{source} names no registered model: give models:/NAME/VERSION")
    if uri is None:
        raise CheckpointError(
            f"{source} is in MLflow's registry, and nothing says where that is: add "
            "tracking.mlflow_uri=URI, for example sqlite:///mlflow.db"
        )
    database = Path(uri.removeprefix(SQLITE))
    if uri.startswith(SQLITE) and not database.is_file():  # a client would make it
        raise CheckpointError(f"{source} cannot be read: there is no database {database}")
    from mlflow.artifacts import download_artifacts

    name, number, alias = named.groups()
    try:
        registry = client(uri)
        if alias is not None:
            number = str(registry.get_model_version_by_alias(name, alias).version)
        version = registry.get_model_version(name, number)
        # Not the name of the version, which is sought in the registry of the environment.
        where = registry.get_model_version_download_uri(name, number)
        if where.startswith(SCHEME):
            where = registry.get_logged_model(version.model_id).artifact_location
        place = folder / name / number
        found = download_artifacts(where, dst_path=str(place), tracking_uri=registry.tracking_uri)
    except Exception as error:  # MLflow's own and those of its store
        raise CheckpointError(f"{source} cannot be read from {uri}: {reason(error)}") from error
    weights = sorted(Path(found).rglob(WEIGHTS))
    if not weights:
        raise CheckpointError(f"{source} holds no {WEIGHTS}, so it is no model of dpot_scale")
    return Registered(weights[0], version.run_id or None)
