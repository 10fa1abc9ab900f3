"""Where a run starts: at its own newest checkpoint, at other weights, or at its seed.

Other weights are a weights file, another run, or a checkpoint.
"""

from functools import partial
from pathlib import Path

from dpot_scale.checkpoints.checkpoint import (
    MARKER,
    TrainState,
    damaged_files,
    newest_intact,
    pickles,
    read_marker,
    refuse_code,
)
from dpot_scale.checkpoints.shards import Master, masters
from dpot_scale.checkpoints.source import require_agreement
from dpot_scale.checkpoints.store import CheckpointStore
from dpot_scale.checkpoints.weights import (
    Weights,
    have_same_shapes,
    read_weights,
    require_keys,
    shapes_of,
    stream_model,
)
from dpot_scale.config.load import load_run
from dpot_scale.config.places import CHECKPOINTS, RESULT_FILE, RUN_CONFIG, WEIGHTS
from dpot_scale.config.run import RunConfig
from dpot_scale.engine.collectives import from_main, on_every_rank
from dpot_scale.engine.engine import Engine
from dpot_scale.errors import CheckpointError
from dpot_scale.models.dpot.sizes import Architecture, architecture


def first_state(config: RunConfig, engine: Engine, checkpoints: CheckpointStore) -> TrainState:
    """Load what the run starts from into the engine; return how far that is. Collective.

    Raises:
        CheckpointError: that cannot be loaded, or is of another run.
        ConfigError: the weights do not fit the model.
    """
    state = checkpoints.restore(engine)
    if state is not None:
        _require_position(state, config)
    elif config.initialize_from is not None:
        source, world = config.initialize_from, checkpoints.world
        found = from_main(partial(settled, source), world, source)
        weights = on_every_rank(partial(weights_in, found), world, found)
        arch = architecture(config.model)
        if not have_same_shapes(weights.architecture, arch):
            require_agreement(weights.architecture, arch)
        engine.load_parameters(weights.state)
    return state or TrainState()


def settled(source: Path) -> Path:
    """Return the weights file, or the intact checkpoint, that a path stands for.

    The folder of a run stands for the weights it ended with, else for its newest checkpoint.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    if not source.is_dir():
        return source
    marker = read_marker(source) if (source / MARKER).exists() else None
    if marker is not None:
        if damaged := damaged_files(source, marker, marker.files):
            raise CheckpointError(
                f"{source} is damaged ({', '.join(damaged)}): choose another checkpoint"
            )
        refuse_code(source, pickles(source, marker))
        return source
    if (source / RESULT_FILE).is_file() and (source / WEIGHTS).is_file():
        return source / WEIGHTS
    checkpoint = newest_intact(source / CHECKPOINTS)
    if checkpoint is None:
        raise CheckpointError(
            f"{source} holds no checkpoint; give the folder of a run that has one, one of its "
            f"{CHECKPOINTS}/step_..., or a weights file"
        )
    return checkpoint


def weights_in(found: Path) -> Weights:
    """Return the weights in a weights file or an intact checkpoint, in fp32.

    The shards of a checkpoint are put together in this process, whatever number of ranks wrote
    them.

    Raises:
        CheckpointError: they are not what they seem.
    """
    if not found.is_dir():
        return read_weights(found)
    arch, tensors = _masters(found)
    return Weights(arch, {name: tensor.read() for name, tensor in tensors.items()})


def export(checkpoint: Path, out: Path | None = None) -> Path:
    """Write the weights of a checkpoint as a file like that of a finished run; return its place.

    One tensor at a time is in memory.

    Args:
        checkpoint: An intact one.
        out: The .safetensors file; None for one in the folder of the run that names the step.

    Raises:
        CheckpointError: it does not hold the model of its run.
        DiskError: the file cannot be written.
    """
    arch, tensors = _masters(checkpoint)
    path = out or checkpoint.absolute().parents[1] / f"model_{checkpoint.name}.safetensors"
    stream_model(path, arch, ((name, tensors[name].read()) for name in shapes_of(arch)))
    return path


def _require_position(state: TrainState, config: RunConfig) -> None:
    """Refuse a state that no step of the run ends in: it would go on with other windows."""
    batch = config.batch.global_batch
    if state.windows_seen != state.step * batch or state.step > config.steps:
        raise CheckpointError(
            f"the newest checkpoint under {config.directory / CHECKPOINTS} says that "
            f"{state.windows_seen} windows were seen in {state.step} steps, but this run has "
            f"{config.steps} steps of {batch} windows: remove that checkpoint to continue from the "
            "one before"
        )


def _masters(checkpoint: Path) -> tuple[Architecture, dict[str, Master]]:
    """Return the model of a checkpoint, and its parameters on the disk."""
    arch, tensors = _architecture(checkpoint), masters(checkpoint)
    require_keys(arch, {name: tensor.shape for name, tensor in tensors.items()}, checkpoint)
    return arch, tensors


def _architecture(checkpoint: Path) -> Architecture:
    """Return the architecture of the run that a checkpoint lies in."""
    config = checkpoint.absolute().parents[1] / RUN_CONFIG
    if not config.is_file():
        raise CheckpointError(
            f"{checkpoint} does not lie in the folder of its run, so its model is unknown: there "
            f"is no {config}"
        )
    return architecture(load_run(str(config)).model)
