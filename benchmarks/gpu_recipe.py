"""What the improved recipe does on a GPU: whether it runs, what Muon costs, and at which rates.

    python benchmarks/gpu_recipe.py [--wheels FOLDER] [--out FOLDER] [--seconds N] [--dry-run]

It is made for one GPU that is lent for some minutes, as first_gpu.py is, whose steps and time
limits it shares. First come, side by side, the data of recipe.yaml with more trajectories, the GPU
tests and a tiny training with Muon under each way to shard; then the time of a step with Adam and
with Muon, alone; then waves of trainings with batches of 64, side by side on the GPU, so their
seconds say little. The rates of a row are those of `improved`, which were found at batches of 8,
times a factor. The long trainings at the end take those that were best.
"""

import argparse
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import yaml
from first_gpu import ONE_THREAD, REPOSITORY, RUN, Runner, Step, settled_environment
from recipe import CONFIG, PUBLISHED, SIZES, Trained, scored

from dpot_scale.config.load import load_run

RESULTS = "gpu_recipe.jsonl"
# Ways to shard, and whether blocks are compiled.
PATHS = {
    "zero0_fp32": False,
    "zero1_bf16": True,
    "zero2_bf16": False,
    "zero3_bf16": True,
    "zero3_bf16_offload": False,
    "zero3_fp16": False,
}
TINY_SUITE = """
name: first
datasets:
  dr: {{equation: reaction_diffusion, train: 4, test: 2, grid: {grid}, frames: 20,
       frame_interval: 0.5}}
"""
IMPROVED = ["model.target=residual", "model.skip_frames=2", "optim.kind=muon",
            "data.normalize=dataset"]  # fmt: skip
FACTORS = (1, 2, 4)
PUBLISHED_RATES = ("1e-3", "3e-3")


class Training(NamedTuple):
    """One training of a wave."""

    recipe: str  # published or improved
    size: str  # of the model
    rate: str  # published: of Adam. improved: what the rates of the preset are multiplied by
    windows: int

    @property
    def name(self) -> str:
        """A name for its log."""
        return f"{self.recipe}_{self.size}_{self.rate}_{self.windows}"


class Sizes(NamedTuple):
    """How large everything is."""

    train: int  # trajectories of each equation
    grid: int
    batch: int
    models: tuple[str, ...]  # in the order of their waves
    windows: int
    long_windows: int
    rows: tuple[str, ...]  # SIZE:BATCH, as gpu.py takes them
    sharded_rows: tuple[str, ...]
    ceiling: int


ON_GPU = Sizes(
    train=512,
    grid=64,
    batch=64,
    models=("M", "Ti", "S"),
    windows=16384,
    long_windows=65536,
    rows=("Ti:64", "M:64", "L:25"),
    sharded_rows=("M:64",),
    ceiling=8192,
)
DRY = Sizes(
    train=4,
    grid=32,
    batch=8,
    models=("debug",),
    windows=64,
    long_windows=128,
    rows=("debug:1",),
    sharded_rows=("debug:1",),
    ceiling=256,
)


def main() -> int:
    """Run all steps; the exit code is the number of those that failed."""
    options = parsed()
    sizes = DRY if options.dry_run else ON_GPU
    if options.training:
        return train(Training(*json.loads(options.training)), sizes, options.out)
    deadline = time.monotonic() + options.seconds
    if options.dry_run:
        os.environ.update(ONE_THREAD, DS_ACCELERATOR="cpu")
    work = options.out / "work"
    work.mkdir(parents=True, exist_ok=True)
    write_suite(work / "suite.yaml", sizes)
    runner = Runner(options.out, deadline, settled_environment(options), forks=False)
    runner.run([data_step(work), *path_steps(options.out, sizes, options.dry_run)])
    for step in timed_steps(sizes):
        runner.run([step])
    for size in sizes.models:
        runner.run([training_step(each, options) for each in wave(size, sizes.windows)])
        if size == sizes.models[0]:
            runner.run([training_step(each, options) for each in long_wave(size, sizes, options)])
    with tarfile.open(options.out / "logs.tar.gz", "w:gz") as tar:
        for log in sorted(options.out.glob("*.log")):
            tar.add(log, log.name)
    print(f"failed: {', '.join(runner.failed) or 'none'}", flush=True)
    return len(runner.failed)


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--wheels", type=Path, help="folder of what the machine lacks")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "gpu_recipe")))
    parser.add_argument("--seconds", type=float, default=520)
    parser.add_argument("--dry-run", action="store_true", help="on a CPU, with tiny sizes")
    parser.add_argument("--training", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.out = options.out.resolve()
    return options


def write_suite(path: Path, sizes: Sizes) -> None:
    """Write the suite of recipe.yaml with as many trajectories as a GPU wants."""
    suite = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["data"]["suite"]
    for recipe in suite["datasets"].values():
        recipe.update(train=sizes.train, grid=sizes.grid)
    path.write_text(yaml.safe_dump(suite, sort_keys=False), encoding="utf-8")


def data_step(work: Path) -> Step:
    """Solve for the data of the waves."""
    generate = ["generate", "--suite", str(work / "suite.yaml"), "--out", str(work / "data")]
    return Step("data", 200, [sys.executable, "-m", "dpot_scale.prepare", *generate])


def path_steps(out: Path, sizes: Sizes, dry_run: bool) -> list[Step]:
    """Return a tiny training as improved for every way to shard, and the GPU tests."""
    steps = []
    for strategy, compiled in PATHS.items():
        if dry_run and strategy == "zero3_fp16":  # DeepSpeed computes in fp16 on GPUs only
            continue
        folder = out / "work" / strategy
        folder.mkdir(exist_ok=True)
        numbers = {"folder": folder, "grid": sizes.grid}
        (folder / "suite.yaml").write_text(TINY_SUITE.format(**numbers), encoding="utf-8")
        (folder / "run.yaml").write_text(RUN.format(**numbers), encoding="utf-8")
        overrides = [f"name={strategy}", f"engine.deepspeed={strategy}", *IMPROVED]
        overrides += ["data.weights={dr: 1}", f"engine.compile={str(compiled).lower()}"]
        command = [sys.executable, "-m", "dpot_scale.train", "--config", str(folder / "run.yaml")]
        steps.append(Step(strategy, 120, [*command, *overrides], ONE_THREAD))
    files = ["tests/engine/test_gpu.py", "tests/data/stream/test_assembly.py"]
    selected = ["-m", "gpu", "-k", "not runs_to_its_end", "-p", "no:cacheprovider", "-q"]
    return [*steps, Step("gpu_tests", 120, [sys.executable, "-m", "pytest", *selected, *files])]


def timed_steps(sizes: Sizes) -> list[Step]:
    """Time steps with both optimizers."""

    def gpu(name: str, rows: Sequence[str], variants: Sequence[str]) -> Step:
        command = [sys.executable, "benchmarks/gpu.py", "--rows", *rows, "--variants", *variants]
        return Step(name, 100, [*command, "--ceiling-size", str(sizes.ceiling)])

    return [
        gpu("steps", sizes.rows, ["bf16", "muon"]),
        gpu("sharded_steps", sizes.sharded_rows, ["zero3", "zero3_muon"]),
    ]


def wave(size: str, windows: int) -> list[Training]:
    """Return the trainings of one size."""
    published = [Training("published", size, rate, windows) for rate in PUBLISHED_RATES]
    return [*published, *(Training("improved", size, str(f), windows) for f in FACTORS)]


def long_wave(size: str, sizes: Sizes, options: argparse.Namespace) -> list[Training]:
    """Return longer trainings of a size, at the rates that were best."""
    results = options.out / RESULTS
    lines = results.read_text().splitlines() if results.is_file() else []
    found = [(json.loads(line), Trained(*json.loads(line)["trained"])) for line in lines]
    best = {}
    for recipe in ("published", "improved"):
        errors = {f["rate"]: t.error for f, t in found if (t.recipe, t.size) == (recipe, size)}
        if errors:
            best[recipe] = min(errors, key=lambda rate: errors[rate])
    return [Training(each, size, rate, sizes.long_windows) for each, rate in best.items()]


def training_step(training: Training, options: argparse.Namespace) -> Step:
    """Return a training as a step of this script."""
    command = [sys.executable, str(Path(__file__).resolve()), "--training", json.dumps(training)]
    command += ["--out", str(options.out), *(["--dry-run"] if options.dry_run else [])]
    return Step(training.name, 150, command, ONE_THREAD)


def train(training: Training, sizes: Sizes, out: Path) -> int:
    """Train, add a line to the results, and say the errors."""
    overrides = [
        *SIZES.get(training.size, [f"model.size={training.size}"]),
        f"model.grid={sizes.grid}",
        *rates(training),
        f"batch.global_batch={sizes.batch}",
        f"batch.micro_batch={sizes.batch}",
        f"windows={training.windows}",
    ]
    command = [sys.executable, "-m", "dpot_scale.train", "--config", str(CONFIG), *overrides]
    command += [f"name={training.name}", f"output={out / 'work' / 'runs'}"]
    command += [f"data.root={out / 'work' / 'data'}", f"data.suite={out / 'work' / 'suite.yaml'}"]
    command += ["engine.deepspeed=zero1_bf16"]
    done = subprocess.run(command, cwd=REPOSITORY, check=False)
    if done.returncode:
        return done.returncode
    directory = out / "work" / "runs" / training.name
    trained = scored(directory, training.recipe, training.size, training.windows, 0)
    with (out / RESULTS).open("a", encoding="utf-8") as file:
        file.write(json.dumps({"rate": training.rate, "trained": trained}) + "\n")
    errors = ", ".join(f"{name} {error:.4f}" for name, error in trained.rel_l2.items())
    print(
        f"result: rollout {trained.error:.4f}, one step {trained.one_step_error:.4f} ({errors}), "
        f"{trained.train_flops:.2e} FLOPs, {trained.seconds:.0f} s"
    )
    return 0


def rates(training: Training) -> Sequence[str]:
    """Return the overrides of a recipe at a rate."""
    if training.recipe == "published":
        return [*PUBLISHED, f"optim.lr={training.rate}"]
    given = load_run(str(CONFIG)).optim
    factor = float(training.rate)
    return [f"optim.lr={factor * given.lr}", f"optim.muon_lr={factor * given.muon_lr}"]


if __name__ == "__main__":
    sys.exit(main())
