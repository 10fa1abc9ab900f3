"""Which datasets weights are scored on where the command line does not say it. No torch here."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from dpot_scale.config.data import DataConfig
from dpot_scale.config.load import load_run
from dpot_scale.data.channels import TrainingData
from dpot_scale.data.store.dataset import INDEX, stored_names
from dpot_scale.data.store.index import read_index
from dpot_scale.errors import ConfigError
from dpot_scale.evaluation.inputs import Source

SAY_WHICH = "say with --data DIR, or --data DIR --datasets NAME..., what to score"


def likeliest_root(roots: Sequence[Path], names: Iterable[str]) -> Path:
    """Return the folder that holds the most of some datasets; of equal ones the first."""
    wanted = set(names)
    return max(roots, key=lambda root: len(wanted & set(stored_names(root))))


def data_of(source: Source) -> TrainingData | None:
    """Return what the weights of a source say of their data; None: nothing.

    Raises:
        CheckpointError: there are none, or their description is damaged.
    """
    from dpot_scale.checkpoints.weights import read_data  # torch loads for seconds

    return read_data(source.path)


def names_of_data(source: Source) -> tuple[str, ...]:
    """Return the datasets that the model of a source was trained on; none if nobody knows."""
    if source.run_config is not None:
        return tuple(load_run(str(source.run_config)).data.weights)
    data = data_of(source)
    return () if data is None else tuple(data.datasets)


def named_data(
    data: DataConfig, named: Mapping[str, TrainingData | None], roots: Sequence[Path]
) -> DataConfig:
    """Return the datasets that weights were trained on, where they are stored.

    Args:
        data: All else that is to be said of the data.
        named: What each source says of its data; None: nothing.
        roots: The folders in which the datasets are sought.

    Raises:
        ConfigError: the sources name no data or different ones, or what they name is not there,
            or is not what it was.
        DataError: the index of a dataset cannot be read.
    """
    known = {source: one for source, one in named.items() if one is not None}
    if not known:
        raise ConfigError(
            f"what {' and '.join(named)} learned from is not written in the weights: {SAY_WHICH}"
        )
    (first, trained), *others = known.items()
    for other, one in others:
        if one.datasets.keys() != trained.datasets.keys():
            shared = [
                name for name in trained.datasets if all(name in d.datasets for _, d in others)
            ]
            share = f"add --datasets {' '.join(shared)}, which all were trained on, or "
            raise ConfigError(
                f"{first} was trained on {', '.join(trained.datasets)}, and {other} on "
                f"{', '.join(one.datasets)}: {share * bool(shared)}{SAY_WHICH} all on"
            )
    root = likeliest_root(roots, trained.datasets)
    _require_stored(first, trained, root, roots)
    for source, one in known.items():
        _require_same(source, one, root)
    weights = dict.fromkeys(trained.datasets, 1.0)
    return data.model_copy(update={"root": root, "weights": weights, "suite": None})


def other_data(trained: Mapping[str, Sequence[str]], scored: Iterable[str]) -> str:
    """Return in words which sources were trained on other datasets than those that are scored.

    Args:
        trained: The datasets that each source was trained on; none where nobody knows.
        scored: Those that are scored.
    """
    scored = set(scored)
    return "; ".join(
        f"{name} was trained on {', '.join(names)}"
        for name, names in trained.items()
        if names and not scored <= set(names)
    )


def _require_stored(source: str, trained: TrainingData, root: Path, roots: Sequence[Path]) -> None:
    missing = [repr(name) for name in trained.datasets if name not in stored_names(root)]
    if missing:
        many = bool(missing[1:])
        places = " or ".join(map(str, dict.fromkeys(roots)))
        raise ConfigError(
            f"dataset{'s' * many} {', '.join(missing)}, which {source} was trained on, "
            f"{'are' if many else 'is'} not under {places}: say with --data DIR where "
            f"{'they are' if many else 'it is'}, or what else to score"
        )


def _require_same(source: str, trained: TrainingData, root: Path) -> None:
    """Make sure that datasets are not others of the same name."""
    for name, known in trained.datasets.items():
        info = read_index(root / name / INDEX).info
        for what, before, now in (
            ("channels", ", ".join(known.names), ", ".join(info.channels)),
            ("time from frame to frame", known.frame_interval, info.frame_interval),
        ):
            if before != now:
                raise ConfigError(
                    f"dataset {name} under {root} is not the one that {source} was trained on "
                    f"({what} then: {before}, now: {now}): say with --data DIR what to score"
                )
