"""Opens the datasets of a config, and checks before any training that they suit the model."""

import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from dpot_scale.config.data import DataConfig
from dpot_scale.config.model import ModelConfig
from dpot_scale.data.generation.suite import generate_suite, missing_datasets
from dpot_scale.data.info import DatasetInfo
from dpot_scale.data.store.completeness import check_complete
from dpot_scale.data.store.dataset import SPLITS, DatasetStore, Split, open_store
from dpot_scale.errors import ConfigError, DataError

# Two threads read, and each keeps up to 256 files of a dataset open: enough for 128 datasets. No
# more is asked for: some containers allow 1e9, and a child process that closes all that it may have
# inherited then takes minutes.
MOST_FILES = 65_536


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


def allowed_files() -> int:
    """Return how many files this process may have open, once it has asked for what data need."""
    numbers = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, hard = (sys.maxsize if n == resource.RLIM_INFINITY else n for n in numbers)
    return max(soft, min(hard, MOST_FILES))


def _allow_open_files() -> None:
    """Let this process open as many files as data need, where it has fewer so far.

    Hundreds of each dataset stay open, and 1024 are usual.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < allowed_files():
        with suppress(ValueError, OSError):  # a system that has no such number
            resource.setrlimit(resource.RLIMIT_NOFILE, (allowed_files(), hard))


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
