"""Do DPOT-L and DPOT-H train on two CPU workers, and in how much memory?

Each is a whole training through the real commands: data, six steps, held-out evaluation, export of
the weights. What is measured is the sum of the workers' peak resident memory.

    python benchmarks/large_models.py [L H] [--launchers deepspeed ray] [--folder EMPTY]

Needs 10 GiB of free memory for L and 18 GiB for H, and 20 bytes of disk for each parameter.
"""

import argparse
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from dpot_scale.config.load import load_run
from dpot_scale.engine.memory import GIB, estimate_memory
from dpot_scale.runs.result import read_result
from dpot_scale.tracking.spool import SPOOL, read_metrics

WORKERS = 2
STEPS = 6
SUITE = """
name: large
datasets:
  dr_pdb_generated:
    equation: reaction_diffusion
    parameters: {start: 2.0, diffusion_u: 4e-3, diffusion_v: 2e-2}
    train: 8
    test: 2
    grid: 128
    frames: 14
    frame_interval: 0.5
"""
# 128 x 128 and 10 frames are the defaults of the model.
RUN = """
name: large
output: {folder}/runs
windows: {windows}
data: {{root: {folder}/data, suite: {folder}/suite.yaml, weights: {{dr_pdb_generated: 1}}}}
optim: {{lr: 2e-5, betas: [0.9, 0.95], gradient_clipping: 1.0, warmup: {{share: 0.34}}}}
batch: {{global_batch: {workers}, micro_batch: 1}}
engine: {{deepspeed: zero3_bf16_lean, activation_checkpointing: full}}
evaluation: {{trajectories: 2, batch: 1, rollout_frames: 1}}
tracking: {{log_every: 1}}
"""
SWEEP = """
name: sweep_{size}
run: {{extends: {folder}/run.yaml}}
ladder: {{{size}: {{size: {size}}}}}
windows: [{windows}]
resources: {{workers: {workers}}}
"""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sizes", nargs="*", default=["L"], help="L or H; default L")
    parser.add_argument("--launchers", nargs="+", default=["deepspeed", "ray"])
    parser.add_argument("--folder", type=Path, help="for data and runs; default: a temporary one")
    args = parser.parse_args()
    print("| size | through | GiB | estimate | step s | losses |")
    print("|---|---|--:|--:|--:|---|", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = (args.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        words = {"folder": folder, "windows": STEPS * WORKERS, "workers": WORKERS}
        (folder / "suite.yaml").write_text(SUITE)
        (folder / "run.yaml").write_text(RUN.format(**words))
        for size in args.sizes:
            (folder / "sweep.yaml").write_text(SWEEP.format(size=size, **words))
            for launcher in args.launchers:
                print(row(size, launcher, folder), flush=True)


def row(size: str, launcher: str, folder: Path) -> str:
    """Train a size and return its row."""
    commands = {
        "deepspeed": [
            *("-m", "deepspeed.launcher.runner", "--num_accelerators", str(WORKERS)),
            *("--master_port", str(free_port()), "dpot_scale/train.py"),
            *("--config", str(folder / "run.yaml"), f"name={size}", f"model.size={size}"),
        ],
        "ray": ["-m", "dpot_scale.sweep", "run", "--config", str(folder / "sweep.yaml")],
    }
    threads = max(1, len(os.sched_getaffinity(0)) // WORKERS)
    done = subprocess.run(
        [sys.executable, *commands[launcher]],
        cwd=Path(__file__).parents[1],
        env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{launcher} failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    places = {"deepspeed": f"runs/{size}", "ray": f"runs/sweep_{size}/trials/{size}_*"}
    (directory,) = folder.glob(places[launcher])
    result = read_result(directory)
    assert result is not None
    metrics = read_metrics(directory / SPOOL)
    config = load_run(str(folder / "run.yaml"), [f"model.size={size}"])
    estimate = estimate_memory(
        config.model, config.engine, config.optim, world_size=WORKERS, micro_batch=1
    )
    losses = ", ".join(f"{loss:.3f}" for loss in metrics["train/loss"].values())
    return (
        f"| {size} | {launcher} | {result.peak_memory_gib:.2f} "
        f"| {WORKERS * estimate.total / GIB:.2f} "
        f"| {min(metrics['perf/step_seconds'].values()):.1f} | {losses} |"
    )


def free_port() -> int:
    """Return a port that no process listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


if __name__ == "__main__":
    main()
