"""Trains a tiny model for ten steps by DeepSpeed ZeRO-3 and by FairScale, and compares the losses.

The two share no code, so a machine on which they agree computes as it should.
"""

import importlib.util

import torch

from dpot_scale.config.load import load_run
from dpot_scale.config.run import RunConfig
from dpot_scale.diagnosis.finding import Finding
from dpot_scale.engine.engine import Rates
from dpot_scale.engine.runtime import World
from dpot_scale.engine.start import start_engine

STEPS = 10
TOLERANCE = 1e-5  # relative, in fp32
GRID, CHANNELS, HISTORY, MICRO_BATCH = 16, 2, 4, 2
TINY = (
    f"model={{size: debug, width: 32, depth: 2, heads: 2, out_layer_dim: 16, grid: {GRID}, "
    f"patch: 4, channels: {CHANNELS}, history: {HISTORY}}}",
    "optim={lr: 1e-3, betas: [0.9, 0.95]}",
    "engine.spectral_dtype=float32",
)
ENGINES = {
    "DeepSpeed": ("engine.kind=deepspeed", "engine.deepspeed=zero3_fp32"),
    "FairScale": ("engine.kind=fairscale", "engine.deepspeed=zero0_fp32"),
}


def ten_steps(world: World) -> Finding:
    """Compare the losses of both engines. Collective."""
    if importlib.util.find_spec("fairscale") is None:
        to_do = "pip install 'dpot_scale[fairscale]' to compare DeepSpeed with a second engine"
        return Finding("ten steps", "note", "FairScale is not installed", to_do)
    losses = {name: losses_of(_config(world, words), world) for name, words in ENGINES.items()}
    ours, theirs = losses.values()
    apart = max(abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True))
    found = f"DeepSpeed and FairScale differ by {apart:.1e} in {STEPS} steps"
    if apart <= TOLERANCE:  # not so where one is NaN
        return Finding("ten steps", "ok", found)
    to_do = (
        f"more than {TOLERANCE:g}: do not train here; see the lines `collectives` and `versions`"
    )
    return Finding("ten steps", "stops", found, to_do)


def _config(world: World, words: tuple[str, ...]) -> RunConfig:
    windows = MICRO_BATCH * world.world_size
    batch = f"batch={{global_batch: {windows}, micro_batch: {MICRO_BATCH}}}"
    return load_run("quickstart", [*TINY, batch, f"windows={windows * STEPS}", *words])


def losses_of(config: RunConfig, world: World) -> list[float]:
    """Return the mean loss of each step on windows that are drawn from a seed. Collective."""
    engine = start_engine(config, world)
    engine.train()
    draw = torch.Generator().manual_seed(1 + world.rank)
    losses = []
    for _ in range(STEPS):
        shape = (MICRO_BATCH, HISTORY + 1, CHANNELS, GRID, GRID)
        window_BTCs = torch.randn(shape, generator=draw).to(world.device)
        forecast = engine(window_BTCs[:, :HISTORY])
        loss = (forecast.frames - window_BTCs[:, HISTORY:]).square().mean()
        engine.backward(loss)
        engine.step(Rates(lr=config.optim.lr, betas=config.optim.betas, muon_lr=0.0))
        losses.append(loss.item())
    return losses
