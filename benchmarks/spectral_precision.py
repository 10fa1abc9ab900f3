"""What does the Fourier part in bfloat16 cost in accuracy?

First its error against fp64, with the size of the spectral update that the model starts from and
with one as large as its input. Then short trainings on generated reaction-diffusion trajectories,
with the same seeds, windows and steps for each precision: their error on held-out windows.

    python benchmarks/spectral_precision.py [--steps 300] [--seeds 3]
"""

import argparse
import statistics

import torch
from torch import Tensor

from dpot_scale.config.batch import BatchConfig
from dpot_scale.config.data import DataConfig
from dpot_scale.config.engine import EngineConfig
from dpot_scale.config.optim import OptimConfig
from dpot_scale.config.run import RunConfig
from dpot_scale.config.strategy import read_strategy
from dpot_scale.data.generation.solvers.reaction_diffusion import ReactionDiffusion
from dpot_scale.engine import zero
from dpot_scale.engine.runtime import World, start_world
from dpot_scale.engine.zero import ZeroEngine
from dpot_scale.forecasting.errors import rel_l2
from dpot_scale.models.dpot.config import DPOTConfig, ModeCut
from dpot_scale.models.dpot.network import DPOT
from dpot_scale.models.dpot.spectral import SpectralMixer
from dpot_scale.training.schedule import Schedule

MODEL = DPOTConfig(size="debug", width=128, grid=64, channels=2, normalize=True)
BATCH = 8
TRAIN, HELD_OUT, FRAMES = 64, 16, 20  # trajectories, trajectories, frames of each
# Name -> strategy, spectral_dtype.
PRECISIONS = {
    "all fp32": ("zero0_fp32", "float32"),
    "bf16, spectral float32": ("zero1_bf16", "float32"),
    "bf16, spectral bfloat16": ("zero1_bf16", "bfloat16"),
}


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    world = start_world()

    print("| latent grid | update / input | computed in | relative error of the output |")
    print("|--:|--:|---|--:|")
    for points in (8, 16):
        for scale in (None, 1.0):
            print(*mixer_errors(points, scale), sep="\n")

    trajectories = solve(world)
    print("\n| seed | precision | training loss | held-out rel_l2 | update / input in the blocks |")
    print("|--:|---|--:|--:|---|")
    ratios = []
    for seed in range(args.seeds):
        errors = {}
        for name in PRECISIONS:
            engine = start_engine(name, seed, args.steps, world)
            loss = train(engine, seed, args.steps, trajectories)
            errors[name] = held_out_error(engine, trajectories)
            sizes = ", ".join(f"{size:.2f}" for size in update_sizes(engine, trajectories))
            print(f"| {seed} | {name} | {loss:.4f} | {errors[name]:.4f} | {sizes} |", flush=True)
        ratios.append(errors["bf16, spectral bfloat16"] / errors["bf16, spectral float32"])
    spread = statistics.stdev(ratios) / len(ratios) ** 0.5 if len(ratios) > 1 else float("nan")
    print(f"\nbfloat16 / float32, held-out: {statistics.mean(ratios):.3f} +- {spread:.3f}")


def mixer_errors(points: int, scale: float | None) -> list[str]:
    """Return rows with the error of v + irfft(f(rfft(v))) for bf16 inputs and weights.

    Args:
        points: Of the latent grid, per axis.
        scale: Size of the update over that of its input; None leaves the initial weights.
    """
    torch.manual_seed(0)
    exact = SpectralMixer(512, 4, ModeCut((points, points // 2 + 1)), torch.float64)
    if scale is not None:
        for weight in exact.parameters():
            torch.nn.init.normal_(weight, std=1.3 * scale / weight.shape[-1] ** 0.5)
    v_BhE = torch.randn(4, points, points, 512).bfloat16()
    exact.bfloat16()
    rows = []
    with torch.no_grad():
        expected = exact.double()(v_BhE.double())
        size = (expected - v_BhE).norm() / v_BhE.double().norm()
        for dtype in (torch.float32, torch.bfloat16):
            exact.bfloat16().dtype = dtype
            error = (exact(v_BhE).double() - expected).norm() / expected.norm()
            rows.append(f"| {points} | {size:.1g} | {str(dtype)[6:]} | {error:.1e} |")
        rows.append(
            f"| {points} | {size:.1g} | exact, rounded to bfloat16 | {rounding(expected)} |"
        )
    return rows


def rounding(x: Tensor) -> str:
    """Return the relative error of x in bfloat16."""
    return f"{(x.bfloat16().double() - x).norm() / x.norm():.1e}"


def solve(world: World) -> Tensor:
    """Return trajectories (N, T, C, x, y), the last `HELD_OUT` of them not for training."""
    return ReactionDiffusion(start=2.0).solve(
        range(TRAIN + HELD_OUT),
        grid=MODEL.grid,
        frames=FRAMES,
        frame_interval=0.5,
        device=world.device,
    )


def start_engine(precision: str, seed: int, steps: int, world: World) -> ZeroEngine:
    """Return a fresh model; the seed decides its weights, whatever the precision."""
    strategy, spectral_dtype = PRECISIONS[precision]
    config = RunConfig(
        name="benchmark",
        seed=seed,
        windows=steps * BATCH,
        model=MODEL,
        data=DataConfig(weights={"unused": 1}),
        optim=OptimConfig(lr=2e-3, betas=(0.9, 0.95), gradient_clipping=1.0),
        batch=BatchConfig(global_batch=BATCH, micro_batch=BATCH),
        engine=EngineConfig(deepspeed=read_strategy(strategy), spectral_dtype=spectral_dtype),
    )
    return zero.start_engine(config, world)


def train(engine: ZeroEngine, seed: int, steps: int, trajectories: Tensor) -> float:
    """Return the mean loss of the last twentieth of the steps."""
    generator = torch.Generator().manual_seed(seed)
    schedule = Schedule.of(engine.config)
    losses = []
    for step in range(steps):
        which = torch.randint(TRAIN, (BATCH,), generator=generator).tolist()
        first = torch.randint(FRAMES - MODEL.history, (BATCH,), generator=generator).tolist()
        windows = [window(trajectories[n], t) for n, t in zip(which, first, strict=True)]
        loss = error(engine, torch.stack(windows))
        engine.backward(loss)
        engine.step(schedule.at(step))
        losses.append(loss.item())
    return statistics.mean(losses[-max(1, steps // 20) :])


@torch.no_grad()
def held_out_error(engine: ZeroEngine, trajectories: Tensor) -> float:
    """Return the mean error over all windows of the held-out trajectories."""
    engine.eval()
    held_out = trajectories[TRAIN:].transpose(0, 1)
    windows = [window(held_out, t).transpose(0, 1) for t in range(FRAMES - MODEL.history)]
    return statistics.mean(error(engine, batch).item() for batch in windows)


@torch.no_grad()
def update_sizes(engine: ZeroEngine, trajectories: Tensor) -> list[float]:
    """Return ||irfft(f(rfft(v)))|| / ||v|| of each block: how much its precision can matter."""
    model = DPOT(MODEL)
    model.load_state_dict(dict(engine.full_parameters()))
    sizes: list[float] = []
    for block in model.blocks:
        block.filter.register_forward_hook(
            lambda _, v, y: sizes.append(((y - v[0]).norm() / v[0].norm()).item())
        )
    model(trajectories[TRAIN:, : MODEL.history])
    return sizes


def window(trajectory_T: Tensor, first: int) -> Tensor:
    """Return the history and one more frame."""
    return trajectory_T[first : first + MODEL.history + 1]


def error(engine: ZeroEngine, windows_BTCxy: Tensor) -> Tensor:
    """Return the mean relative L2 error of one step."""
    history, target = windows_BTCxy[:, : MODEL.history], windows_BTCxy[:, MODEL.history :]
    return rel_l2(engine(history).frames, target).mean()


if __name__ == "__main__":
    main()
