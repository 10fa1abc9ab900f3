"""Train one DPOT: `deepspeed dpot_scale/train.py`, `python -m dpot_scale.train`.

Bare, it trains the quickstart preset. Neither Ray nor an MLflow server is needed.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dpot_scale.config.arguments import Entry, add_config_arguments
from dpot_scale.config.load import dump, load_run
from dpot_scale.config.places import resolve_run_paths, results_home
from dpot_scale.config.run import RunConfig
from dpot_scale.errors import ConfigError, exits_cleanly, speaks_for_all
from dpot_scale.evaluation.tables import score_table
from dpot_scale.runs.archived import complete_archives
from dpot_scale.runs.folder import finished_before
from dpot_scale.runs.resolved import identify
from dpot_scale.runs.result import TrainingResult
from dpot_scale.terminal import print_line, under_way
from dpot_scale.tracking.missing import catch_up
from dpot_scale.tracking.mlflow_page import review
from dpot_scale.tracking.registered import locator

COMMANDS = {
    "run": "trains (the default)",
    "status": "says how far the run in the folder that follows is, and lists its checkpoints",
}


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Train the run that the command line describes."""
    entry = Entry(
        "train",
        "Train one model with DeepSpeed ZeRO: alone as a module, on several ranks as `deepspeed "
        "dpot_scale/train.py`. Without arguments it trains the quickstart preset, which generates "
        "its data. A run that was stopped continues when it is started again.",
        _train,
    )
    entry.add_words(COMMANDS, default="run", with_names=["status"])
    add_config_arguments(entry, "run", example="model.size=S")
    entry.add_argument("--local_rank", help=argparse.SUPPRESS)  # the deepspeed launcher adds it
    return entry.run(argv)


def _train(options: argparse.Namespace) -> int:
    config = load_run(options.config, options.overrides)
    if options.command == "status":
        lines = _status(options, config)
    elif options.print_config:
        lines = dump(config)
    else:
        home = results_home()
        locate = locator(config.tracking.mlflow_uri, options.overrides, home)
        config = resolve_run_paths(config, home, locate)
        lines = _summary(_result(config), config)
    if speaks_for_all():
        print_line(lines)
    return 0


def _status(options: argparse.Namespace, config: RunConfig) -> str:
    from dpot_scale.runs.status import run_status

    if len(options.names) > 1:
        raise ConfigError(f"give the folder of one run, not {' and '.join(options.names)}")
    if options.names:
        return run_status(Path(options.names[0]).absolute())
    return run_status(resolve_run_paths(config, results_home()).directory)


def _result(config: RunConfig) -> TrainingResult:
    """Return the result of a run, trained now unless it is finished.

    Torch and DeepSpeed load for seconds, so what needs neither comes first: the mistakes that can
    be found without them, and the result of a finished run.
    """
    with under_way("reading what the data hold"):
        run = identify(config)
    finished = finished_before(run)
    if finished is not None:
        if speaks_for_all():
            catch_up([config.directory])
            complete_archives([config], print_line)
        return finished
    with under_way("loading torch"):
        from dpot_scale.runs.run import run_training

    return run_training(run)


def _summary(result: TrainingResult, config: RunConfig) -> str:
    """Return the held-out scores as a table, and where everything is."""
    lines = [score_table(result.evaluation)]
    lines.append(f"weights, figures and metrics: {config.directory}")
    return "\n".join([*lines, *review(config.directory, config.tracking, page="run")])


if __name__ == "__main__":
    sys.exit(main())
