"""Score a weights file on held-out trajectories: `python -m dpot_scale.evaluate WEIGHTS`.

One process, without DeepSpeed: the whole model must fit on the device.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dpot_scale.checkpoints.source import no_weights
from dpot_scale.config.arguments import PLACES, Parser, add_config_arguments
from dpot_scale.config.base import Section
from dpot_scale.config.data import DataConfig
from dpot_scale.config.load import DEFAULT, dump, is_preset, load_run
from dpot_scale.config.places import RUN_CONFIG, anchored_run, in_home, results_home
from dpot_scale.errors import ConfigError, exits_cleanly
from dpot_scale.evaluation.scores import DatasetScore, score_table
from dpot_scale.files import write_whole
from dpot_scale.terminal import print_line

if TYPE_CHECKING:
    from dpot_scale.evaluation.evaluator import DatasetEvaluation

SCORES_FILE = "scores.json"
DEFAULT_OUT = Path("evaluation")
ROOT = "data.root"


class Scores(Section):
    """The content of `scores.json`."""

    weights: Path
    config: str  # its file or preset
    evaluation: dict[str, DatasetScore]


@exits_cleanly
def main(arguments: Sequence[str] | None = None) -> int:
    """Score the weights that the command line names."""
    options = _parser().parse_intermixed_args(arguments)
    run_config = _run_config(options.weights)
    source = options.config or (DEFAULT if run_config is None else str(run_config))
    config = load_run(source, options.overrides)
    if options.print_config:
        print_line(dump(config))
        return 0
    config = anchored_run(config, results_home())
    if not options.weights.is_file():
        raise no_weights(options.weights)
    # What was read from a file may name a place of another machine or time: nothing is made there.
    generate = is_preset(source) or any(key.startswith(f"{ROOT}=") for key in options.overrides)
    if not generate:
        _require_data(config.data, source)
    # Torch loads for seconds: after what can be found without it.
    from dpot_scale.evaluation.weights import evaluate_weights

    evaluations = evaluate_weights(options.weights, config, generate=generate, progress=print_line)
    out = in_home(options.out or DEFAULT_OUT / _name(options.weights, run_config))
    _save(out, options.weights, source, evaluations)
    print_line(score_table({name: e.score for name, e in evaluations.items()}))
    print_line(f"scores and figures: {out}")
    return 0


def _require_data(data: DataConfig, source: str) -> None:
    """Make sure that the datasets are where a config file says."""
    from dpot_scale.data.store.dataset import stored_names

    there = stored_names(data.root)
    missing = [repr(name) for name in data.weights if name not in there]
    if missing:
        names = ", ".join(missing)
        gone = f"datasets {names} are" if missing[1:] else f"dataset {names} is"
        suite = f" (what DIR lacks of suite {data.suite} is made there)" if data.suite else ""
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
    parser.add_argument("weights", type=Path, help="a released .pth or a .safetensors export")
    add_config_arguments(
        parser,
        "run",
        example=f"{ROOT}=DIR",
        sought_first="the config.yaml beside the weights",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help=f"where scores and figures go (default: {DEFAULT_OUT}/NAME, of the run that the "
        "weights lie in, else of their file)",
    )
    return parser


def _run_config(weights: Path) -> Path | None:
    """Return the config of the run in whose directory the weights lie, if they lie in one."""
    beside = weights.with_name(RUN_CONFIG)
    return beside if beside.is_file() else None


def _name(weights: Path, run_config: Path | None) -> str:
    """Return a name for the weights: the exports of all runs have the same file name."""
    return weights.stem if run_config is None else run_config.resolve().parent.name


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
