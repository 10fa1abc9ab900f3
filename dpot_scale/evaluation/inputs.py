"""What an evaluation works on: weights, data, and the folder of its scores. No torch here."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dpot_scale.checkpoints.source import config_of, no_weights
from dpot_scale.config.data import DataConfig
from dpot_scale.config.load import load_run
from dpot_scale.config.run import RunConfig
from dpot_scale.config.sentences import nearest
from dpot_scale.data.store.dataset import Split, stored_names
from dpot_scale.errors import ConfigError
from dpot_scale.tracking.mlflow_client import read_run_id
from dpot_scale.tracking.registered import SCHEME, fetch

DATA_ROOT = "data.root"  # the key that says where datasets are

# What a config and weights must agree on: it decides what is forecast from what, and compared.
COMPARED = ("space_dims", "grid", "channels", "history", "horizon")

# What a config says of how a model sees data: of weights, their own training knows it.
HOW_SEEN = ("normalize", "shapes")

ScoredOn = Literal["stored", "published"]  # the grid on which forecasts are compared


@dataclass(frozen=True, kw_only=True)
class Source:
    """Weights to score."""

    path: Path  # a run, a checkpoint or a weights file
    name: str  # for tables and figures
    run_config: Path | None  # that of the run in which they lie
    mlflow_run: str | None  # that trained them
    mlflow_uri: str | None  # where that is; None: scores are added to no run
    registered: str | None = None  # `models:/NAME/VERSION`, if they were fetched from there


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What an evaluation is asked to report."""

    scored_on: ScoredOn = "stored"
    leads: tuple[int, ...] = ()  # lead times to show, from 1; empty: five of them
    moving: bool = False  # whether frames for a moving picture are kept
    known: int = 0  # frames before a forecast begins, where they are more than the history


@dataclass(frozen=True, kw_only=True)
class Look:
    """How scores are shown."""

    metric: str  # of tables
    figures: Literal["png", "pdf"]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is scored how."""

    config: RunConfig  # says which datasets, and how many trajectories of them
    config_name: str  # its file or preset
    split: Split
    wanted: Wanted
    most: int | None = None  # trajectories of a dataset by the published protocol; None: all of it
    generate: bool  # whether missing datasets of its suite are made
    agreed: tuple[str, ...]  # dimensions of the model in which the config must be right
    own: tuple[str, ...]  # of HOW_SEEN, what weights say of themselves; the config says the rest


def sources_at(paths: Sequence[Path]) -> list[Source]:
    """Return the weights at some places, each under a name of its own.

    Raises:
        CheckpointError: there is nothing at one of them.
    """
    configs = [config_of(path) for path in paths]
    names = [name_of_scores(path, config) for path, config in zip(paths, configs, strict=True)]
    for path in paths:
        if not path.exists():
            raise no_weights(path)
    return [
        Source(
            path=path,
            name=name if names.count(name) == 1 else str(path),
            run_config=config,
            mlflow_run=None if config is None else read_run_id(config.parent),
            mlflow_uri=None if config is None else load_run(str(config)).tracking.mlflow_uri,
        )
        for path, name, config in zip(paths, names, configs, strict=True)
    ]


def registered_source(place: str, uri: str | None, folder: Path) -> Source:
    """Return the weights that `models:/NAME/VERSION` names in the registry at an address.

    Args:
        place: That name.
        uri: The address.
        folder: Where the weights are put.

    Raises:
        CheckpointError: there are none.
    """
    found = fetch(place, uri, folder)
    return Source(
        path=found.weights,
        name=place.removeprefix(SCHEME).strip("/").replace("/", "_v"),
        run_config=None,
        mlflow_run=found.run_id,
        mlflow_uri=uri,
        registered=place,
    )


def chosen_data(data: DataConfig, root: Path | None, names: Sequence[str] | None) -> DataConfig:
    """Return which datasets are scored.

    Args:
        data: What the config says.
        root: The folder that the command line names, all of whose datasets count; None: none.
        names: The datasets that the command line names; None: all.

    Raises:
        ConfigError: there is none of these.
    """
    if root is not None:
        data = data.model_copy(update={"root": root, "suite": None})
    there = stored_names(data.root)
    known = there if root is not None else [*data.weights, *there]
    if root is not None and not there:
        raise ConfigError(
            f"{root} holds no dataset; `python -m dpot_scale.prepare import FILE --out {root}` "
            "makes one"
        )
    for name in names or ():
        if name not in known:
            raise ConfigError(
                f"there is no dataset {name!r} under {data.root}{nearest(name, known)}; there is: "
                f"{', '.join(dict.fromkeys(known)) or 'none'}"
            )
    if names is None and root is None:
        return data
    return data.model_copy(update={"weights": dict.fromkeys(names or there, 1.0)})


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
