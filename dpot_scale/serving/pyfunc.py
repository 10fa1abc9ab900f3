"""The MLflow model: MLflow loads it by the name of this module, without unpickling anything.

A request names `steps`, the frames to forecast; for weights that were trained on several datasets,
the `dataset` whose channels the history has; and the conditions that the model is told, if any.
"""

from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from dpot_scale.checkpoints.weights import read
from dpot_scale.errors import DataError, UserError
from dpot_scale.serving.forecaster import ServedModel
from dpot_scale.serving.frames import Array

# Of a request and its answer together: as JSON they take about 20 bytes each.
MOST_VALUES = 2**24


class RolloutModel:
    """Answers requests for rollouts, one at a time: each takes all cores.

    Args:
        model: Forecasts.
        most_values: How many numbers history and forecast may have together.
    """

    def __init__(self, model: ServedModel, most_values: int = MOST_VALUES) -> None:
        self._model = model
        self._most_values = most_values
        self._turn = Lock()

    def predict(self, model_input: Array, params: Mapping[str, Any] | None = None) -> Array:
        """Return the frames (B, steps, C, *space) that follow a history (B, T, C, *space).

        Raises:
            MlflowException: the history cannot be used, the forecast is too large or not finite; a
                server answers 400 with the sentence.
        """
        params = params or {}
        try:
            return self._rollout(model_input, params)
        except UserError as error:
            raise refusal(str(error)) from error

    def _rollout(self, history: Array, params: Mapping[str, Any]) -> Array:
        # Where a request does not say it, the signature gives 0, "" or NaN.
        steps, dataset = params.get("steps"), params.get("dataset")
        if not steps:
            raise DataError('say in params how many frames to forecast, as {"steps": 50}')
        model = self._model.for_dataset(dataset) if dataset else self._model
        said = {name: params.get(name, np.nan) for name in model.config.conditions}
        model = model.told(**{name: value for name, value in said.items() if not np.isnan(value)})
        self._require_small(history, steps)
        with self._turn:
            frames = model.rollout(history, steps)
        assert isinstance(frames, np.ndarray)
        if not np.isfinite(frames).all():
            step = int(np.isfinite(frames).all(axis=(0, *range(2, frames.ndim))).argmin())
            way_out = (
                f"ask for at most {step} steps" if step else "the model cannot use this history"
            )
            raise DataError(f"the forecast is not finite from step {step + 1} on: {way_out}")
        return frames

    def _require_small(self, history: Array, steps: int) -> None:
        known = max(1, history.shape[1]) if history.ndim > 1 else 1
        values = history.size + history.size // known * max(0, steps)
        if values > self._most_values:
            raise DataError(
                f"a history of shape {history.shape} and a forecast of {steps} steps have "
                f"{values:,} values together, and one request may have {self._most_values:,}: ask "
                "for fewer steps or windows at a time"
            )


def refusal(sentence: str) -> MlflowException:
    """Return the error that a server answers with a sentence alone.

    It would put the whole request before the message of the exception, but not before this field.
    """
    error = MlflowException(sentence, error_code=INVALID_PARAMETER_VALUE)
    error.json_kwargs = {**error.json_kwargs, "message": sentence}
    return error


def _load_pyfunc(data_path: str, model_config: Mapping[str, Any] | None = None) -> RolloutModel:
    """Return the model in an artifact; MLflow calls this.

    Args:
        data_path: The weights file.
        model_config: `dtype`, `device` and `most_values`, where they are not the defaults.
    """
    config = dict(model_config or {})
    most_values = int(config.pop("most_values", MOST_VALUES))
    name = config.pop("dtype", "float32")
    # A name that is none of a precision is refused as it is.
    dtype: Any = getattr(torch, name, name) if isinstance(name, str) else name
    device = config.pop("device", None)
    return RolloutModel(ServedModel(read(Path(data_path)), dtype, device), most_values)
