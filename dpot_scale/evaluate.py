"""Score weights on held-out trajectories: `python -m dpot_scale.evaluate SOURCE`.

One process, without DeepSpeed: the whole model must fit on the device.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dpot_scale.checkpoints.source import SOURCE, config_of, no_weights
from dpot_scale.config.arguments import PLACES, Parser, add_config_arguments
from dpot_scale.config.data import DataConfig
from dpot_scale.config.load import DEFAULT, dump, is_preset, load_run
from dpot_scale.config.places import anchored_run, in_home, results_home
from dpot_scale.config.record import Record
from dpot_scale.errors import ConfigError, exits_cleanly
from dpot_scale.evaluation.scores import DatasetScore, score_table
from dpot_scale.files import write_whole
from dpot_scale.terminal import print_line

if TYPE_CHECKING:
    from dpot_scale.evaluation.evaluator import DatasetEvaluation

SCORES_FILE = "scores.json"
DEFAULT_OUT = Path("evaluation")
ROOT = "data.root"


class Scores(Record):
    """The content of `scores.json`."""

    weights: Path  # the run, checkpoint or weights file
    config: str  # its file or preset
    evaluation: dict[str, DatasetScore]


@exits_cleanly
def main(arguments: Sequence[str] | None = None) -> int:
    """Score the weights that the command line names."""
    options = _parser().parse_intermixed_args(arguments)
    run_config = config_of(options.source)
    source = options.config or (DEFAULT if run_config is None else str(run_config))
    config = load_run(source, options.overrides)
    if options.print_config:
        print_line(dump(config))
        return 0
    config = anchored_run(config, results_home())
    if not options.source.exists():
        raise no_weights(options.source)
    # What was read from a file may name a place of another machine or time: nothing is made there.
    generate = is_preset(source) or any(key.startswith(f"{ROOT}=") for key in options.overrides)
    if not generate:
        _require_data(config.data, source)
    # Torch loads for seconds: after what can be found without it.
    from dpot_scale.evaluation.weights import evaluate_weights

    evaluations = evaluate_weights(options.source, config, generate=generate, progress=print_line)
    out = in_home(options.out or DEFAULT_OUT / _name(options.source, run_config))
    _save(out, options.source, source, evaluations)
    print_line(score_table({name: e.score for name, e in evaluations.items()}))
    print_line(f"scores and figures of {options.source}: {out}")
    return 0


def _require_data(data: DataConfig, source: str) -> None:
    """Make sure that the datasets are where a config file says."""
    from dpot_scale.data.store.dataset import stored_names

    there = stored_names(data.root)
    missing = [repr(name) for name in data.weights if name not in there]
    if missing:
        names = ", ".join(missing)
        gone = f"datasets {names} are" if missing[1:] else f"dataset {names} is"
        suite = f" (what DIR lacks of suite {data.suite.name} is made there)" if data.suite else ""
        raise ConfigError(
            f"{gone} missing under {data.root}, the {ROOT} of {source}; say with {ROOT}=DIR where "
            f"the datasets are{suite}"
        )


def _parser() -> Parser:
    parser = Parser(
        prog="python -m dpot_scale.evaluate",
        description="Score DPOT weights on the held-out trajectories of stored datasets: relative "
        "L2 errors of the rollout and of single steps, beside those of repeating the last frame.",
        epilog=PLACES,
    )
    parser.add_argument("source", type=Path, help=SOURCE)
    add_config_arguments(
        parser,
        "run",
        example=f"{ROOT}=DIR",
        sought_first="the config.yaml of the run that the weights are of",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help=f"where scores and figures go (default: {DEFAULT_OUT}/NAME, of the run that the "
        "weights lie in and the step of a checkpoint, else of their file)",
    )
    return parser


def _name(source: Path, run_config: Path | None) -> str:
    """Return a name for the weights: the exports of all runs have the same file name."""
    if run_config is None:
        return source.absolute().stem
    run = run_config.resolve().parent
    of_checkpoint = source.is_dir() and source.resolve() != run
    return f"{run.name}_{source.resolve().name}" if of_checkpoint else run.name


def _save(
    out: Path, weights: Path, source: str, evaluations: Mapping[str, "DatasetEvaluation"]
) -> None:
    scores = Scores(
        weights=weights,
        config=source,
        evaluation={name: evaluation.score for name, evaluation in evaluations.items()},
    )
    from dpot_scale.evaluation.figures import save_figures

    try:
        save_figures(out, evaluations)
        text = scores.model_dump_json(indent=2)
        write_whole(out / SCORES_FILE, text + "\n")
    except OSError as error:
        raise ConfigError(f"cannot write to {out}: {error.strerror}") from error


if __name__ == "__main__":
    sys.exit(main())
