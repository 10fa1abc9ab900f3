"""Weights with what they were trained on, also where it was not yet written into them."""

from pathlib import Path

from dpot_scale.checkpoints.source import config_of
from dpot_scale.checkpoints.weights import read
from dpot_scale.checkpoints.weights_file import Weights
from dpot_scale.config.load import load_run
from dpot_scale.config.run import RunConfig
from dpot_scale.data.channels import TrainingData, channels_of
from dpot_scale.data.store.dataset import INDEX
from dpot_scale.data.store.index import read_index
from dpot_scale.errors import DataError
from dpot_scale.runs.contents import read_contents, recorded
from dpot_scale.tracking.registered import is_registered, local


def read_with_data(source: str | Path) -> Weights:
    """Return the weights that a path stands for, or `models:/NAME/VERSION` in MLflow's registry.

    The registry is at MLFLOW_TRACKING_URI, or in `mlflow.db` here where that is not set. What
    weights of earlier versions do not say of their data is read from the datasets of the run in
    whose folder they lie, if these are there.

    Raises:
        CheckpointError: there are no weights, they are damaged, or they are not of one model.
        DataError: the model was trained on normalised fields, and their statistics are gone.
    """
    source = Path(source)
    if is_registered(str(source)):
        with local(source) as found:
            return read(found)
    weights = read(source)
    config_file = config_of(source)
    if weights.data is not None or config_file is None:
        return weights
    config = load_run(str(config_file))
    data = _data_of(config, config_file.parent)
    if data is None and config.data.normalize == "dataset":
        raise DataError(
            f"{source} needs the statistics of the fields it was trained on, which it does not "
            f"hold: put its datasets ({', '.join(config.data.weights)}) back to "
            f"{config.data.root}, the data.root of {config_file}, unchanged"
        )
    return weights._replace(data=data)


def _data_of(config: RunConfig, directory: Path) -> TrainingData | None:
    """Return what a run was trained on; None unless all its datasets are there, and unchanged."""
    before, now = recorded(directory), read_contents(config, directory).datasets
    found = {}
    for name in config.data.weights:
        path = config.data.root / name / INDEX
        if not path.is_file() or before.get(f"dataset {name}", now[name]) != now[name]:
            return None
        index = read_index(path)
        found[name] = channels_of(index.info, index.statistics, config.data)
    return TrainingData(datasets=found, shapes=config.data.shapes)
