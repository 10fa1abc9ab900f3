"""What test_zero.py asks of two ranks: one tiny model is trained, saved and loaded in many ways.

`CASES` names every way; each is a function of the world and an empty folder that the ranks share.
"""

import json
import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist

from dpot_scale.checkpoints.checkpoint import TrainState
from dpot_scale.checkpoints.deepspeed_files import foreign_names
from dpot_scale.checkpoints.shards import masters, shard_file, write_shard
from dpot_scale.checkpoints.store import CheckpointStore
from dpot_scale.checkpoints.weights_file import save_model
from dpot_scale.config.batch import BatchConfig
from dpot_scale.config.data import DataConfig
from dpot_scale.config.model import ModelConfig
from dpot_scale.config.optim import Length, OptimConfig
from dpot_scale.config.run import CheckpointConfig, EngineConfig, RunConfig
from dpot_scale.config.start import StartConfig
from dpot_scale.config.strategy import FOLDER, Strategy, read_strategy
from dpot_scale.engine.buffers import deepspeed_sizes, fit_buffers
from dpot_scale.engine.engine import Engine
from dpot_scale.engine.fairscale import FairscaleEngine
from dpot_scale.engine.runtime import World, any_rank
from dpot_scale.engine.start import start_engine
from dpot_scale.models.dpot.config import DPOTConfig
from dpot_scale.models.families import family_of
from dpot_scale.models.family import KEEP_ALL
from dpot_scale.models.fno.config import FNOConfig
from dpot_scale.models.vit.config import ViTConfig
from dpot_scale.runs.start import first_state
from dpot_scale.training.schedule import Schedule

STEPS = 5
PEAK_STEP = 1  # of the learning rate
GLOBAL_BATCH = 4
Result = dict[str, Any]
# Odd sizes on purpose: shards of 2 ranks need padding. No normalisation: clipping must bite.
MODEL = DPOTConfig(
    width=24, depth=2, heads=3, out_layer_dim=5, grid=16, patch=4, channels=2, history=3, modes=3
)
# Whose last layer starts at zero, and whose second forward depends on the statistics of the first.
RESIDUAL = MODEL.model_copy(update={"target": "residual", "normalize": True})
# Models of the other families, for the same frames.
SHAPE = {"grid": 16, "channels": 2, "history": 3, "depth": 2, "target": "residual"}
FAMILIES: dict[str, ModelConfig] = {
    "vit": ViTConfig.model_validate(
        {**SHAPE, "width": 24, "heads": 3, "patch": 4, "time_tokens": 3}
    ),
    "fno": FNOConfig.model_validate({**SHAPE, "width": 6, "modes": 3}),
}
# The same, without a last layer of zeros: their blocks learn from the first step on.
OF_FRAMES = {name: model.model_copy(update={"target": "frame"}) for name, model in FAMILIES.items()}
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


# A model of which one part is frozen and another one slow, and the same by names of parameters.
PARTS = {"components": {"blocks": "freeze", "patch_embed": {"lr": 0.25}}}


def factor_in_parts(name: str) -> float:
    return {"blocks": 0.0, "patch_embed": 0.25}.get(name.split(".")[0], 1.0)


# Pairs beside the blocks train, and one component that is named.
ADAPTER = {"adapter": {"rank": 2}, "components": {"output": {"lr": 0.5}}}


def factor_with_adapter(name: str) -> float:
    of_output = name.startswith(("out_layer.", "norm.", "output."))
    return 1.0 if ".adapters." in name else 0.5 * of_output


FAIRSCALE = "fairscale"  # stands for the other engine, among the names of strategies


def config(
    deepspeed: str,
    *,
    model: ModelConfig = MODEL,
    optim: OptimConfig = OPTIM,
    micro_batch: int = 2,
    seed: int = 0,
    start: dict[str, Any] | None = None,
    **engine: object,
) -> RunConfig:
    """The config of a run; `engine` are other keys of its section."""
    if deepspeed == FAIRSCALE:
        deepspeed, engine = "zero0_fp32", {"kind": "fairscale", **engine}
    return RunConfig(
        name="test",
        seed=seed,
        windows=GLOBAL_BATCH * STEPS,
        model=model,
        data=DataConfig(weights={"unused": 1}),
        optim=optim,
        batch=BatchConfig(global_batch=GLOBAL_BATCH, micro_batch=micro_batch),
        engine=EngineConfig.model_validate({"deepspeed": strategy(deepspeed), **engine}),
        start=StartConfig.model_validate({"source": "given", **(start or {})}),
    )


@cache
def strategy(name: str) -> Strategy:
    """One of deepspeed_configs/, or what is not there as it is of interest here."""
    if (FOLDER / f"{name}.json").exists():
        return read_strategy(name)
    return read_strategy(f"{own_strategies().name}/{name}.json")


@cache
def own_strategies() -> tempfile.TemporaryDirectory[str]:
    """Write the strategies that deepspeed_configs/ lacks; they go when this process ends."""
    zero: dict[str, dict[str, Any]] = {f"zero{stage}_fp32": {"stage": stage} for stage in (1, 2)}
    footprint = family_of(MODEL).footprint(MODEL, KEEP_ALL, "bf16", "float32")
    on_gpu = fit_buffers(footprint, on_gpu=True)
    for stage in (1, 2, 3):
        zero[f"zero{stage}_gpu_sizes"] = {"stage": stage, **deepspeed_sizes(on_gpu, stage)}
    strategies = {
        name: {"zero_optimization": section, "communication_data_type": "fp32"}
        for name, section in zero.items()
    }
    offload = json.loads((FOLDER / "zero3_bf16_offload.json").read_text())
    strategies["zero3_fp32_offload"] = offload | {"bf16": {}}
    zero2 = json.loads((FOLDER / "zero2_bf16.json").read_text())
    zero2["zero_optimization"]["offload_optimizer"] = {"device": "cpu"}
    strategies["zero2_bf16_offload"] = zero2
    folder = tempfile.TemporaryDirectory()
    for name, content in strategies.items():
        (Path(folder.name) / f"{name}.json").write_text(json.dumps(content))
    return folder


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
        if output.logits is not None:
            loss = loss + output.logits.square().mean()
        history = torch.cat([history[:, 1:], output.frames], dim=1)
    return loss


@cache
def train_plain(
    unroll: int = 1,
    described: ModelConfig = MODEL,
    factor_of: Callable[[str], float] = lambda _: 1.0,
    rank: int = 0,
) -> Result:
    """Train with nothing but torch in this process; each parameter at a factor of the rates."""
    torch.manual_seed(0)
    model = family_of(described).network(described, KEEP_ALL, "float32")
    if rank:
        model.adapt(rank)
    factors = [factor_of(name) for name, _ in model.named_parameters()]
    groups: dict[float, list[torch.nn.Parameter]] = {}
    for parameter, factor in zip(model.parameters(), factors, strict=True):
        groups.setdefault(factor, []).append(parameter.requires_grad_(factor > 0))
    optimizer = torch.optim.Adam(
        [{"params": params, "factor": factor} for factor, params in groups.items() if factor],
        eps=OPTIM.eps,
        weight_decay=OPTIM.weight_decay,
        foreach=False,
    )
    result = {"initial": {k: v.clone() for k, v in model.state_dict().items()}}
    losses, norms = [], []
    for step in range(STEPS):
        rates = SCHEDULE.at(step)
        for group in optimizer.param_groups:
            group.update(lr=group["factor"] * rates.lr, betas=rates.betas)
        optimizer.zero_grad()
        loss = loss_of(model, windows(step), unroll)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIM.gradient_clipping)
        norms.append(norm.item())
        optimizer.step()
        losses.append(loss.item())
    return {**result, "losses": losses, "norms": norms, "weights": model.state_dict()}


def plain(unroll: int, described: ModelConfig, *_: object, **options) -> Result:
    return train_plain(unroll, described, **options)


def whole_weights(engine: Engine) -> dict[str, torch.Tensor]:
    """The fp32 masters, each whole. Collective."""
    return {name: parameter.clone() for name, parameter in engine.full_parameters()}


def train(engine, world: World, *, steps=range(STEPS), unroll: int = 1) -> Result:
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


def train_afresh(
    world: World, folder: Path, deepspeed: str, *, unroll: int = 1, **options
) -> Result:
    engine = start_engine(config(deepspeed, **options), world)
    initial = whole_weights(engine)
    trained = train(engine, world, unroll=unroll)
    return {"initial": initial, **trained, "weights": whole_weights(engine)}


def fresh(world: World, folder: Path, deepspeed: str) -> Result:
    """Forecast with the first weights of a residual model."""
    engine = start_engine(config(deepspeed, model=RESIDUAL), world)
    history = 300 + windows(0)[:, : MODEL.history]
    with torch.no_grad():
        return {"frames": engine(history).frames, "last": history[:, -1:]}


def resume(world: World, folder: Path, deepspeed: str, **options) -> Result:
    """Save after three steps, continue; load into a fresh engine, continue again."""
    engine = start_engine(config(deepspeed, **options), world)
    store = CheckpointStore(folder, config=CheckpointConfig(), identity="hash", world=world)
    train(engine, world, steps=range(3))
    store.save(engine, TrainState(step=3))
    straight = train(engine, world, steps=range(3, STEPS))
    straight["weights"] = whole_weights(engine)
    resumed_engine = start_engine(config(deepspeed, seed=1, **options), world)
    state = store.restore(resumed_engine)
    resumed = train(resumed_engine, world, steps=range(3, STEPS))
    resumed["weights"] = whole_weights(resumed_engine)
    return {"straight": straight, "resumed": resumed, "state": state}


def exported(world: World, folder: Path, deepspeed: str, **options) -> Result:
    """Save a trained engine and put its shards together again, as one process does."""
    engine = start_engine(config(deepspeed, **options), world)
    train(engine, world, steps=range(2))
    snapshot = engine.snapshot()
    assert snapshot is not None
    path = folder / "ours" / shard_file(world.rank)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_shard(path, snapshot)
    dist.barrier()
    found = {"whole": whole_weights(engine), "together": read_masters(folder / "ours")}
    if isinstance(engine, FairscaleEngine):
        return found
    # As earlier versions saved.
    engine.save_shards(folder / "older")
    dist.barrier()
    names = [name for file in folder.rglob("*.pt") for name in foreign_names(file)]
    return {**found, "older": read_masters(folder / "older"), "foreign": names}


def read_masters(folder: Path) -> dict[str, torch.Tensor]:
    return {name: master.read() for name, master in masters(folder).items()}


def initialize_from(world: World, folder: Path, deepspeed: str, **options) -> Result:
    """Load the weights that plain torch has trained into an engine drawn from another seed."""
    weights = train_plain()["weights"]
    engine = start_engine(config(deepspeed, seed=1, **options), world)
    before = whole_weights(engine)
    engine.load_parameters(weights)
    engine.eval()
    with torch.no_grad():
        frames = engine(windows(0)[:, : MODEL.history]).frames
    loaded = whole_weights(engine)
    trained = train(engine, world)
    return {"before": before, "loaded": loaded, "frames": frames, **trained}


def adapted(world: World, folder: Path, deepspeed: str) -> Result:
    """Start a model of another shape, of which a part is drawn, from the weights of plain torch."""
    source = folder / "model.safetensors"
    if world.is_main:
        save_model(source, MODEL, train_plain()["weights"])
    dist.barrier()
    trains = {"patch_embed": {"lr": 1}, "output": {"lr": 1}}
    start = {"source": source, "absent": "draw", "components": trains, "adapter": {"rank": 2}}
    model = MODEL.model_copy(update={"history": 5, "channels": 3, "grid": 24})
    engine = start_engine(config(deepspeed, model=model, seed=1, start=start), world)
    fresh = whole_weights(engine)
    store = CheckpointStore(
        folder / "checkpoints", config=CheckpointConfig(), identity="hash", world=world
    )
    begun = first_state(engine.config, engine, store)
    return {"fresh": fresh, "weights": whole_weights(engine), "table": begun.table}


def partition(world: World, folder: Path) -> Result:
    """Count what a rank holds of the parameters under stage 3."""
    engine = start_engine(config("zero3_fp32"), world)
    train(engine, world, steps=range(2))
    parameters = list(engine._engine.module.parameters())
    return {
        "whole": sum(p.ds_numel for p in parameters),
        "held": sum(p.numel() for p in parameters),
        "shard": sum(p.ds_tensor.numel() for p in parameters),
    }


def fall(world: World, folder: Path, deepspeed: str, **options) -> Result:
    """Train on one batch."""
    engine = start_engine(config(deepspeed, **options), world)
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


def spoiled_loss(engine: Engine, batch: torch.Tensor, how: str) -> torch.Tensor:
    """The loss of a batch, where it or its gradient alone is not finite."""
    if how == "infinite loss":  # as the norm of a forecast that overflows: its gradient is zero
        return loss_of(engine, batch, unroll=1) * 0 + float("inf")

    def model(history: torch.Tensor):
        output = engine(history)
        return output._replace(frames=Spoil.apply(output.frames, float(how)))

    return loss_of(model, batch, unroll=1)


def state_of(engine: Engine) -> list[torch.Tensor]:
    """All that this rank keeps from step to step, byte by byte."""
    if isinstance(engine, FairscaleEngine):
        parameters, optimizer = engine._model.parameters(), engine._optimizer.optim
    else:
        parameters = engine._engine.module.parameters()
        optimizer = engine._engine.basic_optimizer
    state = [getattr(parameter, "ds_tensor", parameter) for parameter in parameters]
    for master, of_one in optimizer.state.items():
        state += [master, *of_one.values()]
    return [tensor.detach().clone().view(-1).view(torch.uint8) for tensor in state]


def skip(world: World, folder: Path, deepspeed: str, **options) -> Result:
    """Train, and once more with steps between that one micro-batch of one rank spoils."""
    straight = train_afresh(world, folder, deepspeed, micro_batch=1, **options)
    engine = start_engine(config(deepspeed, micro_batch=1, **options), world)
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


FP32 = {f"zero{stage}": f"zero{stage}_fp32" for stage in range(4)} | {FAIRSCALE: FAIRSCALE}
GPU_SIZES = [f"zero{stage}_gpu_sizes" for stage in (1, 2, 3)]
BF16 = ["zero1_bf16", "zero2_bf16", "zero3_bf16", "zero3_bf16_lean", "zero3_bf16_offload"]
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
FULL = {"activation_checkpointing": "full"}
STAGE_3 = partial(train_afresh, deepspeed="zero3_fp32")

CASES: dict[str, Callable[[World, Path], Any]] = {
    "plain": lambda *_: train_plain(),
    "plain_unrolled": lambda *_: train_plain(unroll=2),
    **{name: partial(train_afresh, deepspeed=json) for name, json in FP32.items()},
    **{name: partial(train_afresh, deepspeed=name) for name in GPU_SIZES},
    **{
        f"{name}_accumulated": partial(train_afresh, deepspeed=json, micro_batch=1)
        for name, json in FP32.items()
    },
    **{f"{name}_resume": partial(resume, deepspeed=json) for name, json in FP32.items()},
    **{f"{name}_started": partial(initialize_from, deepspeed=json) for name, json in FP32.items()},
    "zero3_recomputed": partial(STAGE_3, **FULL),
    "zero3_recomputed_unrolled": partial(STAGE_3, unroll=2, **FULL),
    **{f"zero3_{name}": partial(STAGE_3, **options) for name, options in RECOMPUTE.items()},
    "zero3_unrolled": partial(STAGE_3, unroll=2),
    "zero3_offloaded": partial(train_afresh, deepspeed="zero3_fp32_offload"),
    "zero2_compiled": partial(train_afresh, deepspeed="zero2_fp32", compile=True, **FULL),
    "zero3_compiled": partial(STAGE_3, compile=True),
    "zero3_compiled_recomputed": partial(STAGE_3, compile=True, **FULL),
    "fairscale_recomputed": partial(train_afresh, deepspeed=FAIRSCALE, **FULL),
    "fairscale_unrolled": partial(train_afresh, deepspeed=FAIRSCALE, unroll=2),
    **{name: partial(fall, deepspeed=name) for name in ("zero3_fp32", *BF16)},
    "zero3_bf16_spectral_fp32": partial(fall, deepspeed="zero3_bf16", spectral_dtype="float32"),
    **{
        f"{name}_skip": partial(skip, deepspeed=FP32.get(name, name))
        for name in (*FP32, *GPU_SIZES, *BF16, "zero2_bf16_offload")
    },
    **{
        f"{name}_exported": partial(exported, deepspeed=FP32.get(name, name))
        for name in (*FP32, *BF16)
    },
    "plain_residual": lambda *_: train_plain(unroll=2, described=RESIDUAL),
    **{
        f"{name}_residual": partial(train_afresh, deepspeed=json, model=RESIDUAL, unroll=2, **FULL)
        for name, json in FP32.items()
    },
    **{f"{name}_fresh": partial(fresh, deepspeed=name) for name in BF16},
    "plain_parts": lambda *_: train_plain(factor_of=factor_in_parts),
    "plain_adapter": lambda *_: train_plain(factor_of=factor_with_adapter, rank=2),
    "zero3_adapter_compiled": partial(STAGE_3, start=ADAPTER, compile=True, **FULL),
    "zero2_adapter_compiled": partial(
        train_afresh, deepspeed="zero2_fp32", start=ADAPTER, compile=True, **FULL
    ),
    **{
        f"zero3_adapter_{way}": partial(STAGE_3, start=ADAPTER, **options)
        for way, options in {**RECOMPUTE, "full": FULL}.items()
    },
    **{
        f"{name}_{kind}_{what}": partial(case, deepspeed=FP32.get(name, name), start=start)
        for kind, start in (("parts", PARTS), ("adapter", ADAPTER))
        for name in (*FP32, *BF16)
        for what, case in (
            ("trained", train_afresh),
            ("resume", resume),
            ("exported", exported),
            ("started", initialize_from),
        )
    },
    **{
        f"plain_{name}{suffix}": partial(plain, unroll, model)
        for name, model in FAMILIES.items()
        for unroll, suffix in ((2, ""), (1, "_once"))
    },
    **{
        f"{stage}_{name}": partial(train_afresh, deepspeed=json, model=model, unroll=2, **FULL)
        for stage, json in FP32.items()
        for name, model in FAMILIES.items()
    },
    **{
        f"zero3_{name}_compiled": partial(STAGE_3, model=model, compile=True)
        for name, model in FAMILIES.items()
    },
    **{
        f"zero3_{name}_{what}": partial(case, deepspeed="zero3_fp32", model=model)
        for name, model in FAMILIES.items()
        for what, case in (("resume", resume), ("exported", exported))
    },
    **{
        f"plain_{name}_adapter": partial(plain, 2, model, factor_of=factor_with_adapter, rank=2)
        for name, model in FAMILIES.items()
    },
    **{
        f"{stage}_{name}_adapter": partial(
            train_afresh, deepspeed=FP32[stage], model=model, unroll=2, start=ADAPTER, **FULL
        )
        for stage in ("zero1", "zero3")
        for name, model in FAMILIES.items()
    },
    **{
        f"zero3_bf16_{name}": partial(fall, deepspeed="zero3_bf16", model=model)
        for name, model in OF_FRAMES.items()
    },
    **{f"{name}_adapted": partial(adapted, deepspeed=json) for name, json in FP32.items()},
    "partition": partition,
}


def run_case(world: World, name: str, folder: str) -> Any:
    return CASES[name](world, Path(folder))
