"""Whether two checkouts, or two configs, train alike: every loss and gradient norm, step by step.

    python benchmarks/compare_losses.py A B [--ranks N] [--config C] [--tolerance T] [key=value ...]

A and B are two checkouts, which train the same config, or two configs (YAML files or presets),
which this checkout trains. Without --config, checkouts train the 20 steps of tests/golden/losses,
on the store of tests/golden/formats; the data of any other config are where its data.root says.
Exit code 1: they differ by more than the tolerance, which is relative, and 0 unless given; 2: one
of them could not be trained.
"""

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
GOLDEN = REPOSITORY / "tests" / "golden"
CONFIG = GOLDEN / "losses" / "run.yaml"
STORE = GOLDEN / "formats" / "store"
KEYS = ("train/loss", "train/grad_norm")

LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_SIZE", "MASTER_ADDR", "MASTER_PORT")

Curves = dict[str, dict[int, float]]  # metric -> step -> value


class TrainingFailedError(Exception):
    """A training did not come to its end."""


def main() -> int:
    """Train twice and compare."""
    parser = argparse.ArgumentParser(usage=(__doc__ or "").split("\n")[2].strip())
    parser.add_argument("a")
    parser.add_argument("b")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--config", default=str(CONFIG), help="of two checkouts")
    parser.add_argument("--tolerance", type=float, default=0.0)
    parser.add_argument("overrides", nargs="*", default=[])
    options = parser.parse_intermixed_args()
    curves = []
    with tempfile.TemporaryDirectory() as temporary:
        for name, side in (("A", options.a), ("B", options.b)):
            is_checkout = (Path(side) / "dpot_scale" / "train.py").is_file()
            checkout = Path(side).resolve() if is_checkout else REPOSITORY
            config = options.config if is_checkout else side
            data = [f"data.root={STORE}"] if config == str(CONFIG) else []
            print(f"{name}: {config} in {checkout}, ranks: {options.ranks}", flush=True)
            output = Path(temporary) / name
            training = started(
                config,
                [*data, *options.overrides],
                output=output,
                ranks=options.ranks,
                checkout=checkout,
            )
            try:
                curves.append(ended(training, output))
            except TrainingFailedError as error:
                print(error, file=sys.stderr)
                return 2
    lines, largest = compare(*curves)
    print("\n".join(lines))
    alike = largest <= options.tolerance
    print(f"{'alike' if alike else 'DIFFERENT'} at a tolerance of {options.tolerance:g}")
    return 0 if alike else 1


def started(
    config: str,
    overrides: Sequence[str],
    *,
    output: Path,
    ranks: int = 1,
    checkout: Path = REPOSITORY,
) -> subprocess.Popen[str]:
    """Start a training on the CPU that records every step in `output`."""
    launcher = ["-m", "dpot_scale.train"]
    if ranks > 1:
        torchrun = ["-m", "torch.distributed.run", "--standalone"]
        launcher = [*torchrun, f"--nproc-per-node={ranks}", *launcher]
    own = ["name=run", f"output={output}", "tracking.log_every=1", "tracking.mlflow_uri=null"]
    inherited = {key: value for key, value in os.environ.items() if key not in LAUNCHED}
    environment = inherited | {
        "PYTHONPATH": str(checkout),
        "PYTHONSAFEPATH": "1",  # or the package of the folder that this is started in would win
        "OMP_NUM_THREADS": "1",  # the number of threads decides the order of summation
        "CUDA_VISIBLE_DEVICES": "",
        # Where the compiler of DeepSpeed's operators is.
        "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}",
    }
    output.mkdir(parents=True, exist_ok=True)
    with (output / "log").open("w") as log:
        return subprocess.Popen(
            [sys.executable, *launcher, "--config", config, *own, *overrides],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
        )


def ended(training: subprocess.Popen[str], output: Path) -> Curves:
    """Wait for the end of a training and return what it recorded.

    Raises:
        TrainingFailedError: it ended before its last step; with all that it said.
    """
    if training.wait() != 0:
        raise TrainingFailedError(f"the training failed:\n{(output / 'log').read_text()}")
    return read(output / "run")


def read(directory: Path) -> Curves:
    """Return what a run recorded, whatever version of the package wrote it."""
    curves: Curves = {key: {} for key in KEYS}
    for line in (directory / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        for key in KEYS:
            if key in record:
                curves[key][record["step"]] = record[key]
    return curves


def compare(a: Curves, b: Curves) -> tuple[list[str], float]:
    """Return one line for each metric, and the largest relative difference of all."""
    lines, largest = [], 0.0
    for key in KEYS:
        steps = sorted(a[key].keys() | b[key].keys())
        differences = {step: _difference(a[key].get(step), b[key].get(step)) for step in steps}
        differing = [step for step in steps if differences[step] > 0]
        if not differing:
            lines.append(f"{key}: {len(steps)} steps, equal in every digit")
            continue
        first, worst = differing[0], max(differing, key=lambda step: differences[step])
        lines.append(
            f"{key}: {len(differing)} of {len(steps)} steps differ, first step {first} "
            f"({a[key].get(first)!r} and {b[key].get(first)!r}), at most by "
            f"{differences[worst]:.2g}, at step {worst}"
        )
        largest = max(largest, differences[worst])
    return lines, largest


def machine() -> str:
    """Return what the last digits depend on: torch, and for which CPU it chooses its kernels.

    MKL chooses by vendor, too.
    """
    import torch

    cpu = Path("/proc/cpuinfo").read_text() if sys.platform == "linux" else ""
    vendor = next((line.split()[-1] for line in cpu.splitlines() if "vendor_id" in line), "")
    capability = torch.backends.cpu.get_cpu_capability()
    return f"torch {torch.__version__}, {platform.machine()} {vendor} {capability}"


def _difference(a: float | None, b: float | None) -> float:
    """Return the relative difference of two values; infinite if one is missing or not finite."""
    if a is None or b is None:
        return math.inf
    if a == b or (math.isnan(a) and math.isnan(b)):
        return 0.0
    difference = abs(a - b) / max(abs(a), abs(b))
    return difference if math.isfinite(difference) else math.inf


if __name__ == "__main__":
    sys.exit(main())
