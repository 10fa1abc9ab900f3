"""The paper's claims in miniature: what pre-training, noise and a balanced mixture bring.

    python benchmarks/claims.py run [--size E128] [--seeds 0 1 2] [--workers 2]
    python benchmarks/claims.py report [--results FILE]

`run` trains as `python -m dpot_scale.train benchmarks/claims.yaml` does, each training a process of
its own, and adds a line per training to FILE; what is there already is not trained again. First
come the trainings on five equations: as they are, without noise, by the published recipe with and
without its noise, and with weights that follow the number of trajectories. Then each held-out task
is trained from scratch and from the weights of the first kind, for as many steps and at two
learning rates each, of which the better one counts. `report` prints the tables.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from statistics import fmean
from threading import Lock
from typing import Any, NamedTuple

import yaml
from recipe import PUBLISHED, SIZES

CONFIG = Path(__file__).with_suffix(".yaml")
WORK = Path("runs/claims")
# Trajectories of the five equations, in thousands: every window is as likely as any other.
BY_SIZE = "data.weights={ns2d: 384, dr: 192, swe: 96, cns: 48, smoke: 24}"
OLD = [*PUBLISHED, "batch.global_batch=32"]
PRETRAININGS: dict[str, list[str]] = {
    "improved": [],
    "improved, no noise": ["objective.noise=0"],
    "published": OLD,
    "published, no noise": [*OLD, "objective.noise=0"],
    "improved, unbalanced": [BY_SIZE],
}
SHORT = ["batch.global_batch=16", "batch.micro_batch=16"]
TASKS: dict[str, list[str]] = {
    "cylinder": ["data.weights={cylinder: 1}", "windows=2048", *SHORT],
    "darcy": ["data.weights={darcy: 1}", "windows=2048", *SHORT, "model.history=1",
              "model.skip_frames=1", "model.target=frame", "model.normalize=false",
              "data.normalize=none", "evaluation.trajectories=32"],
    "gas3d": ["data.weights={gas3d: 1}", "windows=1024", *SHORT, "model.space_dims=3",
              "model.grid=24"],
}  # fmt: skip
RATES = (1.0, 0.3)
GIVEN = {"optim.lr": 2e-3, "optim.muon_lr": 0.014}  # for batches of 16


class Training(NamedTuple):
    """One training: its kind or task, and for a task where it starts and at which rates."""

    kind: str
    start: str  # scratch, pre-trained, or nothing
    rate: float
    seed: int

    @property
    def name(self) -> str:
        """Its run, as a folder is called."""
        words = f"{self.kind} {self.start} {self.rate:g} {self.seed}"
        return words.replace(",", "").replace(" ", "_")


def main() -> int:
    """Do what the command says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["run", "report"])
    parser.add_argument("--size", default="E128")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--strategy", default="zero0_fp32")
    parser.add_argument("--work", type=Path, default=WORK, help="folder of data and runs")
    parser.add_argument("--results", type=Path, default=WORK / "results.jsonl")
    parser.add_argument("--seconds", type=float, default=3 * 3600, help="start nothing after them")
    parser.add_argument("--kinds", nargs="*", default=[*PRETRAININGS, *TASKS], metavar="KIND")
    parser.add_argument("--override", nargs="*", default=[], help="of every training")
    options = parser.parse_args()
    if options.command == "report":
        report(read(options.results))
        return 0
    return run(options)


def run(options: argparse.Namespace) -> int:
    """Train what is missing; return how many trainings failed."""
    options.results.parent.mkdir(parents=True, exist_ok=True)
    deadline, lock, failed = time.monotonic() + options.seconds, Lock(), []
    done = {Training(*line["training"]) for line in read(options.results)}

    def one(training: Training) -> None:
        if training.kind not in options.kinds or training in done or time.monotonic() > deadline:
            return
        begun = time.monotonic()
        problem, result = train(training, options)
        with lock:
            if result is None:
                failed.append(training.name)
                print(f"{training.name} failed: {problem[-1500:]}", flush=True)
                return
            scores = result["evaluation"]
            with options.results.open("a", encoding="utf-8") as file:
                line = {"training": training, "scores": scores, "flops": result["train_flops"]}
                file.write(json.dumps(line) + "\n")
            errors = ", ".join(
                f"{name} {float(score['rel_l2']):.4f}" for name, score in scores.items()
            )
            print(f"{training.name}: {errors} in {time.monotonic() - begun:.0f} s", flush=True)

    generate(options)
    first = [Training(kind, "", 1.0, seed) for kind in PRETRAININGS for seed in options.seeds]
    second = [
        Training(task, start, rate, seed)
        for task, seed, start, rate in product(
            TASKS, options.seeds, ("scratch", "pre-trained"), RATES
        )
    ]
    for wave in (first, second):
        with ThreadPoolExecutor(options.workers) as pool:
            list(pool.map(one, wave))
    return len(failed)


def generate(options: argparse.Namespace) -> None:
    """Solve the equations before several trainings ask for them."""
    suite = options.work / "suite.yaml"
    suite.parent.mkdir(parents=True, exist_ok=True)
    content = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["data"]["suite"]
    suite.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    command = [sys.executable, "-m", "dpot_scale.prepare", "generate", "--suite", str(suite)]
    subprocess.run([*command, "--out", str(options.work / "data")], check=True)


def train(training: Training, options: argparse.Namespace) -> tuple[str, dict[str, Any] | None]:
    """Train in a process of its own; return what it printed, and its result if there is one."""
    is_task = training.kind in TASKS
    overrides = TASKS[training.kind] if is_task else PRETRAININGS[training.kind]
    if is_task:
        rates = [f"{key}={training.rate * value}" for key, value in GIVEN.items()]
        overrides = [*overrides, *rates]
    if training.start == "pre-trained":
        source = options.work / "runs" / Training("improved", "", 1.0, training.seed).name
        overrides = [*overrides, f"start.source={source.resolve()}", "start.absent=draw"]
    command = [sys.executable, "-m", "dpot_scale.train", "--config", str(CONFIG)]
    command += [*SIZES.get(options.size, [f"model.size={options.size}"]), *overrides]
    command += [f"name={training.name}", f"seed={training.seed}"]
    command += [f"output={(options.work / 'runs').resolve()}"]
    command += [f"data.root={(options.work / 'data').resolve()}"]
    command += [f"engine.deepspeed={options.strategy}", *options.override]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=one_thread, capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode:
        return done.stdout + done.stderr, None
    result = options.work / "runs" / training.name / "result.json"
    return done.stdout, json.loads(result.read_text(encoding="utf-8"))


def read(results: Path) -> list[dict[str, Any]]:
    """Return what was trained before."""
    if not results.is_file():
        return []
    return [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]


def report(lines: Sequence[dict[str, Any]]) -> None:
    """Print the tables."""
    found = {Training(*line["training"]): line["scores"] for line in lines}
    print("| trained on five equations | mean rollout | one step | by equation (rollout) |")
    print("|---|--:|--:|---|")
    for kind in PRETRAININGS:
        runs = [scores for training, scores in found.items() if training.kind == kind]
        if runs:
            means = {
                name: fmean(at_most_1(run[name]["rel_l2"]) for run in runs) for name in runs[0]
            }
            by_equation = ", ".join(f"{name} {mean:.3f}" for name, mean in means.items())
            rollout, one_step = mean_of(runs, "rel_l2"), mean_of(runs, "one_step_rel_l2")
            print(f"| {kind} | {rollout} | {one_step} | {by_equation} |")
    print("\n| task | start | rate | rollout | one step | persistence |")
    print("|---|---|--:|--:|--:|--:|")
    for task, start in product(TASKS, ("scratch", "pre-trained")):
        for rate in RATES:
            runs = [s for t, s in found.items() if t[:3] == (task, start, rate)]
            if runs:
                print(
                    f"| {task} | {start} | {rate:g} | {mean_of(runs, 'rel_l2')} "
                    f"| {mean_of(runs, 'one_step_rel_l2')} "
                    f"| {fmean(float(run[task]['persistence_rel_l2']) for run in runs):.3f} |"
                )


def at_most_1(error: float | str) -> float:
    """Return an error, at most that of a forecast of zeros; "NaN" or "Infinity" is as bad."""
    return min(float(error), 1.0) if math.isfinite(float(error)) else 1.0


def mean_of(runs: Sequence[dict[str, Any]], key: str) -> str:
    """Return the mean over seeds of the mean over datasets, each at most 1, and its interval."""
    errors = [fmean(at_most_1(score[key]) for score in run.values()) for run in runs]
    if len(errors) == 1:
        return f"{errors[0]:.4f}"
    spread = (max(errors) - min(errors)) / 2
    return f"{fmean(errors):.4f} +- {spread:.4f}"


if __name__ == "__main__":
    sys.exit(main())
