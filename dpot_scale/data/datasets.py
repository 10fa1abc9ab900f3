"""Opens the datasets of a config, and checks before any training that they suit the model."""

import resource
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from dpot_scale.config.data import DataConfig
from dpot_scale.config.model import ModelConfig
from dpot_scale.data.generation.suite import generate_suite, missing_datasets
from dpot_scale.data.info import DatasetInfo
from dpot_scale.data.store.completeness import check_complete
from dpot_scale.data.store.dataset import SPLITS, DatasetStore, Split, open_store
from dpot_scale.errors import ConfigError, DataError


def open_datasets(
    config: DataConfig,
    model: ModelConfig,
    *,
    progress: Callable[[str], None],
    generate: bool = True,
) -> dict[str, DatasetStore]:
    """Open the datasets of a mixture.

    Args:
        config: The mixture.
        model: The model that will be trained on them.
        progress: Takes one line of text for the user at a time.
        generate: Whether missing datasets of its suite are made.

    Raises:
        ConfigError: a dataset has more channels than the model, or other space axes.
        DataError: a dataset is missing, or its index is damaged.
    """
    _allow_open_files()
    if config.suite is not None:
        if generate:
            generate_suite(config.suite, config.root, progress=progress)
        else:
            # Those that are there must have been made by its recipes.
            missing_datasets(config.suite, config.root)
    stores = {name: open_store(config.root, name) for name in config.weights}
    for store in stores.values():
        _check_fits(store.info, model)
    return stores


def _allow_open_files() -> None:
    """Let this process open as many files as the system lets it have, where it has fewer so far.

    Each thread keeps hundreds of each dataset open, and 1024 are usual.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # a system that has no such number
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def require_complete(stores: Mapping[str, DatasetStore], splits: Sequence[Split] = SPLITS) -> None:
    """Make sure that the files of datasets are there, as far as that is cheap to see.

    Raises:
        DataError: one is missing or too short.
    """
    for store in stores.values():
        check_complete(store, splits)


def require_training(stores: Mapping[str, DatasetStore]) -> None:
    """Make sure that there is something to train on in each dataset.

    Raises:
        DataError: a dataset is for evaluation alone.
    """
    for name, store in stores.items():
        if store.is_for_evaluation:
            raise DataError(
                f"dataset {name} is for evaluation alone, it has no training trajectories: leave "
                f"it out of data.weights and score a model on it with `python -m "
                f"dpot_scale.evaluate`, or import its training files together with the others"
            )


def _check_fits(info: DatasetInfo, model: ModelConfig) -> None:
    if len(info.channels) > model.channels:
        raise ConfigError(
            f"dataset {info.name} has {len(info.channels)} channels; "
            f"model.channels={model.channels} is too few"
        )
    if len(info.grid) != model.space_dims:
        raise ConfigError(
            f"dataset {info.name} has {len(info.grid)} space axes; "
            f"the model has model.space_dims={model.space_dims}"
        )
