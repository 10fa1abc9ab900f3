"""How many FLOPs a recipe needs for the held-out error of another one.

    python benchmarks/recipe.py run published improved --seeds 0 1 2 [--results FILE] [--workers 2]
    python benchmarks/recipe.py compare published improved [--results FILE]
    python benchmarks/recipe.py ideas [--results FILE]

`run` trains each recipe at the sizes and lengths of its frontier, each training a process of one
thread, as `python -m dpot_scale.train benchmarks/recipe.yaml` with overrides, and adds a line per
training to FILE. What is there already is not trained again. `compare` finds the FLOPs at which the
frontier of a recipe, the best over sizes and lengths, reaches two errors: those of the first recipe
with E128 and Ti at 4096 windows, seed by seed. `ideas` sets each recipe against `improved` at one
size.

The error is the mean over datasets of the rollout rel_l2, each at most 1: an error of 1 is that of
a forecast of zeros, and a rollout that explodes is not better the later it does.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

from dpot_scale.config.load import load_run

CONFIG = Path(__file__).with_suffix(".yaml")
RESULTS = Path("runs/recipe.jsonl")

SIZES = {
    "E64": ["model.width=64", "model.out_layer_dim=32"],
    "E128": ["model.width=128", "model.out_layer_dim=32"],
    "E256": ["model.width=256", "model.out_layer_dim=32"],
    "Ti": ["model.size=Ti"],
}
# The quickstart as it was published first: the paper's objective and schedule, with Adam.
PUBLISHED = [
    "model.target=frame",
    "model.skip_frames=0",
    "optim.kind=adam",
    "optim.lr=3e-3",
    "optim.reference_width=null",
    "optim.schedule=one_cycle",
    "optim.warmup={share: 0.2}",
    "optim.weight_decay=1e-6",
    "optim.decoupled_weight_decay=false",
    "optim.gradient_clipping=1.0",
    "objective.noise=5e-4",
    "objective.noise_unit=norm",
    "data.normalize=none",
    "batch.global_batch=16",
]
RECIPES: dict[str, list[str]] = {
    "published": PUBLISHED,
    "improved": [],
    "improved, frame": ["model.target=frame"],
    "improved, adam": [
        "optim.kind=adam",
        "optim.lr=3e-3",
        "optim.gradient_clipping=1.0",
    ],
    "improved, no skip": ["model.skip_frames=0"],
    "improved, one-cycle": ["optim.schedule=one_cycle", "optim.warmup={share: 0.2}"],
    "improved, noise 5e-4 norm": ["objective.noise=5e-4", "objective.noise_unit=norm"],
    "improved, no noise": ["objective.noise=0"],
    "improved, batch 16": ["batch.global_batch=16", "optim.lr=2.8e-3", "optim.muon_lr=0.02"],
    "improved, no width rule": ["optim.reference_width=null"],
}
# The sizes and lengths that a frontier is sought among.
FRONTIERS = {
    "published": [("E64", 4096), ("E128", 2048), ("E128", 4096), ("E128", 8192), ("E256", 4096),
                  ("E256", 8192), ("Ti", 4096)],
    "improved": [("E64", 128), ("E64", 256), ("E64", 512), ("E64", 1024), ("E64", 2048),
                 ("E128", 1024), ("E128", 4096)],
}  # fmt: skip
LEVELS = [("E128", 4096), ("Ti", 4096)]
IDEA = ("E128", 4096)
PRESET_BATCH = 8


class Trained(NamedTuple):
    """One training of a recipe."""

    recipe: str
    size: str
    windows: int
    seed: int
    train_flops: float
    seconds: float
    rel_l2: dict[str, float]
    one_step_rel_l2: dict[str, float]
    persistence_rel_l2: dict[str, float]
    persistence_one_step_rel_l2: dict[str, float]

    @property
    def error(self) -> float:
        """The mean rollout error, with each dataset at most 1."""
        return fmean(min(error, 1.0) for error in self.rel_l2.values())

    @property
    def one_step_error(self) -> float:
        """The mean one-step error, with each dataset at most 1."""
        return fmean(min(error, 1.0) for error in self.one_step_rel_l2.values())


def main() -> None:
    """Do what the command says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["run", "compare", "ideas"])
    parser.add_argument("recipes", nargs="*", metavar="RECIPE")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--root", type=Path, default=Path("data/recipe"))
    asked = parser.parse_args()
    if asked.command == "run":
        run(asked.recipes, asked.seeds, asked.results, asked.root, asked.workers)
    elif asked.command == "compare":
        compare(read(asked.results), *asked.recipes)
    else:
        ideas(read(asked.results))


def run(
    recipes: Sequence[str], seeds: Sequence[int], results: Path, root: Path, workers: int
) -> None:
    """Train what is missing; the longest first, so that no worker idles at the end."""
    done = {trained[:4] for trained in read(results)}
    wanted = [
        (recipe, size, windows, seed)
        for recipe in recipes
        for size, windows in FRONTIERS.get(recipe, [IDEA])
        for seed in seeds
    ]
    results.parent.mkdir(parents=True, exist_ok=True)
    missing = [each for each in wanted if each not in done]
    print(f"{len(missing)} of {len(wanted)} trainings to do", flush=True)
    with ThreadPoolExecutor(workers) as pool:
        for trained in pool.map(lambda each: train(*each, root.resolve()), missing):
            with results.open("a") as file:
                file.write(json.dumps(trained._asdict()) + "\n")
            print(
                f"{trained.recipe} {trained.size} {trained.windows} seed {trained.seed}: rollout "
                f"{trained.error:.4f}, one step {trained.one_step_error:.4f}, "
                f"{trained.train_flops:.2e} FLOPs, {trained.seconds:.0f} s",
                flush=True,
            )


def train(recipe: str, size: str, windows: int, seed: int, root: Path) -> Trained:
    """Train one model in a process of its own and return its scores."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "dpot_scale.train", "--config", str(CONFIG), *SIZES[size]]
        overrides = [*batch_of(recipe, windows), *RECIPES[recipe]]
        command += overrides
        command += [f"windows={windows}", f"seed={seed}", f"data.root={root}"]
        command += [f"output={folder}", "engine.deepspeed=zero0_fp32"]
        one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=one_thread, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
        return scored(Path(folder) / "recipe", recipe, size, windows, seed)


def scored(directory: Path, recipe: str, size: str, windows: int, seed: int) -> Trained:
    """Return what a finished training came to."""
    result = json.loads((directory / "result.json").read_text())

    def of(key: str) -> dict[str, float]:
        return {name: float(score[key]) for name, score in result["evaluation"].items()}

    return Trained(
        recipe, size, windows, seed, result["train_flops"], result["seconds"],
        of("rel_l2"),
        of("one_step_rel_l2"), of("persistence_rel_l2"), of("persistence_one_step_rel_l2"),
    )  # fmt: skip


def batch_of(recipe: str, windows: int) -> list[str]:
    """Return the batch of a length, at least 256 steps where that is possible, and its rates.

    The published recipe keeps its batch of 16. Rates follow the root of the batch.
    """
    if recipe == "published":
        return ["batch.micro_batch=16"]
    batch = max(2, min(PRESET_BATCH, windows // 256))
    root = (batch / PRESET_BATCH) ** 0.5
    given = load_run(str(CONFIG)).optim
    rates = [f"optim.lr={given.lr * root}", f"optim.muon_lr={given.muon_lr * root}"]
    return [f"batch.global_batch={batch}", f"batch.micro_batch={batch}", *rates]


def read(results: Path) -> list[Trained]:
    """Return what was trained before."""
    if not results.is_file():
        return []
    return [Trained(**json.loads(line)) for line in results.read_text().splitlines()]


def compare(trained: Sequence[Trained], before: str, after: str) -> None:
    """Print the frontiers and the ratio of the FLOPs that two recipes need for equal errors."""
    seeds = sorted({each.seed for each in trained if each.recipe == after})
    for recipe in (before, after):
        print(f"\n| {recipe} | FLOPs | s | rollout | one step | by dataset (rollout) |")
        print("|---|--:|--:|--:|--:|---|")
        for size, windows in FRONTIERS[recipe]:
            print(row(f"{size}, {windows}", of(trained, recipe, size, windows)))
    print(f"\n| error of {before} | level | FLOPs {before} | FLOPs {after} | ratio | by seed |")
    print("|---|--:|--:|--:|--:|---|")
    for size, windows in LEVELS:
        levels = {each.seed: each.error for each in of(trained, before, size, windows)}
        needed = [
            [
                flops_at(levels[s], [t for t in trained if t.recipe == r and t.seed == s])
                for s in seeds
            ]
            for r in (before, after)
        ]
        ratios = [b / a for b, a in zip(*needed, strict=True)]
        low, high = interval(ratios)
        print(
            f"| {size}, {windows} | {fmean(levels.values()):.4f} "
            f"| {fmean(needed[0]):.2e} | {fmean(needed[1]):.2e} "
            f"| {geometric_mean(ratios):.1f} ({low:.1f} to {high:.1f}) "
            f"| {', '.join(f'{ratio:.1f}' for ratio in ratios)} |"
        )


def ideas(trained: Sequence[Trained]) -> None:
    """Print each recipe at one size and length, in the order of its error."""
    print(f"| at {IDEA[0]}, {IDEA[1]} windows | FLOPs | s | rollout | one step | by dataset |")
    print("|---|--:|--:|--:|--:|---|")
    found = {recipe: of(trained, recipe, *IDEA) for recipe in RECIPES}
    for recipe, runs in sorted(found.items(), key=lambda item: mean_error(item[1])):
        if runs:
            print(row(recipe, runs))


def of(trained: Iterable[Trained], recipe: str, size: str, windows: int) -> list[Trained]:
    """Return the trainings of a recipe at a size and length."""
    return [each for each in trained if each[:3] == (recipe, size, windows)]


def row(name: str, runs: Sequence[Trained]) -> str:
    """Return a row of means over seeds, with the standard deviation of the error."""
    errors = [each.error for each in runs]
    spread = f" +- {stdev(errors):.4f}" if len(errors) > 1 else ""
    by_dataset = ", ".join(
        f"{name} {fmean(each.rel_l2[name] for each in runs):.3f}" for name in runs[0].rel_l2
    )
    return (
        f"| {name} | {runs[0].train_flops:.2e} | {fmean(each.seconds for each in runs):.0f} "
        f"| {fmean(errors):.4f}{spread} | {fmean(each.one_step_error for each in runs):.4f} "
        f"| {by_dataset} |"
    )


def mean_error(runs: Sequence[Trained]) -> float:
    """Return the mean error over seeds; infinite where there are none."""
    return fmean(each.error for each in runs) if runs else math.inf


def flops_at(level: float, trained: Sequence[Trained]) -> float:
    """Return the least FLOPs at which the frontier of some trainings reaches an error.

    Between two points of the frontier the logarithms of both are interpolated. An error that even
    the cheapest training beats costs what that one does, which is an upper bound.
    """
    frontier: list[Trained] = []
    for each in sorted(trained, key=lambda t: t.train_flops):
        if not frontier or each.error < frontier[-1].error:
            frontier.append(each)
    if frontier[0].error <= level:
        return frontier[0].train_flops
    for worse, better in pairwise(frontier):
        if better.error <= level:
            share = math.log(worse.error / level) / math.log(worse.error / better.error)
            return worse.train_flops * (better.train_flops / worse.train_flops) ** share
    raise SystemExit(f"no training reaches {level:.4f}; the best has {frontier[-1].error:.4f}")


def geometric_mean(values: Sequence[float]) -> float:
    """Return exp(mean(log))."""
    return math.exp(fmean(map(math.log, values)))


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of the geometric mean, by Student's t of the logarithms."""
    from scipy.stats import t

    logs = [math.log(value) for value in values]
    if len(logs) < 2:
        return math.nan, math.nan
    half = float(t.ppf(0.975, len(logs) - 1)) * stdev(logs) / len(logs) ** 0.5
    return math.exp(fmean(logs) - half), math.exp(fmean(logs) + half)


if __name__ == "__main__":
    main()
