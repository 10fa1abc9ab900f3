"""Train one DPOT: `deepspeed dpot_scale/train.py`, `python -m dpot_scale.train`.

Bare, it trains the quickstart preset. Neither Ray nor an MLflow server is needed.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from dpot_scale.config.load import add_config_arguments, dump, load_run, load_suite
from dpot_scale.config.schema import RunConfig, run_hash
from dpot_scale.data.batches import BatchStream, training_windows
from dpot_scale.data.generate import generate_suite
from dpot_scale.data.mixture import Mixture
from dpot_scale.data.store import DatasetStore, open_store
from dpot_scale.engine.memory import estimate_memory
from dpot_scale.engine.runtime import World, start_world
from dpot_scale.engine.strategy import read_strategy
from dpot_scale.engine.zero import ZeroEngine
from dpot_scale.errors import ConfigError, UserError, exits_cleanly
from dpot_scale.evaluation.figures import save_figures
from dpot_scale.evaluation.metrics import DatasetEvaluation, Evaluator
from dpot_scale.model.cost import count_parameters, train_flops_per_window
from dpot_scale.model.export import read_weights, save_model
from dpot_scale.model.sizes import architecture
from dpot_scale.training.checkpoint import CheckpointStore, TrainState
from dpot_scale.training.console import Console, aligned, print_line
from dpot_scale.training.health import StopReason
from dpot_scale.training.loop import Trainer
from dpot_scale.training.metrics import peak_memory_gib
from dpot_scale.training.result import TrainingResult, read_result, save_result
from dpot_scale.training.tracking import (
    SPOOL,
    Status,
    Tracker,
    close_run,
    open_run,
    read_metrics,
)

WEIGHTS = "model.safetensors"  # the consolidated fp32 export of a finished run
FIGURES = "figures"
DEEPSPEED_CONFIG = "deepspeed.json"  # as DeepSpeed got it


class TrainingStoppedError(UserError):
    """The run ended before its last step; starting it again continues it."""


class TrainingDivergedError(UserError):
    """The loss or the gradient is not finite."""


def run_training(config: RunConfig, *, mlflow_run_id: str | None = None) -> TrainingResult:
    """Train a run to its end, from its newest checkpoint if it has one.

    Every rank calls this, under any launcher. The run directory then holds the config, metrics,
    checkpoints, figures, the weights in fp32 and the result. A finished run returns at once.

    Args:
        config: The run.
        mlflow_run_id: The MLflow run that a driver opened and will close; without one, and with
            `tracking.mlflow_uri` set, the main rank opens and closes its own.

    Raises:
        ConfigError, DataError, CheckpointError: the user can mend it.
        TrainingStoppedError: a signal ended it.
        TrainingDivergedError: the loss or the gradient is not finite.
    """
    finished = read_result(config.directory)
    if finished is not None:
        return _checked(finished, config)
    stores = _open_stores(config)
    world = start_world(config.seed)
    console = Console(is_main=world.is_main, total_steps=config.steps)
    own_run = None
    if world.is_main:
        config.directory.mkdir(parents=True, exist_ok=True)
        (config.directory / "config.yaml").write_text(dump(config), encoding="utf-8")
        if mlflow_run_id is None:
            own_run = open_run(config.directory, config, config.tracking, name=config.name)
    status: Status = "FAILED"
    try:
        result = _train(config, world, stores, console, mlflow_run_id or own_run)
        status = "FINISHED"
    except (TrainingStoppedError, KeyboardInterrupt):
        status = "KILLED"
        raise
    finally:
        console.close()
        close_run(own_run, config.tracking, status, artifacts=_artifacts(config.directory))
    return result


def _train(
    config: RunConfig,
    world: World,
    stores: Mapping[str, DatasetStore],
    console: Console,
    run_id: str | None,
) -> TrainingResult:
    """Build what the loop needs, run it, and keep what it produced."""
    started = time.perf_counter()
    engine = ZeroEngine(config, world)
    checkpoints = CheckpointStore(
        config.directory / "checkpoints",
        keep=config.checkpoint.keep,
        config_hash=run_hash(config),
        world=world,
    )
    state = _first_state(config, engine, checkpoints)
    evaluator = Evaluator(engine, stores, config.evaluation, config.model, world)
    stream = _open_stream(config, world, stores)
    tracker = Tracker(config.directory, config.tracking, run_id=run_id, is_main=world.is_main)
    trainer = Trainer(
        config=config,
        world=world,
        engine=engine,
        stream=stream,
        tracker=tracker,
        checkpoints=checkpoints,
        console=console,
        evaluate=evaluator,
        train_flops_per_window=train_flops_per_window(architecture(config.model), recompute=False),
    )
    if world.is_main:
        text = json.dumps(engine.deepspeed_config, indent=2)
        (config.directory / DEEPSPEED_CONFIG).write_text(text, encoding="utf-8")
    console.start(_header(config, world), first_step=state.step)
    try:
        stop, state = trainer.fit(state)
    finally:
        stream.close()
        tracker.close()
    _raise_unless_finished(stop, state, config)
    if not evaluator.latest:  # ended between its last checkpoint and its result
        evaluator()
    seconds = time.perf_counter() - started
    return _keep(config, world, engine, evaluator.latest, seconds)


def _first_state(config: RunConfig, engine: ZeroEngine, checkpoints: CheckpointStore) -> TrainState:
    """Return where to start: at the newest checkpoint, at given weights, or at the seed."""
    state = checkpoints.restore(engine)
    if state is None and config.initialize_from is not None:
        engine.load_full_state_dict(read_weights(config.initialize_from).state)
    return state or TrainState()


def _open_stores(config: RunConfig) -> dict[str, DatasetStore]:
    """Open the datasets of the mixture; those of its suite are generated where missing."""
    if config.data.suite is not None:
        suite = load_suite(config.data.suite)
        generate_suite(suite, config.data.root, progress=print_line)
    return {name: open_store(config.data.root, name) for name in config.data.weights}


def _open_stream(
    config: RunConfig, world: World, stores: Mapping[str, DatasetStore]
) -> BatchStream:
    frames = config.model.history + config.objective.unroll * config.model.horizon
    return BatchStream(
        stores,
        Mixture(training_windows(stores, frames), config.data.weights, config.seed),
        batch=config.batch,
        frames=frames,
        grid=config.model.grid,
        channels=config.model.channels,
        rank=world.rank,
        world_size=world.world_size,
        device=world.device,
    )


def _header(config: RunConfig, world: World) -> str:
    """Return what a run is, in a few aligned lines."""
    arch = architecture(config.model)
    count = count_parameters(arch)
    batch = config.batch
    accumulation = batch.accumulation_steps(world.world_size)
    strategy = read_strategy(config.engine.deepspeed)
    memory = estimate_memory(
        arch,
        stage=strategy.stage,
        dtype=strategy.dtype,
        world_size=world.world_size,
        micro_batch=batch.micro_batch,
        recompute=config.engine.activation_checkpointing == "full",
        offload=strategy.offload,
    )
    return aligned(
        [
            ("run", f"{config.name}  in {config.directory}"),
            (
                "model",
                f"{count.total:,} parameters, {count.blocks:,} of them in blocks",
            ),
            (
                "batch",
                f"{batch.global_batch} windows = {batch.micro_batch} per rank x "
                f"{world.world_size} ranks x {accumulation} accumulated",
            ),
            ("length", f"{config.windows:,} windows = {config.steps:,} steps"),
            (
                "engine",
                f"{config.engine.deepspeed} on {world.world_size} x {world.device.type}, "
                f"activation checkpointing {config.engine.activation_checkpointing}",
            ),
            ("memory", memory.describe()),
            ("data", ", ".join(f"{n} x {w:g}" for n, w in config.data.weights.items())),
        ]
    )


def _raise_unless_finished(stop: StopReason, state: TrainState, config: RunConfig) -> None:
    if stop is StopReason.SIGNAL:
        raise TrainingStoppedError(
            f"run {config.name} was stopped at step {state.step} of {config.steps} and saved; "
            "start it again to continue"
        )
    if stop is StopReason.DIVERGED:
        raise TrainingDivergedError(
            f"run {config.name} diverged at step {state.step}: the loss or the gradient is not "
            "finite; lower optim.lr or set optim.gradient_clipping"
        )


def _keep(
    config: RunConfig,
    world: World,
    engine: ZeroEngine,
    evaluations: Mapping[str, DatasetEvaluation],
    seconds: float,
) -> TrainingResult:
    """Write weights, figures and, last, the result that marks the run as finished. Collective."""
    arch = architecture(config.model)
    count = count_parameters(arch)
    flops = config.windows * train_flops_per_window(arch, recompute=False)
    peak = peak_memory_gib(world)
    weights = engine.full_state_dict()
    losses = read_metrics(config.directory / SPOOL)
    result = TrainingResult(
        name=config.name,
        config_hash=run_hash(config),
        world_size=world.world_size,
        parameters=count.total,
        block_parameters=count.blocks,
        windows=config.windows,
        steps=config.steps,
        seconds=seconds,
        train_flops=flops,
        windows_per_second=median(losses["perf/windows_per_second"].values()),
        peak_memory_gib=peak,
        final_train_loss=losses["train/loss"][config.steps],
        evaluation={name: evaluation.score for name, evaluation in evaluations.items()},
    )
    if weights is not None:  # the main rank
        save_model(config.directory / WEIGHTS, arch, weights)
        save_figures(config.directory / FIGURES, evaluations)
        save_result(config.directory, result)
    return result


def _checked(finished: TrainingResult, config: RunConfig) -> TrainingResult:
    if finished.config_hash != run_hash(config):
        raise ConfigError(
            f"{config.directory} holds a finished run of another config ({finished.config_hash}, "
            f"this is {run_hash(config)}); choose another `name` or `output`"
        )
    return finished


def _artifacts(directory: Path) -> dict[Path, str]:
    """Return the files that reviewers want beside the curves, and their folder in MLflow."""
    artifacts = dict.fromkeys(sorted((directory / FIGURES).glob("*.png")), FIGURES)
    deepspeed_config = directory / DEEPSPEED_CONFIG
    return artifacts | ({deepspeed_config: ""} if deepspeed_config.exists() else {})


@exits_cleanly
def main(arguments: Sequence[str] | None = None) -> int:
    """Train what the command line says."""
    parser = argparse.ArgumentParser(
        prog="python -m dpot_scale.train",
        description="Train one DPOT with DeepSpeed ZeRO. Bare: the quickstart preset.",
    )
    add_config_arguments(parser, "run")
    parser.add_argument("--local_rank", help=argparse.SUPPRESS)  # the deepspeed launcher adds it
    options = parser.parse_args(arguments)
    config = load_run(options.config, options.overrides)
    if options.print_config:
        print_line(dump(config))
        return 0
    result = run_training(config)
    print_line(_summary(result, config))
    return 0


def _summary(result: TrainingResult, config: RunConfig) -> str:
    """Return the held-out scores as a table, and where everything is."""
    width = max(len(name) for name in result.evaluation)
    lines = [f"{'held-out rel_l2':<{width}}  rollout (persistence)  one step (persistence)"]
    lines += [
        f"{name:<{width}}  {score.rel_l2:7.4f} ({score.persistence_rel_l2:.4f})       "
        f"{score.one_step_rel_l2:8.4f} ({score.persistence_one_step_rel_l2:.4f})"
        for name, score in result.evaluation.items()
    ]
    lines.append(f"weights, figures and metrics: {config.directory}")
    if config.tracking.mlflow_uri:
        lines.append(f"curves: mlflow ui --backend-store-uri {config.tracking.mlflow_uri}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
