"""What a run leaves in its folder: its configs while it trains; weights, figures and its result."""

import json
import logging
from math import nan
from pathlib import Path
from statistics import median
from typing import Any

from dpot_scale.checkpoints.checkpoint import committed
from dpot_scale.checkpoints.weights_file import stream_model
from dpot_scale.config.load import dump
from dpot_scale.config.optim import WIDTH_POWER
from dpot_scale.config.places import CHECKPOINTS, FIGURES, RUN_CONFIG, WEIGHTS
from dpot_scale.config.run import RunConfig
from dpot_scale.config.strategy import Json, hides_state, section
from dpot_scale.data.channels import TrainingData
from dpot_scale.engine.collectives import on_every_rank, on_main
from dpot_scale.engine.engine import Engine
from dpot_scale.engine.runtime import World
from dpot_scale.errors import CheckpointError, DiskError
from dpot_scale.evaluation.figures import save_figures
from dpot_scale.evaluation.frames import save_frames
from dpot_scale.evaluation.monitor import Monitor
from dpot_scale.files import cannot_write, going_on, write_whole
from dpot_scale.models.adapter import is_of_pair, merged
from dpot_scale.models.families import adapter_parameters, family_of, trained_parameters
from dpot_scale.runs.contents import record
from dpot_scale.runs.resolved import ResolvedRun
from dpot_scale.runs.result import TrainingResult, save_result
from dpot_scale.runs.tracked import DEEPSPEED_CONFIG
from dpot_scale.terminal import align
from dpot_scale.tracking import names
from dpot_scale.tracking.spool import SPOOL, read_metrics
from dpot_scale.training.meter import peak_memory_gib
from dpot_scale.training.schedule import Schedule

log = logging.getLogger(__name__)

# Settings by which DeepSpeed's own files differ beside the number of workers. They matter only
# where a part of the state is nowhere else. Stages 1 and 2 write the same files.
DECIDES_FILES = (
    "stage",
    "sub_group_size",
    "round_robin_gradients",
    "offload_optimizer.device",
    "offload_param.device",
)


def header(run: ResolvedRun, grids: str, table: str = "") -> str:
    """Return what a run is, in a few aligned lines.

    Args:
        run: The run.
        grids: By which rule datasets get to the grid of the network; empty if all are on it.
        table: What became of the weights that it starts from; empty if there is nothing to say.
    """
    config, batch = run.config, run.config.batch
    device = "cuda" if run.on_gpu else "cpu"
    engine = config.engine
    sharding = engine.deepspeed.name if engine.kind == "deepspeed" else "fairscale in fp32"
    weights = config.data.weights.items()
    lines = align(
        [
            ("run", f"{config.name}  in {config.directory}"),
            (
                "model",
                f"{run.parameters.total:,} parameters, {run.parameters.blocks:,} of them in blocks",
            ),
            *([("trained", _trained(config))] if _trained(config) else []),
            (
                "batch",
                f"{batch.global_batch} windows = {batch.micro_batch} per rank x "
                f"{run.world_size} ranks x {run.accumulation_steps} accumulated",
            ),
            ("length", f"{config.windows:,} windows = {config.steps:,} steps"),
            ("rates", _rates(config)),
            (
                "engine",
                f"{sharding} on {run.world_size} x {device}, "
                f"activation checkpointing {engine.activation_checkpointing}",
            ),
            ("memory", run.memory.describe()),
            ("data", ", ".join(f"{name} x {weight:g}" for name, weight in weights)),
            *([("grid", grids)] if grids else []),
            *([("start", str(config.start.source))] if table else []),
        ]
    )
    return f"{lines}\n{table}" if table else lines


def _trained(config: RunConfig) -> str:
    """Return how many parameters train, and which stay as they are; empty if all train."""
    start = config.start
    parts = family_of(config.model).parameters(config.model).components
    frozen = [name for name, number in parts.items() if number and not start.rate(name)]
    if not frozen:
        return ""
    trained = trained_parameters(config.model, start)
    pairs = adapter_parameters(config.model, start)
    in_pairs = f", {pairs:,} of them in pairs of rank {start.adapter.rank}" if start.adapter else ""
    return f"{trained:,} parameters{in_pairs}; frozen: {', '.join(frozen)}"


def _rates(config: RunConfig) -> str:
    """Return the peak learning rate, and where it comes from."""
    reference = config.optim.reference_for(config.model.family)
    settled = Schedule.of(config).optim
    rates = [("peak learning rate", config.optim.lr, settled.lr)]
    if config.optim.kind == "muon":
        rates.append(("of Muon", config.optim.muon_lr, settled.muon_lr))
    if reference is None:
        return ", ".join(f"{name} {rate:.4g}" for name, _, rate in rates)
    share = f"({reference} / {config.model.own_width()})^{WIDTH_POWER:g}"
    return ", ".join(f"{name} {rate:.4g} = {given:g} x {share}" for name, given, rate in rates)


def require_same_layout(run: ResolvedRun) -> None:
    """Make sure that the checkpoints of a run fit the way in which it is sharded now.

    All do, on any number of workers, unless only DeepSpeed reaches a part of the state.

    Raises:
        CheckpointError: they do not.
    """
    directory = run.config.directory
    if run.config.engine.kind != "deepspeed" or not committed(directory / CHECKPOINTS):
        return
    try:
        before = json.loads((directory / DEEPSPEED_CONFIG).read_text(encoding="utf-8"))
        if not (hides_state(before) or hides_state(run.deepspeed)):
            return
        old, new = _layout(before), _layout(run.deepspeed)
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return  # nothing says how they were sharded
    for key in DECIDES_FILES:
        if old[key] != new[key]:
            raise CheckpointError(
                f"{directory} was saved with zero_optimization.{key}={old[key]} and this run has "
                f"{new[key]}: restore its engine.deepspeed, or start a new run from its weights "
                f"with another `name` and `start.source={directory}`"
            )


def _layout(deepspeed: Json) -> dict[str, Any]:
    """Return the settings that decide DeepSpeed's files."""
    zero = section(deepspeed, "zero_optimization")
    layout = {key: section(zero, key) or "none" for key in DECIDES_FILES}
    stage = zero.get("stage", 0)
    return layout | {"stage": 1 if stage == 2 else stage}


def write_configs(run: ResolvedRun) -> None:
    """Write what the run is: its config, what DeepSpeed gets, and what it reads by content.

    Raises:
        OSError: they cannot be written.
    """
    directory = run.config.directory
    write_whole(directory / RUN_CONFIG, dump(run.config))
    if run.config.engine.kind == "deepspeed":
        write_whole(directory / DEEPSPEED_CONFIG, json.dumps(run.deepspeed, indent=2))
    record(directory, run.source.contents)


def keep(
    run: ResolvedRun,
    world: World,
    engine: Engine,
    monitor: Monitor,
    data: TrainingData,
    seconds: float,
    unread: int,
) -> TrainingResult:
    """Write weights, figures and, last, the result that marks the run as finished. Collective.

    Args:
        run: The run.
        world: The ranks.
        engine: Holds the weights.
        monitor: Knows the scores.
        data: What the run knows of its datasets.
        seconds: How long this attempt took.
        unread: How many windows could not be read.
    """
    config = run.config
    _export(config, world, engine, data)
    peak = peak_memory_gib(world)
    loss, speed = _recorded(config.directory / SPOOL)
    result = TrainingResult(
        name=config.name,
        identity=run.source.identity,
        datasets=dict(run.source.contents.datasets),
        world_size=run.world_size,
        parameters=run.parameters.total,
        block_parameters=run.parameters.blocks,
        windows=config.windows,
        quarantined=unread,
        steps=config.steps,
        seconds=seconds,
        train_flops=run.train_flops,
        windows_per_second=speed,
        peak_memory_gib=peak,
        final_train_loss=loss,
        evaluation={name: found.score for name, found in monitor.latest.items()},
        valid={name: found.score for name, found in monitor.valid.items()},
        lead_times={name: tuple(found.rel_l2_L.tolist()) for name, found in monitor.latest.items()},
        forward_seconds={name: found.forward_seconds for name, found in monitor.latest.items()},
    )
    if world.is_main:
        _draw(config.directory / FIGURES, monitor)
    on_main(lambda: save_result(config.directory, result), world, config.directory)
    return result


def _recorded(spool: Path) -> tuple[float, float]:
    """Return the last loss and the median speed; NaN where their record is lost."""
    metrics = read_metrics(spool)
    losses, speeds = metrics.get(names.LOSS), metrics.get(names.WINDOWS_PER_SECOND)
    loss = losses[max(losses)] if losses else nan
    return loss, median(speeds.values()) if speeds else nan


def _draw(folder: Path, monitor: Monitor) -> None:
    """Draw the newest forecasts; a disk that is full costs no result."""
    try:
        save_figures(folder, monitor.latest)
        save_frames(folder, monitor.latest)
    except (DiskError, OSError) as error:
        problem = error if isinstance(error, DiskError) else cannot_write(folder, error)
        log.warning("%s; the run ends without all of its figures", going_on(problem))


def _export(config: RunConfig, world: World, engine: Engine, data: TrainingData) -> None:
    """Write the weights from the main rank, with the adapter merged into them. Collective."""
    parameters = engine.full_parameters()
    if config.start.adapter is not None:
        pairs = {name: value for name, value in parameters if is_of_pair(name)}
        parameters = merged(engine.full_parameters(), pairs)

    def write() -> None:
        try:
            if world.is_main:
                stream_model(config.directory / WEIGHTS, config.model, parameters, data)
        finally:
            for _ in parameters:  # each is gathered by all ranks, also where the disk is full
                pass

    on_every_rank(write, world, config.directory)
