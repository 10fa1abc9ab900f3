"""Run by test_zero.py in two processes: trains one tiny DPOT in many ways and saves the results.

Usage: python zero_ranks.py OUTPUT_DIRECTORY, with RANK, WORLD_SIZE and so on in the environment.
"""

import json
import sys
from pathlib import Path

import torch
from torch import distributed as dist

from dpot_scale.checkpoints.checkpoint import TrainState
from dpot_scale.checkpoints.shards import foreign_names, masters
from dpot_scale.checkpoints.store import CheckpointStore
from dpot_scale.config.data import DataConfig
from dpot_scale.config.model import ModelConfig
from dpot_scale.config.run import (
    BatchConfig,
    CheckpointConfig,
    EngineConfig,
    Length,
    OptimConfig,
    RunConfig,
)
from dpot_scale.engine.buffers import deepspeed_sizes, fit_buffers
from dpot_scale.engine.collectives import raise_on_all
from dpot_scale.engine.engine import Engine
from dpot_scale.engine.oracle import OracleEngine
from dpot_scale.engine.runtime import World, any_rank, any_ranks, start_world
from dpot_scale.engine.strategy import FOLDER
from dpot_scale.engine.zero import ZeroEngine
from dpot_scale.errors import ConfigError, DataError, UserError
from dpot_scale.models.dpot.network import DPOT
from dpot_scale.models.dpot.sizes import architecture
from dpot_scale.runs import inputs
from dpot_scale.runs.inputs import require_agreement_of_ranks
from dpot_scale.training.schedule import Schedule

# Ways to recompute activations, beside `full` by torch.
RECOMPUTE = {
    "every_k": {"activation_checkpointing": "every_k"},
    "selective": {"activation_checkpointing": "selective"},
    "fairscale": {
        "activation_checkpointing": "full",
        "recompute_backend": "fairscale",
        "recompute_offload": True,
    },
}
# The bucket sizes of a GPU, at a stage.
GPU_SIZES = {f"zero{stage}_gpu_sizes": stage for stage in (1, 2, 3)}
# Compiled: at a stage, with full activation checkpointing or without.
COMPILED = (
    ("zero2_compiled", "zero2", True),
    ("zero3_compiled", "zero3", False),
    ("zero3_compiled_recomputed", "zero3", True),
)
STEPS = 5
BF16 = (
    "zero3_fp32",
    "zero1_bf16",
    "zero2_bf16",
    "zero3_bf16",
    "zero3_bf16_lean",
    "zero3_bf16_offload",
)
PEAK_STEP = 1  # of the learning rate
GLOBAL_BATCH = 4
# Odd sizes on purpose: shards of 2 ranks need padding. No normalisation: clipping must bite.
MODEL = ModelConfig(
    width=24, depth=2, heads=3, out_layer_dim=5, grid=16, patch=4, channels=2, history=3, modes=3
)
OPTIM = OptimConfig(
    lr=3e-3,
    betas=(0.9, 0.95),
    weight_decay=1e-2,
    gradient_clipping=0.05,
    schedule="one_cycle",
    warmup=Length(share=0.4),
    cycle_momentum=True,
)
SCHEDULE = Schedule(OPTIM, windows=STEPS * GLOBAL_BATCH, global_batch=GLOBAL_BATCH)


def config(
    deepspeed: str,
    *,
    micro_batch: int = 2,
    recompute: bool = False,
    seed: int = 0,
    spectral_dtype: str = "bfloat16",
    compiled: bool = False,
    **engine: object,
):
    return RunConfig(
        name="test",
        seed=seed,
        windows=GLOBAL_BATCH * STEPS,
        model=MODEL,
        data=DataConfig(weights={"unused": 1}),
        optim=OPTIM,
        batch=BatchConfig(global_batch=GLOBAL_BATCH, micro_batch=micro_batch),
        engine=EngineConfig.model_validate(
            {
                "deepspeed": deepspeed,
                "activation_checkpointing": "full" if recompute else "none",
                "spectral_dtype": spectral_dtype,
                "compile": compiled,
                **engine,
            }
        ),
    )


def windows(step: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(step)
    shape = (GLOBAL_BATCH, MODEL.history + 2, MODEL.channels, MODEL.grid, MODEL.grid)
    constant = torch.randn((*shape[:1], 1, *shape[2:3], 1, 1), generator=generator)
    return constant + 0.3 * torch.randn(shape, generator=generator)


def loss_of(model, windows_BTCs: torch.Tensor, unroll: int) -> torch.Tensor:
    """Mean squared error of an unrolled forecast, plus the logits so that every weight is used."""
    history, targets = windows_BTCs[:, : MODEL.history], windows_BTCs[:, MODEL.history :]
    loss = torch.zeros(())
    for index in range(unroll):
        output = model(history)
        loss = loss + (output.frames[:, 0] - targets[:, index]).square().mean()
        loss = loss + output.logits.square().mean()
        history = torch.cat([history[:, 1:], output.frames], dim=1)
    return loss


def train_plain(unroll: int = 1) -> dict:
    """Train with nothing but torch in this process."""
    torch.manual_seed(0)
    model = DPOT(architecture(MODEL))
    optimizer = torch.optim.Adam(
        model.parameters(), eps=OPTIM.eps, weight_decay=OPTIM.weight_decay, foreach=False
    )
    result = {"initial": {k: v.clone() for k, v in model.state_dict().items()}}
    losses, norms = [], []
    for step in range(STEPS):
        rates = SCHEDULE.at(step)
        optimizer.param_groups[0].update(lr=rates.lr, betas=rates.betas)
        optimizer.zero_grad()
        loss = loss_of(model, windows(step), unroll)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIM.gradient_clipping)
        norms.append(norm.item())
        optimizer.step()
        losses.append(loss.item())
    return {**result, "losses": losses, "norms": norms, "weights": model.state_dict()}


def whole_weights(engine: Engine) -> dict[str, torch.Tensor]:
    """The fp32 masters, each whole. Collective."""
    return {name: parameter.clone() for name, parameter in engine.full_parameters()}


def train(engine, world: World, *, steps=range(STEPS), unroll: int = 1) -> dict:
    """Train an engine; the ranks and micro-batches split each global batch."""
    losses, norms = [], []
    micro_batch = engine.config.batch.micro_batch
    for step in steps:
        global_loss = torch.zeros(())
        micro_batches = windows(step).split(micro_batch)
        for batch in micro_batches[world.rank :: world.world_size]:
            loss = loss_of(engine, batch, unroll)
            engine.backward(loss)
            global_loss += loss.detach() / len(micro_batches)
        norms.append(engine.step(SCHEDULE.at(step)).grad_norm.item())
        dist.all_reduce(global_loss)
        losses.append(global_loss.item())
    return {"losses": losses, "norms": norms}


def train_afresh(make, run: RunConfig, world: World, **options) -> dict:
    engine = make(run, world)
    initial = whole_weights(engine)
    return {
        "initial": initial,
        **train(engine, world, **options),
        "weights": whole_weights(engine),
    }


def resume(world: World, deepspeed: str, folder: Path) -> dict:
    """Save after three steps, continue; load into a fresh engine, continue again."""
    engine = ZeroEngine(config(deepspeed), world)
    store = CheckpointStore(folder, config=CheckpointConfig(), config_hash="hash", world=world)
    train(engine, world, steps=range(3))
    store.save(engine, TrainState(step=3, windows_seen=3 * GLOBAL_BATCH))
    straight = train(engine, world, steps=range(3, STEPS))
    straight["weights"] = whole_weights(engine)
    resumed_engine = ZeroEngine(config(deepspeed, seed=1), world)
    state = store.restore(resumed_engine)
    resumed = train(resumed_engine, world, steps=range(3, STEPS))
    resumed["weights"] = whole_weights(resumed_engine)
    return {"straight": straight, "resumed": resumed, "state": state}


def exported(world: World, deepspeed: str, folder: Path) -> dict:
    """Save a trained engine and put its shards together again, as one process does."""
    engine = ZeroEngine(config(deepspeed), world)
    train(engine, world, steps=range(2))
    if world.is_main:
        folder.mkdir()
    dist.barrier()
    engine.save_shards(folder)
    return {
        "whole": whole_weights(engine),
        "together": {name: master.read() for name, master in masters(folder).items()},
        "foreign": [name for file in folder.rglob("*.pt") for name in foreign_names(file)],
    }


def disagreement(world: World, output: Path, **inputs: str) -> str:
    """Return what is said of ranks that do not share a folder, or have other inputs."""
    run = config("zero3_fp32").model_copy(update={"output": output})
    try:
        require_agreement_of_ranks(run, inputs, world)
    except UserError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def agreement(world: World, output: Path) -> dict[str, str]:
    inputs.PATIENCE_SECONDS = 1
    return {
        "same": disagreement(world, output / "shared", a="1"),
        "unshared": disagreement(world, output / str(world.rank)),
        "other data": disagreement(world, output, **{"dataset a": str(world.rank)}),
        "no data": disagreement(world, output, **({"dataset a": "1"} if world.rank else {})),
    }


def initialize_from(world: World, deepspeed: str, weights: dict) -> dict:
    """Load whole weights into an engine that was drawn from another seed."""
    engine = ZeroEngine(config(deepspeed, seed=1), world)
    before = whole_weights(engine)
    engine.load_parameters(weights)
    engine.eval()
    with torch.no_grad():
        frames = engine(windows(0)[:, : MODEL.history]).frames
    loaded = whole_weights(engine)
    trained = train(engine, world)
    return {"before": before, "loaded": loaded, "frames": frames, **trained}


def partition(world: World) -> dict:
    """Count what a rank holds of the parameters under stage 3."""
    engine = ZeroEngine(config("zero3_fp32"), world)
    train(engine, world, steps=range(2))
    parameters = list(engine._engine.module.parameters())
    return {
        "whole": sum(p.ds_numel for p in parameters),
        "held": sum(p.numel() for p in parameters),
        "shard": sum(p.ds_tensor.numel() for p in parameters),
    }


def fall(world: World, deepspeed: str, **options) -> dict:
    """Train on one batch."""
    engine = ZeroEngine(config(deepspeed, **options), world)
    initial = whole_weights(engine)
    losses = [train(engine, world, steps=[PEAK_STEP])["losses"][0] for _ in range(15)]
    return {"initial": initial, "losses": losses, "dtype": engine.compute_dtype}


class Spoil(torch.autograd.Function):
    """Hands on what it gets, and backwards a gradient with one value that is not finite."""

    @staticmethod
    def forward(ctx, frames: torch.Tensor, value: float) -> torch.Tensor:
        ctx.value = value
        return frames.clone()

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        spoiled = gradient.clone()
        spoiled.view(-1)[0] = ctx.value
        return spoiled, None


def spoiled_loss(engine: ZeroEngine, batch: torch.Tensor, how: str) -> torch.Tensor:
    """The loss of a batch, where it or its gradient alone is not finite."""
    if how == "infinite loss":  # as the norm of a forecast that overflows: its gradient is zero
        return loss_of(engine, batch, unroll=1) * 0 + float("inf")

    def model(history: torch.Tensor):
        output = engine(history)
        return output._replace(frames=Spoil.apply(output.frames, float(how)))

    return loss_of(model, batch, unroll=1)


def state_of(engine: ZeroEngine) -> list[torch.Tensor]:
    """All that this rank keeps from step to step, byte by byte."""
    parameters = engine._engine.module.parameters()
    state = [getattr(parameter, "ds_tensor", parameter) for parameter in parameters]
    for master, of_one in engine._engine.basic_optimizer.state.items():
        state += [master, *of_one.values()]
    return [tensor.detach().clone().view(-1).view(torch.uint8) for tensor in state]


def skip(world: World, deepspeed: str) -> dict:
    """Train, and once more with steps between that one micro-batch of one rank spoils."""
    run = config(deepspeed, micro_batch=1)
    straight = train_afresh(ZeroEngine, run, world)
    engine = ZeroEngine(run, world)
    losses, applied, changed = [], [], False
    for step, how in enumerate(["infinite loss", "nan", "inf", "-inf", ""]):
        before = state_of(engine)
        if how:
            batches = windows(step).split(1)[world.rank :: world.world_size]
            for index, batch in enumerate(batches):
                spoils = world.rank == 1 and index == 0
                loss = spoiled_loss(engine, batch, how) if spoils else loss_of(engine, batch, 1)
                engine.backward(loss)
            applied.append(engine.step(SCHEDULE.at(step)).applied.item())
            # Moments may be made in the first one, behind what there was.
            changed |= not all(map(torch.equal, before, state_of(engine)))
        losses += train(engine, world, steps=[step])["losses"]
    return {
        "straight": straight,
        "losses": losses,
        "weights": whole_weights(engine),
        "applied": applied,
        "changed": any_rank(changed, world),
    }


def refusal(world: World) -> str:
    """Return what is said where state should go to disk and the machine has no library for it."""
    try:
        ZeroEngine(config("zero3_bf16_nvme", nvme_path="/tmp"), world)
    except ConfigError as error:
        return str(error)
    return ""


def write_strategies(output: Path) -> None:
    """Write what deepspeed_configs/ lacks, because it is only of interest here."""
    zero: dict[str, dict] = {f"zero{stage}_fp32": {"stage": stage} for stage in (1, 2)}
    on_gpu = fit_buffers(architecture(MODEL), on_gpu=True)
    for name, stage in GPU_SIZES.items():
        zero[name] = {"stage": stage, **deepspeed_sizes(on_gpu, stage)}
    strategies = {
        name: {"zero_optimization": section, "communication_data_type": "fp32"}
        for name, section in zero.items()
    }
    offload = json.loads((FOLDER / "zero3_bf16_offload.json").read_text())
    strategies["offload"] = offload | {"bf16": {}}
    zero2 = json.loads((FOLDER / "zero2_bf16.json").read_text())
    zero2["zero_optimization"]["offload_optimizer"] = {"device": "cpu"}
    strategies["zero2_offload"] = zero2
    for name, strategy in strategies.items():
        (output / f"{name}.json").write_text(json.dumps(strategy))


def error_of_one_rank(world: World) -> tuple[str, str]:
    """Return what every rank raises where one has an error, the kind and the sentence."""
    raise_on_all(None, world)
    try:
        raise_on_all(DataError("a bad shard") if world.rank == 1 else None, world)
    except DataError as error:
        return type(error).__name__, str(error)
    raise AssertionError("nothing was raised")


def main(output: Path) -> None:
    world = start_world()
    if world.is_main:
        write_strategies(output)
    dist.barrier()
    fp32 = {
        "zero0": "zero0_fp32",
        "zero1": str(output / "zero1_fp32.json"),
        "zero2": str(output / "zero2_fp32.json"),
        "zero3": "zero3_fp32",
    }
    results = {"plain": train_plain(), "plain_unrolled": train_plain(unroll=2)}
    for name, deepspeed in fp32.items():
        results[name] = train_afresh(ZeroEngine, config(deepspeed), world)
        results[f"{name}_accumulated"] = train_afresh(
            ZeroEngine, config(deepspeed, micro_batch=1), world
        )
        results[f"{name}_resume"] = resume(world, deepspeed, output / name)
        results[f"{name}_initialize_from"] = initialize_from(
            world, deepspeed, results["plain"]["weights"]
        )
    for name in GPU_SIZES:
        results[name] = train_afresh(ZeroEngine, config(str(output / f"{name}.json")), world)
    recomputed = config("zero3_fp32", recompute=True)
    results["zero3_recomputed"] = train_afresh(ZeroEngine, recomputed, world)
    results["zero3_recomputed_unrolled"] = train_afresh(ZeroEngine, recomputed, world, unroll=2)
    for name, options in RECOMPUTE.items():
        results[f"zero3_{name}"] = train_afresh(ZeroEngine, config("zero3_fp32", **options), world)
    offloaded = output / "offload.json"
    results["zero3_offloaded"] = train_afresh(ZeroEngine, config(str(offloaded)), world)
    results["nvme"] = refusal(world)
    results["zero3_unrolled"] = train_afresh(ZeroEngine, config("zero3_fp32"), world, unroll=2)
    for name, stage, recompute in COMPILED:
        results[name] = train_afresh(
            ZeroEngine, config(fp32[stage], recompute=recompute, compiled=True), world
        )
    results["oracle"] = train_afresh(OracleEngine, config("zero0_fp32"), world)
    results["oracle_accumulated"] = train_afresh(
        OracleEngine, config("zero0_fp32", micro_batch=1), world
    )
    for name in BF16:
        results[name] = fall(world, name)
    written = {name: str(output / f"{name}.json") for name in ("zero2_offload", *GPU_SIZES)}
    for name, deepspeed in (fp32 | {name: name for name in BF16} | written).items():
        results[f"{name}_skip"] = skip(world, deepspeed)
    results["zero3_bf16_spectral_fp32"] = fall(world, "zero3_bf16", spectral_dtype="float32")
    results |= {
        f"{name}_exported": exported(world, fp32.get(name, name), output / f"of_{name}")
        for name in (*fp32, *BF16)
    }
    results["agreement"] = agreement(world, output)
    results["partition"] = partition(world)
    results["votes"] = [
        any_rank(False, world),
        any_rank(world.rank == 1, world),
        any_rank(True, world),
    ]
    results["many_votes"] = any_ranks([world.rank == 0, False, world.rank == 1], world)
    results["error"] = error_of_one_rank(world)
    torch.save(results, output / f"results_{world.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
