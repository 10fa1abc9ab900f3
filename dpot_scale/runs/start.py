"""Where a run starts: at its own newest checkpoint, at other weights, or at its seed."""

from functools import partial

from dpot_scale.checkpoints.checkpoint import TrainState, checkpoint_folders, has_marker
from dpot_scale.checkpoints.source import no_weights, require_agreement
from dpot_scale.checkpoints.store import CheckpointStore
from dpot_scale.checkpoints.weights import find, read_found
from dpot_scale.checkpoints.weights_file import have_same_shapes
from dpot_scale.config.places import CHECKPOINTS
from dpot_scale.config.run import RunConfig
from dpot_scale.engine.collectives import from_main, on_every_rank
from dpot_scale.engine.engine import Engine
from dpot_scale.errors import CheckpointError


def first_state(config: RunConfig, engine: Engine, checkpoints: CheckpointStore) -> TrainState:
    """Load what the run starts from into the engine; return how far that is. Collective.

    Raises:
        CheckpointError: that cannot be loaded, or is of another run.
        ConfigError: the weights do not fit the model.
    """
    state = checkpoints.restore(engine)
    if state is not None:
        _require_step(state, config)
    elif config.initialize_from is not None:
        source, world = config.initialize_from, checkpoints.world
        found = from_main(partial(find, source), world, source)
        weights = on_every_rank(partial(read_found, found), world, found)
        # What the output means is not seen in the shapes.
        unseen = ["target"] if have_same_shapes(weights.model, config.model) else None
        require_agreement(weights.model, config.model, unseen)
        engine.load_parameters(weights.state)
    return state or TrainState()


def require_source(config: RunConfig) -> None:
    """Make sure, before data are made, that there is something at `initialize_from`.

    A run that has a checkpoint needs it no more.

    Raises:
        CheckpointError: there is nothing.
    """
    source = config.initialize_from
    if source is not None and not source.exists():
        folders = checkpoint_folders(config.directory / CHECKPOINTS).values()
        if not any(has_marker(folder) for folder in folders):
            raise no_weights(source)


def _require_step(state: TrainState, config: RunConfig) -> None:
    """Refuse a state that no step of the run ends in."""
    if state.step > config.steps:
        raise CheckpointError(
            f"the newest checkpoint under {config.directory / CHECKPOINTS} says that {state.step} "
            f"steps were made, but this run has {config.steps}: remove that checkpoint to continue "
            "from the one before"
        )
