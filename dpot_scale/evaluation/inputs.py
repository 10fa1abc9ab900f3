"""Checks the data of an evaluation and names the folder of its scores, without torch."""

from pathlib import Path

from dpot_scale.config.data import DataConfig
from dpot_scale.data.store.dataset import stored_names
from dpot_scale.errors import ConfigError

DATA_ROOT = "data.root"  # the key that says where datasets are


def require_data(data: DataConfig, source: str) -> None:
    """Make sure that the datasets are where a config file says.

    Args:
        data: The mixture.
        source: The config file, for the sentence.

    Raises:
        ConfigError: a dataset is missing.
    """
    there = stored_names(data.root)
    missing = [repr(name) for name in data.weights if name not in there]
    if missing:
        names = ", ".join(missing)
        gone = f"datasets {names} are" if missing[1:] else f"dataset {names} is"
        suite = f" (what DIR lacks of suite {data.suite.name} is made there)" if data.suite else ""
        raise ConfigError(
            f"{gone} missing under {data.root}, the {DATA_ROOT} of {source}; say with "
            f"{DATA_ROOT}=DIR where the datasets are{suite}"
        )


def name_of_scores(source: Path, run_config: Path | None) -> str:
    """Return the name of the folder for the scores of some weights.

    Args:
        source: The weights: a run, a checkpoint or a file.
        run_config: The config of the run that they lie in, if they do. Then the folder is named
            after the run, as the exports of all runs have the same file name.
    """
    if run_config is None:
        return source.absolute().stem
    run = run_config.resolve().parent
    of_checkpoint = source.is_dir() and source.resolve() != run
    return f"{run.name}_{source.resolve().name}" if of_checkpoint else run.name
