"""Where files of MLflow runs lie if their database is a local file: in a folder beside it.

MLflow remembers the absolute place of every file, so results that are moved would lose theirs. We
give it the address that its server gives, `mlflow-artifacts:/...`, which names no place.
`mlflow ui` seeks these in the folder `mlartifacts`. Without a server MLflow cannot follow them:
`repository`, an entry point of this package, does.
"""

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlparse

from dpot_scale.config.places import SQLITE

if TYPE_CHECKING:
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

SCHEME = "mlflow-artifacts"
ROOT = f"{SCHEME}:/"
FOLDER = "mlartifacts"  # where `mlflow ui` looks, if started beside the database


def beside(database: Path) -> Path:
    """Return the folder of the files that runs in a database have."""
    return database.parent / FOLDER


def repository(
    artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None
) -> "ArtifactRepository":
    """Return what reads and writes files at `mlflow-artifacts:/...`, as MLflow asks for it."""
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
    from mlflow.store.artifact.mlflow_artifacts_repo import MlflowArtifactsRepository
    from mlflow.tracking import get_tracking_uri

    tracking_uri = tracking_uri or get_tracking_uri()
    if not tracking_uri.startswith(SQLITE):
        return MlflowArtifactsRepository(artifact_uri, tracking_uri, registry_uri)
    folder = beside(Path(tracking_uri.removeprefix(SQLITE)).absolute())
    place = folder / unquote(urlparse(artifact_uri).path).lstrip("/")
    return LocalArtifactRepository(place.as_uri(), tracking_uri, registry_uri)


def follow_without_server() -> None:
    """Let MLflow use `repository` in this process, also where the package is not installed."""
    from mlflow.store.artifact.artifact_repository_registry import _artifact_repository_registry

    _artifact_repository_registry.register(SCHEME, repository)
