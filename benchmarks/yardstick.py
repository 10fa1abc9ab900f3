"""What the outside yardsticks share: the error, our network, and the table.

`benchmarks/apebench.py` and `benchmarks/neuraloperator_darcy.py` are the commands. Each keeps its
work in one folder:

    files/             what `python -m dpot_scale.prepare import` reads
    truth.npy          the held-out frames that are forecast, (N, leads, C, x, y)
    rows/NETWORK.json  one line of the table
    data/, runs/       ours: the stored dataset, and the trained run

Legend: N trajectories, T lead times, C fields, s the space axes.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

TRUTH, FILES, ROWS = "truth.npy", "files", "rows"
BATCH = 10  # trajectories that our network forecasts at once
# One thread and no accelerator, so that CPU seconds mean the same for every network.
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """How one network did."""

    network: str
    parameters: int
    steps: int
    batch: int  # windows or pairs per step
    history: int  # frames that the network sees
    cpu_seconds: float  # of the training, with what starts it
    flops: float | None  # of the training
    errors: list[float]  # the nRMSE of each lead time


class Commands:
    """The command line of a yardstick: the folder, then a command; all of them have `table`."""

    def __init__(self, description: str) -> None:
        self._parser = argparse.ArgumentParser(description=description)
        self._parser.add_argument("out", type=Path)
        self._commands = self._parser.add_subparsers(required=True)
        self.add("table", print_table, "print what has been measured")

    def add(self, name: str, run: Callable[..., Row | None], what: str) -> argparse.ArgumentParser:
        """Add a command, and return its parser.

        Args:
            name: The command.
            run: What it does, with the folder and the arguments of the parser by name. A line of
                the table that it returns is kept.
            what: A line of help.
        """
        parser = self._commands.add_parser(name, help=what)
        parser.set_defaults(run=run)
        return parser

    def run(self) -> None:
        """Do what the command line says."""
        use_one_thread()
        options = vars(self._parser.parse_args())
        row = options.pop("run")(**options)
        if row is not None:
            save(options["out"], row)


def nrmse(forecast_NTCs: Array, truth_NTCs: Array) -> Array:
    """Return APEBench's `mean_nRMSE`, the error of each lead time, (T,).

    Of one state it is the sum over fields of |forecast - truth| / |truth|, with Euclidean norms
    over space (Koehler et al. 2024, `exponax.metrics.nRMSE`); of a lead time the mean over
    trajectories. For a single field it is the relative L2 error.
    """
    error_NTCs = np.asarray(forecast_NTCs, dtype=np.float64) - truth_NTCs
    truth_NTCs = np.asarray(truth_NTCs, dtype=np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # a rollout may diverge
        norms_NTC = [np.sqrt(np.square(u).sum((-2, -1))) for u in (error_NTCs, truth_NTCs)]
        return np.asarray((norms_NTC[0] / norms_NTC[1]).sum(2).mean(0))


def geometric_mean(errors: Sequence[float]) -> float:
    """Return how APEBench sums a rollout up (`aggregate_gmean`)."""
    return float(np.exp(np.mean(np.log(errors))))


def cpu_seconds() -> float:
    """Return the CPU time of this process and of the children that have ended."""
    of = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in of)


def use_one_thread() -> None:
    """Start this script again with one thread, unless it has been: libraries read it at import."""
    if any(os.environ.get(name) != value for name, value in ONE_THREAD.items()):
        os.environ.update(ONE_THREAD)
        os.execv(sys.executable, [sys.executable, *sys.argv])


def import_files(out: Path, name: str) -> None:
    """Read the files of a yardstick into the store, as a user does."""
    command = ["dpot_scale.prepare", "import", out / FILES, "--out", out / "data", "--name", name]
    _run(*command)


def write_config(file: Path, recipe: Mapping[str, Any], out: Path, run: str, windows: int) -> None:
    """Write the config of a run on the data of a yardstick.

    Args:
        file: The YAML file.
        recipe: What is laid over a preset, by `extends`.
        out: The folder of the yardstick.
        run: The name of the run.
        windows: How long it is.
    """
    places = {"output": out / "runs", "data": {**recipe["data"], "root": out / "data"}}
    config = {**recipe, **places, "name": run, "windows": windows}
    file.write_text(json.dumps(config, default=str, indent=1), encoding="utf-8")  # is YAML


def ours(out: Path, run: str, recipe: Mapping[str, Any], windows: int, known: int) -> Row:
    """Train our network as a user does, and score its forecasts.

    Args:
        out: The folder of the yardstick.
        run: The name of the run.
        recipe: What is laid over a preset, by `extends`.
        windows: How many the run sees.
        known: Held-out frames before the first one that is forecast.
    """
    write_config(out / f"{run}.yaml", recipe, out, run, windows)
    before, started = cpu_seconds(), time.perf_counter()
    _run("dpot_scale.train", "--config", out / f"{run}.yaml")
    spent, folder = cpu_seconds() - before, out / "runs" / run
    result = json.loads((folder / "result.json").read_text())
    truth = np.load(out / TRUTH)
    forecast, history = forecasts(folder, known, truth.shape[1])
    print(f"{run}: {spent:.0f} CPU s, {time.perf_counter() - started:.0f} s by the clock")
    return Row(
        network=run,
        parameters=result["parameters"],
        steps=result["steps"],
        batch=result["windows"] // result["steps"],
        history=history,
        cpu_seconds=spent,
        flops=result["train_flops"],
        errors=nrmse(forecast, truth).tolist(),
    )


def forecasts(folder: Path, known: int, leads: int) -> tuple[Array, int]:
    """Return what a run forecasts for the test split, (N, leads, C, s), and its history."""
    import torch

    from dpot_scale.checkpoints.weights import load_model
    from dpot_scale.config.load import load_run
    from dpot_scale.data.datasets import open_datasets
    from dpot_scale.data.stream.assembly import Assembler, Window
    from dpot_scale.data.stream.mixture import Cut
    from dpot_scale.forecasting.physical import in_physical_units
    from dpot_scale.forecasting.rollout import rollout

    config, model = load_run(str(folder / "config.yaml")), load_model(folder)
    (store,) = open_datasets(config.data, config.model, progress=print).values()
    assembler = Assembler(config.model, config.data, torch.device("cpu"))
    history = model.config.history
    cuts = [Cut(n, known - history, stride=1) for n in range(store.num_trajectories("test"))]
    parts = []
    with torch.no_grad():
        for first in range(0, len(cuts), BATCH):
            windows = [Window(store, "test", cut) for cut in cuts[first : first + BATCH]]
            batch = assembler.batch(windows, assembler.empty(len(windows), history))
            physical = in_physical_units(model, batch)
            parts.append(rollout(physical, batch.frames_BTCxy, leads).numpy())
    return np.concatenate(parts), history


def save(out: Path, row: Row) -> None:
    """Keep a line of the table."""
    (out / ROWS).mkdir(exist_ok=True)
    file = out / ROWS / f"{row.network.replace(';', '_')}.json"
    file.write_text(json.dumps(asdict(row), indent=1))
    print(lines([row]))


def print_table(out: Path) -> None:
    """Print the lines that have been kept."""
    print(lines(saved_rows(out)))


def saved_rows(out: Path) -> list[Row]:
    """Return the lines of the table, those with the smallest error first."""
    rows = [Row(**json.loads(file.read_text())) for file in (out / ROWS).glob("*.json")]
    return sorted(rows, key=lambda row: np.nan_to_num(geometric_mean(row.errors), nan=np.inf))


def lines(rows: Sequence[Row]) -> str:
    """Return the table in Markdown."""
    leads = len(rows[0].errors)
    shown = [lead for lead in (1, 10, 50, 100) if lead <= leads]
    header = ("network", "parameters", "steps x batch", "frames seen", "CPU s", "training FLOPs")
    header += ("geometric mean", "mean", *[f"lead {lead}" for lead in shown])
    body: list[tuple[str, ...]] = [header, ("---", *["--:"] * (len(header) - 1))]
    body += [
        (
            row.network,
            f"{row.parameters:,}",
            f"{row.steps} x {row.batch}",
            str(row.history),
            f"{row.cpu_seconds:.0f}",
            "" if row.flops is None else f"{row.flops:.1e}",
            f"{geometric_mean(row.errors):.4f}",
            f"{np.mean(row.errors):.4f}",
            *[f"{row.errors[lead - 1]:.4f}" for lead in shown],
        )
        for row in rows
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in body)


def _run(*command: object) -> None:
    environment = {**os.environ, **ONE_THREAD}
    subprocess.run([sys.executable, "-m", *map(str, command)], check=True, env=environment)
