"""How far are healthy steps from `limits.spike`, and how small a fault does it find?

    python benchmarks/spike_margin.py margin [--seeds 0 1] [--only TEXT] [--runs DIR]
    python benchmarks/spike_margin.py faults [--only TEXT] [--runs DIR]

`margin` trains two recipes with three families, two optimizers and several seeds, and one of them
in other ways. Its rows say in what proportion a loss or a gradient norm was to the largest before
it, at most: of the steps as they were made, and of those behind a resume at any step, which knows
only means. Then, at how many steps a fault would have been found, and from which factor on at all
of them. `faults` multiplies the gradient of one step, without the rule and with it, to see what
that costs; a loss that is multiplied does the same to the weights.

What is in DIR is not trained again.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from dpot_scale.config.limits import LimitsConfig
from dpot_scale.config.load import load_run
from dpot_scale.runs.result import read_result
from dpot_scale.runs.rollbacks import read_rollbacks
from dpot_scale.tracking import names
from dpot_scale.tracking.spool import SPOOL, STEP, TIME, read_metrics
from dpot_scale.training.meter import Measured
from dpot_scale.training.spikes import REMEMBERED, SETTLED_AFTER, Spikes, recorded_steps

# The data and the size of the quickstart, in short trainings that record each step.
CONFIG = """
extends: {preset}
windows: 2400
model: {{size: debug, grid: 64, channels: 2}}
data:
  root: data/quickstart
  suite: quickstart
  sampling: weighted
  weights: {{ns2d_fno_1e-3_generated: 1, dr_pdb_generated: 1, swe_pdb_generated: 1}}
  strides: [1]
  mask_points: false
optim: {{lr: {lr}, muon_lr: 0.014}}
batch: {{global_batch: 8, micro_batch: 8}}
engine: {{deepspeed: zero0_fp32}}
evaluation: {{every: 0, watched: 1, trajectories: 12, batch: 12}}
checkpoint: {{every: 0, minutes: 0}}
limits: {{spike: null}}
tracking: {{mlflow_uri: null, log_every: 1}}
"""
RECIPES = {"improved": ("improved", 2e-3), "published": ("paper_ti", 1e-3)}
FAMILIES = {
    "dpot": (),
    "vit": ("model.family=vit", "model.width=56", "model.depth=4", "model.heads=4"),
    "fno": ("model.family=fno", "model.width=10"),
}
OPTIMIZERS = {"adam": ("optim.kind=adam",), "muon": ("optim.kind=muon",)}
LIMIT = LimitsConfig().spike
LOG_EVERY = (10, 100)  # steps of a record
FAULT_AT = 200  # steps were made before the one with the fault
# In the place of `python -m dpot_scale.train`.
FAULTY = """
import sys
from dpot_scale import train
from dpot_scale.training import loop
factor, position = float(sys.argv[1]), int(sys.argv[2])
del sys.argv[1:3]
training_loss = loop.training_loss
def faulty(engine, batch, *rest):
    loss = training_loss(engine, batch, *rest)
    if position not in batch.positions:
        return loss
    return loss + (factor - 1) * (loss - loss.detach())
loop.training_loss = faulty
sys.exit(train.main())
"""


class Kind(NamedTuple):
    """A kind of training."""

    name: str
    recipe: str
    overrides: tuple[str, ...]


class Attempt(NamedTuple):
    """Steps that the rule judges."""

    past: Sequence[Measured]  # what it knows of those before
    first: int  # how many were made before
    steps: Sequence[Measured]


class Fault(NamedTuple):
    """What is multiplied in one step; a loss with its gradient."""

    what: str
    factor: float

    def of(self, step: Measured) -> Measured:
        """Return a step as it is with the fault."""
        loss = step.loss * self.factor if self.what == "loss" else step.loss
        return Measured(loss, step.grad_norm * self.factor)

    def __str__(self) -> str:
        return f"{self.what} x {self.factor:g}"


GRADIENTS = [Fault("gradient", 10.0**n) for n in (1, 2, 3, 6)]
FAULTS = [*GRADIENTS, *(Fault("loss", 10.0**n) for n in (1, 2, 3))]
KINDS = [
    Kind(f"{recipe}, {optimizer}, {family}", recipe, OPTIMIZERS[optimizer] + FAMILIES[family])
    for recipe, optimizer, family in product(RECIPES, OPTIMIZERS, FAMILIES)
] + [
    Kind(f"{recipe}, {name}", recipe, tuple(overrides.split()))
    for recipe, name, overrides in [
        ("published", "no warm-up", "optim.warmup.share=0"),
        ("published", "5 times the rate", "optim.lr=5e-3"),
        ("published", "batches of 1", "windows=300 batch.global_batch=1 batch.micro_batch=1"),
        ("published", "bf16", "engine.deepspeed=zero1_bf16"),
        ("improved", "bf16", "engine.deepspeed=zero1_bf16"),
        ("improved", "3 trajectories of each", "data.trajectories=3"),
        ("improved", "5 times the rates", "optim.lr=1e-2 optim.muon_lr=0.07"),
    ]
]


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["margin", "faults"])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--only", default="", help="rows whose name contains it")
    parser.add_argument("--runs", type=Path, default=Path("runs/spike_margin"))
    options = parser.parse_args()
    kinds = [kind for kind in KINDS if options.only in kind.name]
    if options.command == "margin":
        margin(kinds, options.seeds, options.runs.absolute())
    else:
        faults(kinds, options.runs.absolute())


def margin(kinds: Sequence[Kind], seeds: Sequence[int], runs: Path) -> None:
    """Print the proportions of healthy steps, and how many faults would have been found."""
    ways = ["as made", *(f"resumed, means of {every}" for every in LOG_EVERY)]
    columns = [f"{value}, {way}" for way in ways for value in ("loss", "gradient")]
    print_header(["training", "steps", *columns, *map(str, FAULTS), "gradient, always", "loss"])
    for kind in kinds:
        trainings = [steps_of(train(kind, runs, f"{kind.name}, {n}", f"seed={n}")) for n in seeds]
        judged = [
            [Attempt([], 0, steps) for steps in trainings],
            *([one for steps in trainings for one in resumed(steps, n)] for n in LOG_EVERY),
        ]
        proportions = [
            f"{max(proportion(value, attempt) for attempt in attempts):.1f}"
            for attempts in judged
            for value in Measured._fields
        ]
        found = [f"{fmean(share_found(fault, one) for one in trainings):.0%}" for fault in FAULTS]
        always = [max(found_from(what, one) for one in trainings) for what in ("gradient", "loss")]
        always_in_words = [f"x {factor:.0f}" for factor in always]
        print_row([kind.name, sum(map(len, trainings)), *proportions, *found, *always_in_words])


def faults(kinds: Sequence[Kind], runs: Path) -> None:
    """Print the held-out error of trainings with a fault."""
    print_header(["training", "fault", "proportion", "error", "error with the rule", "went back"])
    for kind in kinds:
        print_row([kind.name, "none", "", error_of(train(kind, runs, f"{kind.name}, 0")), "", ""])
        for fault in GRADIENTS:
            name = f"{kind.name}, {fault}"
            folder = train(kind, runs, name, fault=fault)
            *past, step = steps_of(folder)[: FAULT_AT + 1]
            one = Attempt(past[-REMEMBERED:], FAULT_AT, [step])
            of_each = [proportion(value, one) for value in Measured._fields]
            row = [kind.name, fault, " and ".join(f"{x:.3g}" for x in of_each), error_of(folder)]
            if Spikes(LIMIT, one.past).find(one.first, one.steps) is not None:
                rule = ("checkpoint.every=50", f"limits.spike={LIMIT}")
                folder = train(kind, runs, f"{name}, judged", *rule, fault=fault)
                row += [error_of(folder), str(len(read_rollbacks(folder)))]
            print_row([*row, "", ""][:6])


def train(kind: Kind, runs: Path, title: str, *overrides: str, fault: Fault | None = None) -> Path:
    """Train a run, or take the one that is there; return its folder."""
    name = "".join(letter if letter.isalnum() else "_" for letter in title)
    given = [f"name={name}", f"output={runs}", "seed=0", *kind.overrides, *overrides]
    preset, lr = RECIPES[kind.recipe]
    command = [sys.executable, "-m", "dpot_scale.train"]
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(CONFIG.format(preset=preset, lr=lr))
        file.flush()
        if fault is not None:
            at = FAULT_AT * load_run(file.name, given).batch.global_batch
            command = [sys.executable, "-c", FAULTY, str(fault.factor), str(at)]
        environment = dict(os.environ) | {"OMP_NUM_THREADS": "1"}
        made = [*command, "--config", file.name, *given]
        subprocess.run(made, env=environment, check=True, stdout=subprocess.DEVNULL)
    return runs / name


def steps_of(folder: Path) -> list[Measured]:
    """Return the steps of a run that recorded each of them."""
    metrics = read_metrics(folder / SPOOL)
    pairs = zip(metrics[names.LOSS].values(), metrics[names.GRADIENT_NORM].values(), strict=True)
    return [Measured(*pair) for pair in pairs]


def resumed(steps: Sequence[Measured], every: int) -> Iterator[Attempt]:
    """Yield an attempt for each step that it may begin after, as a checkpoint may be there."""
    with tempfile.TemporaryDirectory() as folder:
        spool = Path(folder) / SPOOL
        for first in range(SETTLED_AFTER, len(steps)):
            ends = [*range(every, first, every), first]  # a checkpoint ends an interval, too
            begins = [0, *ends]
            lines = (
                record(end, steps[begin:end]) for begin, end in zip(begins, ends, strict=False)
            )
            spool.write_text("".join(lines))
            yield Attempt(recorded_steps(spool, first), first, steps[first : first + REMEMBERED])


def record(step: int, part: Sequence[Measured]) -> str:
    """Return the line of a spool after some steps."""
    means = map(fmean, zip(*part, strict=True))
    values = dict(zip((names.LOSS, names.GRADIENT_NORM), means, strict=True))
    return f"{json.dumps({STEP: step, TIME: 0.0, **values})}\n"


def proportion(value: str, attempt: Attempt) -> float:
    """Return the largest proportion in which the rule sees the losses, or the norms, of steps."""

    def alone(some: Iterable[Measured]) -> list[Measured]:
        return [Measured(0, 0)._replace(**{value: getattr(one, value)}) for one in some]

    past, steps, factor = alone(attempt.past), alone(attempt.steps), 0.0
    while (spike := Spikes(factor, past).find(attempt.first, steps)) is not None:
        factor = 1.000001 * spike.value / spike.largest
    return factor


def share_found(fault: Fault, steps: Sequence[Measured]) -> float:
    """Return at which share of the steps a fault would be a spike."""
    return fmean(
        Spikes(LIMIT, steps[:at]).find(at, [fault.of(steps[at])]) is not None
        for at in range(SETTLED_AFTER, len(steps))
    )


def found_from(what: str, steps: Sequence[Measured]) -> float:
    """Return the factor from which on a fault is found at every step."""
    values = ["grad_norm"] if what == "gradient" else Measured._fields
    settled = range(SETTLED_AFTER, len(steps))
    judged = [Attempt(steps[:at], at, [steps[at]]) for at in settled]
    least = min(max(proportion(value, one) for value in values) for one in judged)
    return (LIMIT or 0.0) / least


def error_of(folder: Path) -> str:
    """Return the mean held-out error of a rollout."""
    result = read_result(folder)
    assert result is not None
    return f"{fmean(score.rel_l2 for score in result.evaluation.values()):.4f}"


def print_header(columns: Sequence[str]) -> None:
    """Print the head of a table; its first column holds words."""
    print(f"| {' | '.join(columns)} |\n|---{'|--:' * (len(columns) - 1)}|")


def print_row(cells: Iterable[object]) -> None:
    """Print a row of a table."""
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
