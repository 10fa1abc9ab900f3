"""Weights in MLflow's registry, brought into a local folder."""

import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dpot_scale.config.base import content_hash
from dpot_scale.config.load import says
from dpot_scale.config.places import (
    MLFLOW_URI,
    REGISTERED,
    SQLITE,
    WEIGHTS,
    Locate,
    absolute,
    absolute_uri,
)
from dpot_scale.errors import CheckpointError, DiskError
from dpot_scale.files import held
from dpot_scale.tracking.mlflow_client import client, patient, reason

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

SCHEME = "models:/"
VARIABLE = "MLFLOW_TRACKING_URI"
URI_KEY = "tracking.mlflow_uri"


class Registered(NamedTuple):
    """The weights of a version of a registered model."""

    weights: Path
    run_id: str | None  # the MLflow run that trained them


class _Version(NamedTuple):
    """A version of a registered model."""

    name: str
    number: str
    run_id: str | None
    made: int  # when; a number is given again after its model was deleted
    where: str  # its files
    registry: "MlflowClient"


def is_registered(source: str) -> bool:
    """Return whether a source names weights in the registry: `models:/NAME/VERSION`."""
    return source.startswith(SCHEME)


def registry_of(uri: str | None, overrides: Sequence[str] = ()) -> str | None:
    """Return where the registry is: what a command line says, else the environment, else a config.

    Args:
        uri: What the config says. None, no tracking, does not say where a registry is.
        overrides: Those of the command line, of a run or of a sweep.
    """
    is_said = any(says(overrides, key) for key in (URI_KEY, f"run.{URI_KEY}"))
    return uri if is_said and uri is not None else os.environ.get(VARIABLE, uri)


@contextmanager
def local(source: Path) -> Iterator[Path]:
    """Yield where weights lie: the path itself, or a folder that lasts as long as it is open.

    The registry is at MLFLOW_TRACKING_URI, or in `mlflow.db` here where that is not set.

    Args:
        source: A path, or `models:/NAME/VERSION`.

    Raises:
        CheckpointError: as `fetch`.
    """
    if not is_registered(str(source)):
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="dpot_scale_") as folder:
        yield fetch(str(source), registry_of(MLFLOW_URI), Path(folder)).weights


def locator(uri: str | None, overrides: Sequence[str], home: Path) -> Locate:
    """Return what finds the weights that a run starts from, and keeps those of the registry.

    Args:
        uri: What the config says of the registry, as written.
        overrides: Those of the command line.
        home: Where results begin.
    """
    found = registry_of(uri, overrides)
    return partial(_locate, found and absolute_uri(found, home), home)


def _locate(uri: str | None, home: Path, source: Path) -> Path:
    return keep(str(source), uri, home) if is_registered(str(source)) else absolute(source)


def keep(source: str, uri: str | None, home: Path) -> Path:
    """Return the weights of a version, which stay in a folder of their own for who reads them.

    They are fetched once; other processes wait for it.

    Args:
        source: As for `fetch`.
        uri: As for `fetch`.
        home: Where results begin.

    Raises:
        CheckpointError: as `fetch`.
        DiskError: the folder cannot be written.
    """
    version = _look_up(source, uri)
    known = {"uri": uri, "where": version.where, "made": version.made}
    folder = home / REGISTERED / f"{version.name}_v{version.number}_{content_hash(known)}"
    try:
        with held(folder / ".lock", wait=True):
            if not (folder / WEIGHTS).is_file():
                with tempfile.TemporaryDirectory(dir=folder) as place:
                    _fetch(version, source, Path(place)).replace(folder / WEIGHTS)
    except OSError as error:
        raise DiskError(f"cannot write to {folder}: {error.strerror}") from error
    return folder / WEIGHTS


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
    version = _look_up(source, uri)
    weights = _fetch(version, source, folder / version.name / version.number)
    return Registered(weights, version.run_id)


def _look_up(source: str, uri: str | None) -> _Version:
    named = re.fullmatch(r"models:/+([^/@]+)(?:/(\d+)|@([\w-]+))", source)
    if named is None:
        raise CheckpointError(
            f"{source} names no registered model: give models:/NAME/VERSION, the number of a "
            "version, or models:/NAME@ALIAS"
        )
    if uri is None:
        raise CheckpointError(
            f"{source} is in MLflow's registry, and nothing says where that is: set "
            f"{VARIABLE}, for example to sqlite:///mlflow.db, or add {URI_KEY}=URI"
        )
    database = Path(uri.removeprefix(SQLITE))
    if uri.startswith(SQLITE) and not database.is_file():  # a client would make it
        raise CheckpointError(f"{source} cannot be read: there is no database {database}")
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
    except Exception as error:  # MLflow's own and those of its store
        raise _unreadable(source, uri, error) from error
    made = int(version.creation_timestamp or 0)
    return _Version(name, number, version.run_id or None, made, where, registry)


def _fetch(version: _Version, source: str, folder: Path) -> Path:
    """Put the files of a version into a folder, and return its weights."""
    from mlflow.artifacts import download_artifacts

    uri = version.registry.tracking_uri
    try:
        with patient():
            found = download_artifacts(version.where, dst_path=str(folder), tracking_uri=uri)
    except Exception as error:  # as above
        raise _unreadable(source, uri, error) from error
    weights = sorted(Path(found).rglob(WEIGHTS))
    if not weights:
        raise CheckpointError(f"{source} holds no {WEIGHTS}, so it is no model of dpot_scale")
    return weights[0]


def _unreadable(source: str, uri: str, error: Exception) -> CheckpointError:
    return CheckpointError(f"{source} cannot be read from {uri}: {reason(error)}")
