"""Where a run starts: at its own newest checkpoint, at other weights, or at its seed."""

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from dpot_scale.checkpoints.checkpoint import TrainState, checkpoint_folders, has_marker
from dpot_scale.checkpoints.source import disagreement, no_weights
from dpot_scale.checkpoints.store import CheckpointStore
from dpot_scale.checkpoints.weights import find, read_found
from dpot_scale.checkpoints.weights_file import Weights, shapes_of
from dpot_scale.config.places import CHECKPOINTS
from dpot_scale.config.run import RunConfig
from dpot_scale.data.channels import TrainingData
from dpot_scale.data.datasets import require_complete
from dpot_scale.data.store.dataset import DatasetStore
from dpot_scale.engine.collectives import from_main, on_every_rank
from dpot_scale.engine.engine import Engine
from dpot_scale.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    MachineError,
    speaks_for_all,
)
from dpot_scale.models.adapter import is_of_pair
from dpot_scale.models.families import family_of
from dpot_scale.models.transfer import (
    ChannelNames,
    Transfer,
    carry_over,
    match_fields,
    require_whole,
)
from dpot_scale.runs.contents import weights_digest

log = logging.getLogger(__name__)


class Begun(NamedTuple):
    """How far a run is, and what became of the weights that it starts from."""

    state: TrainState
    table: str = ""  # lines for the header; empty where it started before, or from its seed


def first_state(
    config: RunConfig,
    engine: Engine,
    checkpoints: CheckpointStore,
    data: TrainingData | None = None,
) -> Begun:
    """Load what the run starts from into the engine. Collective.

    Args:
        config: The run.
        engine: Holds the weights that are drawn from its seed.
        checkpoints: Those of the run.
        data: The datasets that it will be trained on.

    Raises:
        CheckpointError: that cannot be loaded, or is of another run.
        ConfigError: the weights do not fit the model.
    """
    state = checkpoints.restore(engine)
    if state is not None:
        _require_step(state, config)
        return Begun(state)
    if config.start.source is None:
        return Begun(TrainState())
    source, world = config.start.source, checkpoints.world
    found = from_main(partial(_found, source, checkpoints.contents.get("start")), world, source)
    weights = on_every_rank(partial(read_found, found), world, found)
    transfer = plan_transfer(weights, config, data)
    unfinished, fresh, pairs = transfer.unfinished, {}, {}
    if unfinished or config.start.adapter is not None:
        for name, value in engine.full_parameters():
            if is_of_pair(name):
                pairs[name] = value
            elif name in unfinished:
                fresh[name] = value
    engine.load_parameters(transfer.completed(fresh) | pairs)
    return Begun(TrainState(), transfer.table())


def _found(source: Path, known: str | None) -> Path:
    """Return where the first weights lie, which are those that the identity of the run names.

    Args:
        source: The weights, or a run.
        known: The digest that is part of the identity; None: that is not known.

    Raises:
        CheckpointError: there are none, or the newest intact ones are others.
    """
    found = find(source)
    digest = weights_digest(found) if found.is_dir() else None
    if known is not None and digest is not None and digest != known:
        raise CheckpointError(
            f"start.source: {source} was at {known} when this run was planned, and its newest "
            f"intact checkpoint is {found}: start again, or name the checkpoint to begin with"
        )
    return found


def plan_transfer(weights: Weights, config: RunConfig, data: TrainingData | None) -> Transfer:
    """Find what the model of a run takes from weights.

    Args:
        weights: The source.
        config: The run.
        data: The datasets that it will be trained on; None: unknown.

    Raises:
        ConfigError: they lack something that may not be drawn.
    """
    source, target, start = weights.model, config.model, config.start
    if source.family != target.family:
        raise ConfigError(disagreement(source, target, ["family"]))
    family = family_of(target)
    names, wanted = (_channel_names(known) for known in (weights.data, data))
    fields = match_fields(source.channels, target.channels, names, wanted)
    adaptation = family.adaptation(source, target, weights.state, fields)
    transfer = carry_over(weights.state, shapes_of(target), family.components, adaptation, start)
    fixed = adaptation.fixed(source.dimension_names(), start)
    require_whole(transfer, start, disagreement(source, target, fixed), fields)
    return transfer


def _channel_names(data: TrainingData | None) -> ChannelNames:
    """Return the names of the channels of each dataset, as far as that is known."""
    return {} if data is None else {name: one.names for name, one in data.datasets.items()}


def require_source(config: RunConfig) -> None:
    """Make sure, before data are made, that there is something at `start.source`.

    A run that has a checkpoint needs it no more.

    Raises:
        CheckpointError: there is nothing.
    """
    source = config.start.source
    if source is not None and not source.exists() and not has_begun(config):
        raise CheckpointError(f"start.source: {no_weights(source)}")


def look_for_files(config: RunConfig, stores: Mapping[str, DatasetStore]) -> None:
    """Make sure, before a run begins, that its datasets are complete.

    One that has a checkpoint goes on: its stream replaces windows that cannot be read.

    Raises:
        DataError: a file is missing or too short.
        MachineError: a file cannot be read now.
    """
    try:
        require_complete(stores)
    except (DataError, MachineError) as error:
        if not has_begun(config):
            raise
        if speaks_for_all():
            log.warning("%s; the run goes on, as limits.unreadable allows", error)


def has_begun(config: RunConfig) -> bool:
    """Return whether a run has a checkpoint."""
    folders = checkpoint_folders(config.directory / CHECKPOINTS).values()
    return any(has_marker(folder) for folder in folders)


def _require_step(state: TrainState, config: RunConfig) -> None:
    """Refuse a state that no step of the run ends in."""
    if state.step > config.steps:
        raise CheckpointError(
            f"the newest checkpoint under {config.directory / CHECKPOINTS} says that {state.step} "
            f"steps were made, but this run has {config.steps}: remove that checkpoint to continue "
            "from the one before"
        )
