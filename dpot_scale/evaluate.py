"""Score a weights file on held-out trajectories: `python -m dpot_scale.evaluate WEIGHTS`.

One process, without DeepSpeed: the whole model must fit on the device.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from dpot_scale.config.load import DEFAULT, add_config_arguments, dump, load_run
from dpot_scale.config.schema import ModelConfig, RunConfig, Section
from dpot_scale.data.datasets import open_datasets
from dpot_scale.engine.runtime import World
from dpot_scale.errors import ConfigError, exits_cleanly
from dpot_scale.evaluation.figures import save_figures
from dpot_scale.evaluation.metrics import DatasetEvaluation, evaluate
from dpot_scale.files import write_whole
from dpot_scale.model.export import load_model
from dpot_scale.model.sizes import Architecture
from dpot_scale.training.console import print_line
from dpot_scale.training.result import DatasetScore, score_table

SCORES_FILE = "scores.json"
DEFAULT_OUT = Path("evaluation")
# What a config and weights must agree on: it decides what is forecast from what, and compared.
COMPARED = ("space_dims", "grid", "channels", "history", "horizon")


class Scores(Section):
    """The content of `scores.json`."""

    weights: Path
    config: str  # its file or preset
    evaluation: dict[str, DatasetScore]


def evaluate_weights(weights: Path, config: RunConfig) -> dict[str, DatasetEvaluation]:
    """Score the model in a weights file on the test split of the datasets of a run config.

    Args:
        weights: A released `.pth` or a `.safetensors` export.
        config: Says which datasets, and how they are scored; missing ones of its suite are made.

    Raises:
        CheckpointError: the weights cannot be used.
        ConfigError: the config describes another model.
        DataError: a dataset is missing, or too short to forecast.
    """
    model = load_model(weights)
    _check_agree(model.architecture, config.model)
    stores = open_datasets(config.data, config.model, progress=print_line)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    alone = World(rank=0, local_rank=0, world_size=1, device=device)
    return evaluate(model.to(device), stores, config.evaluation, config.model, config.data, alone)


def _check_agree(arch: Architecture, config: ModelConfig) -> None:
    differing = {
        name: getattr(arch, name)
        for name in COMPARED
        if getattr(arch, name) != getattr(config, name)
    }
    if differing:
        said = ", ".join(f"model.{name}={getattr(config, name)}" for name in differing)
        needed = " ".join(f"model.{name}={value}" for name, value in differing.items())
        raise ConfigError(f"the config says {said}, but the weights need: {needed}")


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
    evaluations = evaluate_weights(options.weights, config)
    out = options.out or DEFAULT_OUT / _name(options.weights, run_config)
    _save(out, options.weights, source, evaluations)
    print_line(score_table({name: e.score for name, e in evaluations.items()}))
    print_line(f"scores and figures: {out}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dpot_scale.evaluate",
        description="Score DPOT weights on the held-out trajectories of stored datasets: relative "
        "L2 errors of the rollout and of single steps, beside those of repeating the last frame.",
    )
    parser.add_argument("weights", type=Path, help="a released .pth or a .safetensors export")
    add_config_arguments(parser, "run", sought_first="the config.yaml beside the weights")
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
    beside = weights.with_name("config.yaml")
    return beside if beside.is_file() else None


def _name(weights: Path, run_config: Path | None) -> str:
    """Return a name for the weights: the exports of all runs have the same file name."""
    return weights.stem if run_config is None else run_config.resolve().parent.name


def _save(
    out: Path, weights: Path, source: str, evaluations: Mapping[str, DatasetEvaluation]
) -> None:
    scores = Scores(
        weights=weights,
        config=source,
        evaluation={name: evaluation.score for name, evaluation in evaluations.items()},
    )
    try:
        save_figures(out, evaluations)
        text = scores.model_dump_json(indent=2)
        write_whole(out / SCORES_FILE, text + "\n")
    except OSError as error:
        raise ConfigError(f"cannot write to {out}: {error.strerror}") from error


if __name__ == "__main__":
    sys.exit(main())
