"""Scores of weights from anywhere, in one process and without DeepSpeed."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from dpot_scale.checkpoints.source import require_agreement
from dpot_scale.checkpoints.weights import network_of, read_found
from dpot_scale.config.run import RunConfig
from dpot_scale.data.datasets import open_datasets
from dpot_scale.engine.runtime import World
from dpot_scale.errors import ConfigError
from dpot_scale.evaluation.evaluator import DatasetEvaluation, evaluate
from dpot_scale.evaluation.figures import save_figures
from dpot_scale.evaluation.scores import SCORES_FILE, Scores
from dpot_scale.files import write_whole

# What a config and weights must agree on: it decides what is forecast from what, and compared.
COMPARED = ("space_dims", "grid", "channels", "history", "horizon")


def evaluate_weights(
    found: Path, config: RunConfig, *, generate: bool, progress: Callable[[str], None]
) -> dict[str, DatasetEvaluation]:
    """Score a model on the test split of the datasets of a run config.

    Args:
        found: Its weights: a weights file or the folder of an intact checkpoint.
        config: Says which datasets, and how they are scored.
        generate: Whether missing datasets of its suite are made.
        progress: Takes one line of text for the user at a time.

    Raises:
        CheckpointError: the weights cannot be used.
        ConfigError: the config describes another model.
        DataError: a dataset is missing, or too short to forecast.
    """
    model = network_of(read_found(found))
    require_agreement(model.config, config.model, COMPARED)
    stores = open_datasets(config.data, config.model, progress=progress, generate=generate)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    alone = World(rank=0, local_rank=0, world_size=1, device=device)
    return evaluate(model.to(device), stores, config.evaluation, config.model, config.data, alone)


def save_evaluation(
    out: Path, found: Path, config: str, evaluations: Mapping[str, DatasetEvaluation]
) -> Scores:
    """Write scores.json and the figures into a folder.

    Args:
        out: The folder; it is made if there is none.
        found: The weights that were scored.
        config: The config file or preset that said how.
        evaluations: Dataset -> how the model did.

    Raises:
        ConfigError: the folder cannot be written.
    """
    scores = Scores(
        weights=found,
        config=config,
        evaluation={name: evaluation.score for name, evaluation in evaluations.items()},
    )
    try:
        save_figures(out, evaluations)
        write_whole(out / SCORES_FILE, scores.model_dump_json(indent=2) + "\n")
    except OSError as error:
        raise ConfigError(f"cannot write to {out}: {error.strerror}") from error
    return scores
