"""How long does a step of a rollout take on this CPU?

Ours is `dpot_scale.load(...).rollout`, with all its checks and copies; the other one is the public
implementation of DPOT (a checkout of it is given by --reference) in a loop that feeds its forecasts
back. The two have the same weights and are compared before they are timed, and they take turns, so
that whatever else the machine does slows both. One thread is timed in CPU seconds, which leave out
the time that other processes take; several threads by the clock on the wall.

    python benchmarks/inference.py --reference PATH [--sizes Ti S] [--batches 1 8] [--threads 1]
"""

import argparse
import sys
from pathlib import Path

import torch
from model_step import interleaved, ratio, reference_model, theirs
from torch import Tensor, nn

from dpot_scale.checkpoints.weights_file import Weights
from dpot_scale.models.dpot.config import DPOTConfig
from dpot_scale.serving.forecaster import ServedModel

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
STEPS = 4  # of a rollout


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--reference", type=Path, required=True, help="folder of models/dpot.py")
    parser.add_argument("--sizes", nargs="+", default=["Ti", "S"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    sys.path.insert(0, str(args.reference))
    torch.set_num_threads(args.threads)
    print(f"torch {torch.__version__}, {args.threads} threads, {args.repeats} interleaved repeats")
    print("\n| size | batch | precision | ms per step | reference | its ms per step | ratio |")
    print("|---|--:|---|--:|---|--:|--:|")
    for size in args.sizes:
        for batch in args.batches:
            for name in args.dtypes:
                print(row(size, batch, name, args.repeats), flush=True)


@torch.inference_mode()
def row(size: str, batch: int, name: str, repeats: int) -> str:
    """Return a row of the table."""
    config = DPOTConfig.model_validate({"size": size})
    torch.manual_seed(0)
    reference = reference_model(config).eval()
    ours = ServedModel(Weights(config, reference.state_dict()), DTYPES[name], "cpu")
    history = torch.randn(batch, config.history, config.channels, config.grid, config.grid)
    agree(ServedModel(Weights(config, reference.state_dict())), reference, history)
    their_name = name if runs_in(reference, history, DTYPES[name]) else "fp32"
    reference = reference.to(DTYPES[their_name])
    their_history = theirs(history).to(DTYPES[their_name])
    times = interleaved(
        [
            lambda: ours.rollout(history, STEPS),
            lambda: their_rollout(reference, their_history, STEPS),
        ],
        repeats,
    )
    ms, their_ms = (1e3 * min(seconds) / STEPS for seconds in times)
    return (
        f"| {size} | {batch} | {name} | {ms:.1f} | {their_name} | {their_ms:.1f} | {ratio(times)} |"
    )


def their_rollout(model: nn.Module, frames_BxyTC: Tensor, steps: int) -> Tensor:
    """Return frames (B, x, y, steps, C), each forecast from the frames before it."""
    forecasts = []
    for _ in range(steps):
        forecasts.append(model(frames_BxyTC)[0])
        frames_BxyTC = torch.cat([frames_BxyTC[..., 1:, :], forecasts[-1]], dim=-2)
    return torch.cat(forecasts, dim=-2)


def runs_in(reference: nn.Module, history: Tensor, dtype: torch.dtype) -> bool:
    """Return whether the public implementation computes in a precision."""
    try:
        reference.to(dtype)(theirs(history[:1]).to(dtype))
    except RuntimeError:
        return False
    finally:
        reference.float()
    return True


def agree(ours: ServedModel, reference: nn.Module, history: Tensor) -> None:
    """Refuse to time two models that do not forecast the same."""
    found = ours.rollout(history[:1], 2)
    assert isinstance(found, Tensor)
    expected = their_rollout(reference, theirs(history[:1]), 2)
    torch.testing.assert_close(theirs(found), expected, rtol=1e-3, atol=1e-4)


if __name__ == "__main__":
    main()
