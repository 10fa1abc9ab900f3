"""Score weights on held-out trajectories: `python -m dpot_scale.evaluate SOURCE`.

One process, without DeepSpeed: the whole model must fit on the device.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dpot_scale.checkpoints.source import SOURCE, config_of, no_weights
from dpot_scale.config.arguments import Entry, add_config_arguments
from dpot_scale.config.load import DEFAULT, dump, is_preset, load_run
from dpot_scale.config.places import in_home, resolve_run_paths, results_home
from dpot_scale.errors import exits_cleanly
from dpot_scale.evaluation.inputs import DATA_ROOT, name_of_scores, require_data
from dpot_scale.evaluation.scores import score_table
from dpot_scale.terminal import print_line

DEFAULT_OUT = Path("evaluation")


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Score the weights that the command line names."""
    entry = Entry(
        "evaluate",
        "Score weights on the held-out trajectories of stored datasets: relative L2 errors of "
        "the rollout and of single steps, beside those of repeating the last frame.",
        _evaluate,
    )
    entry.add_argument("source", type=Path, help=SOURCE)
    add_config_arguments(
        entry,
        "run",
        example=f"{DATA_ROOT}=DIR",
        sought_first="the config.yaml of the run that the weights are of",
    )
    entry.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help=f"where scores and figures go (default: {DEFAULT_OUT}/NAME, of the run that the "
        "weights lie in and the step of a checkpoint, else of their file)",
    )
    return entry.run(argv)


def _evaluate(options: argparse.Namespace) -> int:
    run_config = config_of(options.source)
    source = options.config or (DEFAULT if run_config is None else str(run_config))
    config = load_run(source, options.overrides)
    if options.print_config:
        print_line(dump(config))
        return 0
    config = resolve_run_paths(config, results_home())
    if not options.source.exists():
        raise no_weights(options.source)
    # What was read from a file may name a place of another machine or time: nothing is made there.
    says_where = any(override.startswith(f"{DATA_ROOT}=") for override in options.overrides)
    generate = is_preset(source) or says_where
    if not generate:
        require_data(config.data, source)
    # Torch loads for seconds: after what can be found without it.
    from dpot_scale.checkpoints.weights import find
    from dpot_scale.evaluation.weights import evaluate_weights, save_evaluation

    found = find(options.source)
    evaluations = evaluate_weights(found, config, generate=generate, progress=print_line)
    out = in_home(options.out or DEFAULT_OUT / name_of_scores(options.source, run_config))
    scores = save_evaluation(out, found, source, evaluations)
    print_line(score_table(scores.evaluation))
    print_line(f"scores and figures of {found}: {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
