"""Puts weights into MLflow's registry, as a model that `mlflow models serve` serves."""

import hashlib
import json
import shlex
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dpot_scale.checkpoints.weights_file import Weights, save_model
from dpot_scale.config.data import SPACE_AXES
from dpot_scale.config.model import ModelConfig
from dpot_scale.config.places import WEIGHTS, absolute_uri
from dpot_scale.errors import RecordError
from dpot_scale.serving.frames import Array
from dpot_scale.serving.pyfunc import MOST_VALUES
from dpot_scale.serving.source import read_with_data
from dpot_scale.tracking.logged_model import external_model
from dpot_scale.tracking.mlflow_client import (
    client,
    never_fatal,
    patient,
    quiet,
    read_run_id,
    reason,
)

if TYPE_CHECKING:
    from mlflow.models import ModelSignature
    from mlflow.tracking import MlflowClient

LOADER = "dpot_scale.serving.pyfunc"
DIGEST = "dpot_scale.sha256"  # the tag of a version: of its weights
ANY = -1  # in a shape
EXAMPLE_POINTS = 32  # at most, per axis


def register(source: Path, name: str, uri: str, run_id: str | None = None) -> str:
    """Put weights into the registry and return the number of their version.

    The same weights are put there once: if the newest version has them, it is that one.

    Args:
        source: The folder of a run, a checkpoint in it, a safetensors export, or a released `.pth`.
        name: The name of the registered model, which is made if there is none.
        uri: The tracking server or sqlite database of MLflow.
        run_id: The MLflow run that trained the weights, if there is one.

    Raises:
        CheckpointError: there are no weights, they are damaged, or they are not of one model.
        RecordError: MLflow does not answer or refuses the name.
    """
    weights = read_with_data(source)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / WEIGHTS
        save_model(path, *weights)
        try:
            return _version_of(path, weights, name, client(uri), run_id)
        except Exception as error:  # MLflow's own and those of its store
            raise RecordError(f"{source} was not registered at {uri}: {reason(error)}") from error


def offer(directory: Path, name: str, uri: str, say: Callable[[str], None]) -> None:
    """Register the weights of a run, and say how they are served.

    MLflow may be absent or broken: that costs a warning.

    Args:
        directory: The folder of a finished run.
        name: The name of the registered model.
        uri: The tracking server or sqlite database of MLflow.
        say: Takes one line of text for the user at a time.
    """
    with never_fatal(f"the weights of {directory} are not in MLflow's registry"):
        version = register(directory, name, uri, read_run_id(directory))
        say(how_to_serve(name, version, uri))


def how_to_serve(name: str, version: str, uri: str) -> str:
    """Return a line for a terminal that says how a version is served."""
    variable = f"MLFLOW_TRACKING_URI={shlex.quote(absolute_uri(uri, Path.cwd()))}"
    return (
        f"registered as models:/{name}/{version}; to serve it: {variable} mlflow models serve "
        f"--model-uri models:/{name}/{version} --env-manager local"
    )


def _version_of(
    path: Path, weights: Weights, name: str, mlflow_client: "MlflowClient", run_id: str | None
) -> str:
    digest = _digest(weights)
    versions = mlflow_client.search_model_versions(
        f"name='{name}'", order_by=["version_number DESC"], max_results=1
    )
    if versions and versions[0].tags.get(DIGEST) == digest:
        return str(versions[0].version)
    version = _log(path, weights, name, mlflow_client, run_id)
    mlflow_client.set_model_version_tag(name, version, DIGEST, digest)
    return version


def _log(
    path: Path, weights: Weights, name: str, mlflow_client: "MlflowClient", run_id: str | None
) -> str:
    """Save the MLflow model, with the run if there is one, and make a version of it."""
    import mlflow
    from mlflow.models import Model

    model_id = external_model(mlflow_client, run_id)
    # Of a process that has set none: setting the default would set the environment, too.
    before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
    mlflow.set_tracking_uri(mlflow_client.tracking_uri)
    try:
        with quiet(), patient():
            info = Model.log(
                artifact_path=None,
                name="model",
                flavor=mlflow.pyfunc,
                registered_model_name=name,
                run_id=run_id if model_id is None else None,  # that one knows its run
                model_id=model_id,
                loader_module=LOADER,
                data_path=str(path),
                signature=signature_of(weights.model),
                input_example=(
                    example_of(weights),
                    {"steps": 1, "dataset": _first_dataset(weights)},
                ),
                pip_requirements=[_requirement()],
                metadata=_described(weights),
                model_config={"dtype": "float32", "device": None, "most_values": MOST_VALUES},
            )
    finally:
        mlflow.set_tracking_uri(before)
    return str(info.registered_model_version)


def signature_of(model: ModelConfig) -> "ModelSignature":
    """Return what a request and its answer hold: frames (B, T, C, *space).

    No length is said: what the model refuses is one sentence, what MLflow refuses pages of numbers.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import DataType, ParamSchema, ParamSpec, Schema, TensorSpec

    frames = Schema([TensorSpec(np.dtype(np.float32), (ANY,) * (3 + model.space_dims))])
    steps = ParamSpec("steps", DataType.long, default=0)  # which is refused: a request must say it
    dataset = ParamSpec("dataset", DataType.string, default="")
    conditions = [ParamSpec(name, DataType.double, default=np.nan) for name in model.conditions]
    return ModelSignature(frames, frames, ParamSchema([steps, dataset, *conditions]))


def example_of(weights: Weights) -> Array:
    """Return a history (1, T, C, *space) of waves."""
    model, data = weights.model, weights.data
    channels = len(data.datasets[_first_dataset(weights)].names) if data else model.channels
    space = tuple(min(points, EXAMPLE_POINTS) for points in model.space)
    shape = (1, model.history, channels, *space)
    phase = sum(np.indices(shape, np.float32)[3:]) * (2 * np.pi / space[0])
    waves: Array = np.sin(phase + np.indices(shape)[1]).astype(np.float32)
    return waves


def _digest(weights: Weights) -> str:
    """Return the SHA-256 of weights and of what is known of them, in whatever file they lie."""
    # Without what nobody knows: the digest of older weights stays what it was.
    data = weights.data and weights.data.model_dump(mode="json", exclude_none=True)
    described = json.dumps([weights.model.dimensions(), data], sort_keys=True)
    digest = hashlib.sha256(described.encode())
    for name, tensor in sorted(weights.state.items()):
        digest.update(f"{name} {tensor.dtype}".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _first_dataset(weights: Weights) -> str:
    return next(iter(weights.data.datasets)) if weights.data else ""


def _described(weights: Weights) -> dict[str, Any]:
    """Return what people look for in the registry: the history, the channels, the model."""
    model, datasets = weights.model, weights.data.datasets if weights.data else {}
    axes = ", ".join(SPACE_AXES[: model.space_dims])
    return {
        "input": f"history (B, T, C, {axes}) of T = {model.history} frames",
        "output": f"the frames that follow (B, steps, C, {axes})",
        "channels": {name: list(known.names) for name, known in datasets.items()},
        "frame_interval": {name: known.frame_interval for name, known in datasets.items()},
        "model": model.dimensions(),
    }


def _requirement() -> str:
    """Return what an environment for the model needs; a checkout has no version."""
    try:
        return f"dpot_scale=={version('dpot_scale')}"
    except PackageNotFoundError:
        return "dpot_scale"
