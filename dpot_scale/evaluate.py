"""Score weights on held-out trajectories: `python -m dpot_scale.evaluate SOURCE...`.

Alone, or on several ranks as `torchrun dpot_scale/evaluate.py`, which share the trajectories. Each
holds the whole model.
"""

import argparse
import sys
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from dpot_scale.checkpoints.source import ANY_SOURCE, SOURCE, config_of
from dpot_scale.config.arguments import Entry, add_config_arguments
from dpot_scale.config.data import DataConfig
from dpot_scale.config.load import DEFAULT, dump, is_preset, load_run, says
from dpot_scale.config.places import in_home, resolve_run_paths, results_home
from dpot_scale.config.run import RunConfig
from dpot_scale.config.sentences import nearest
from dpot_scale.errors import ConfigError, exits_cleanly, short_memory_named, speaks_for_all
from dpot_scale.evaluation.inputs import (
    COMPARED,
    DATA_ROOT,
    HOW_SEEN,
    Look,
    Request,
    Source,
    Wanted,
    chosen_data,
    registered_source,
    require_data,
    sources_at,
)
from dpot_scale.evaluation.own_data import (
    data_of,
    likeliest_root,
    named_data,
    names_of_data,
    other_data,
)
from dpot_scale.evaluation.scores import METRICS, REL_L2
from dpot_scale.terminal import print_line, under_way
from dpot_scale.tracking.registered import URI_KEY, is_registered, registry_of

DEFAULT_OUT = Path("evaluation")
DATA = ("data=", "data.weights", "data.suite=")  # overrides that say which datasets
PAPER = "paper"  # the metric that stands for the published protocol
# What of the protocol a command line may say, and what not.
TRAJECTORIES, FRAMES = "evaluation.trajectories", "evaluation.rollout_frames"


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Score the weights that the command line names."""
    metrics = "\n".join(f"  {name:<14} {text}" for name, text in METRICS.items())
    entry = Entry(
        "evaluate",
        "Score weights on the held-out trajectories of stored datasets: errors of the rollout and "
        "of single steps, of several models beside each other and of repeating the last frame.\n\n"
        f"Metrics:\n{metrics}\n  {PAPER:<14} {REL_L2} by the published protocol, beside what was "
        "published",
        _evaluate,
    )
    entry.add_argument("source", nargs="+", help=ANY_SOURCE)
    add_config_arguments(
        entry,
        "run",
        example=f"{DATA_ROOT}=DIR",
        sought_first="the config.yaml of the first source that is of a run",
    )
    entry.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="score on the datasets in this folder (default: those of the config, and without "
        "--config and a run those that the weights were trained on)",
    )
    entry.add_argument(
        "--datasets", nargs="+", metavar="NAME", help="the datasets to score on (default: all)"
    )
    entry.add_argument("--split", choices=["test", "valid"], default="test")
    entry.add_argument(
        "--metric", default=REL_L2, metavar="NAME", help=f"that of the table (default: {REL_L2})"
    )
    entry.add_argument(
        "--leads", nargs="+", metavar="N", help="lead times to show in figures (default: five)"
    )
    entry.add_argument("--figures", choices=["png", "pdf"], default="png", help="their format")
    entry.add_argument(
        "--animate",
        action="store_true",
        help="write a moving rollout of each dataset: a GIF, and an MP4 where ffmpeg is found",
    )
    entry.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help=f"where scores and figures go (default: {DEFAULT_OUT}/NAME, of the run that the "
        "weights lie in and the step of a checkpoint, else of their file)",
    )
    entry.add_argument("--local_rank", help=argparse.SUPPRESS)  # the deepspeed launcher adds it
    return entry.run(argv)


def _evaluate(options: argparse.Namespace) -> int:
    places, leads = _sort_words(options)
    _require_metric(options)
    configs = (config_of(Path(place)) for place in places if not is_registered(place))
    of_run = next(filter(None, configs), None)
    # Without either, the default says how to score, and the weights say on what.
    has_config = options.config is not None or of_run is not None
    config_name = options.config or str(of_run or DEFAULT)
    config = load_run(config_name, options.overrides)
    if options.print_config:
        print_line(dump(config))
        return 0
    config = resolve_run_paths(config, results_home())
    with TemporaryDirectory(prefix="dpot_scale_") as fetched:
        sources = _sources(places, config, options.overrides, Path(fetched))
        with short_memory_named("the evaluation", "set evaluation.batch to a smaller number"):
            _score(sources, config, config_name if has_config else None, options, leads)
    return 0


def _score(
    sources: Sequence[Source],
    config: RunConfig,
    config_name: str | None,
    options: argparse.Namespace,
    leads: tuple[int, ...],
) -> None:
    """Score weights as the options and a config, if there is one beside the default, say."""
    data, generate = _data(sources, config, config_name, options)
    # Of several models, and of data that the command line names, the weights say the model.
    has_model = config_name is not None and len(sources) == 1 and options.data is None
    is_published = options.metric == PAPER
    request = Request(
        config=config.model_copy(update={"data": data}),
        config_name=config_name or DEFAULT,
        split=options.split,
        wanted=Wanted(
            scored_on="published" if is_published else "stored",
            leads=leads,
            moving=options.animate,
        ),
        most=config.evaluation.trajectories if says(options.overrides, TRAJECTORIES) else None,
        generate=generate,
        agreed=tuple(
            name for name in COMPARED if has_model or says(options.overrides, f"model.{name}")
        ),
        own=tuple(
            name
            for name in HOW_SEEN
            if options.config is None and not says(options.overrides, f"data.{name}")
        ),
    )
    names = "_vs_".join(source.name.replace("/", "-") for source in sources)
    out = in_home(options.out or DEFAULT_OUT / names)
    with under_way("scoring", sys.stderr):
        # Torch loads for seconds: after what can be found without it.
        from dpot_scale.evaluation.report import report

        metric = REL_L2 if is_published else options.metric
        report(sources, request, Look(metric=metric, figures=options.figures), out)


def _data(
    sources: Sequence[Source],
    config: RunConfig,
    config_name: str | None,
    options: argparse.Namespace,
) -> tuple[DataConfig, bool]:
    """Return which datasets are scored, and whether missing ones are made."""
    root, says_data = options.data and in_home(options.data), _says(options, *DATA)
    if config_name is not None or root is not None or says_data:
        given = config.data
        if config_name is None and not _says(options, "data=", "data.suite="):
            given = given.model_copy(update={"suite": None})  # that of the default
        data = chosen_data(given, root, options.datasets)
        # What was read from a file may name a place of another machine or time: nothing is made
        # there.
        is_place = is_preset(config_name or DEFAULT) or _says(options, f"{DATA_ROOT}=")
        generate = root is None and is_place
        if not generate:
            require_data(data, config_name or DEFAULT)
        if config_name and not (options.config or root or options.datasets or says_data):
            _say_others(sources, data.weights, f"the data of {config_name}")
        return data, generate
    roots = [config.data.root]
    if not _says(options, f"{DATA_ROOT}="):
        roots.insert(0, in_home(DataConfig.model_fields["root"].default))
    if options.datasets:
        root = likeliest_root(roots, options.datasets)
        return chosen_data(config.data, root, options.datasets), False
    named = {source.registered or str(source.path): data_of(source) for source in sources}
    data = named_data(config.data, named, roots)
    return data, False


def _say_others(sources: Sequence[Source], scored: Collection[str], whose: str) -> None:
    """Say which sources were trained on other data than those that they are scored on."""
    trained = {source.name: names_of_data(source) for source in sources}
    if (others := other_data(trained, scored)) and speaks_for_all():
        print_line(f"scored on {', '.join(scored)}, {whose}; {others}")


def _sort_words(options: argparse.Namespace) -> tuple[list[str], tuple[int, ...]]:
    """Return the sources and the lead times; overrides among them go to the others.

    argparse gives every word behind `--datasets a b` or `SOURCE` to those.
    """
    places: list[str] = []
    for word in options.source:
        if "=" in word and not Path(word).exists():
            options.overrides.append(word)
        else:
            places.append(word if is_registered(word) else str(Path(word)))
    for name in ("datasets", "leads"):
        words = getattr(options, name)
        if words is not None:
            options.overrides += [word for word in words if "=" in word]
            setattr(options, name, [word for word in words if "=" not in word])
    if not places:
        raise ConfigError(f"the following arguments are required: source ({SOURCE})")
    leads = options.leads or []
    wrong = [word for word in leads if not word.isdecimal() or int(word) == 0]
    if wrong:
        raise ConfigError(f"--leads {wrong[0]}: a lead time is a whole number of frames, from 1")
    return list(dict.fromkeys(places)), tuple(map(int, leads))


def _require_metric(options: argparse.Namespace) -> None:
    name, known = options.metric, [*METRICS, PAPER]
    if name == PAPER and says(options.overrides, FRAMES):
        raise ConfigError(
            f"--metric {PAPER} forecasts the published number of frames: leave {FRAMES} out"
        )
    if name not in known:
        raise ConfigError(
            f"there is no metric {name!r}{nearest(name, known)}; choose from: {', '.join(known)}"
        )


def _says(options: argparse.Namespace, *starts: str) -> bool:
    """Return whether an override begins with one of some texts."""
    return any(override.startswith(starts) for override in options.overrides)


def _sources(
    places: Sequence[str], config: RunConfig, overrides: Sequence[str], fetched: Path
) -> list[Source]:
    """Return the weights at some places; those in MLflow's registry are put into a folder.

    Scores go to the MLflow run that trained them, unless the command line says another address.
    """
    uri = registry_of(config.tracking.mlflow_uri, overrides)
    local = iter(sources_at([Path(place) for place in places if not is_registered(place)]))
    sources = [
        registered_source(place, uri, fetched) if is_registered(place) else next(local)
        for place in places
    ]
    names = [source.name for source in sources]
    for number, place in enumerate(places):
        if names.count(names[number]) > 1:
            sources[number] = replace(sources[number], name=place)
    if says(overrides, URI_KEY):
        sources = [replace(source, mlflow_uri=config.tracking.mlflow_uri) for source in sources]
    return sources


if __name__ == "__main__":
    sys.exit(main())
