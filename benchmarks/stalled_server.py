"""How long does a step wait for MLflow, whose server answers or is stopped from step 15 on?

Trainings of one process in turn with both; each step records points. Steps are timed by the
records of the run, where nothing is evaluated or saved in between; what each spends in
`tracker.log` is timed by itself. The end is the time from the last record to the end of the
process.

    python benchmarks/stalled_server.py [--pairs 3] [--steps 400]
"""

import argparse
import contextlib
import json
import signal
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
from soak_runs import RUN, SUITE, Server, killed, started

from dpot_scale.tracking.spool import SPOOL

STALLED_AT = 15
BATCH = 8  # windows of a step, as in `soak_runs.RUN`
TIMED = """
import atexit, json, pathlib, sys, time
from dpot_scale import train
from dpot_scale.tracking.tracker import Tracker
took, log, file = [], Tracker.log, pathlib.Path(sys.argv.pop(1))
def timed(self, metrics, *, step):
    begun = time.perf_counter()
    log(self, metrics, step=step)
    took.append(time.perf_counter() - begun)
Tracker.log = timed
atexit.register(lambda: file.write_text(json.dumps(took)))
sys.exit(train.main())
"""


def main() -> None:
    """Print a row per training."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400)
    args = parser.parse_args()
    print("| server | steps | median ms | 99 % | longest | log: median ms | longest | end s |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder))
        try:
            write_config(Path(folder), server.address, args.steps)
            for number in range(2 * args.pairs):
                print(row(Path(folder), server, number), flush=True)
        finally:
            killed(server.process)


def write_config(folder: Path, server: str, steps: int) -> None:
    """Write the config of a training that saves nothing on its way."""
    run = RUN.format(folder=folder, disk=folder, windows=BATCH * steps, every=0, server=server)
    (folder / "run.yaml").write_text(run, encoding="utf-8")
    (folder / "suite.yaml").write_text(SUITE, encoding="utf-8")


def row(folder: Path, server: Server, number: int) -> str:
    """Train once, with a server that is stopped in each second training; return a row."""
    stalls, name = number % 2 == 1, f"run_{number}"
    logged = folder / f"{name}.json"
    command = [sys.executable, "-c", TIMED, str(logged), "--config", str(folder / "run.yaml")]
    command += [f"name={name}", "evaluation.every=0"]
    spool = folder / "runs" / name / SPOOL
    training = started(command, folder / f"{name}.log")
    try:
        while stalls and training.poll() is None and len(times_of(spool)) < STALLED_AT:
            time.sleep(0.02)
        if stalls:
            server.signal(signal.SIGSTOP)
        if training.wait() != 0:
            raise SystemExit((folder / f"{name}.log").read_text()[-2000:])
        ended = time.time()
    finally:
        server.signal(signal.SIGCONT)
        killed(training)
    times = times_of(spool)
    took = [1000 * (after - before) for before, after in pairwise(times[STALLED_AT:])]
    kind = f"stopped from step {STALLED_AT} on" if stalls else "answers"
    middle, most = np.percentile(took, [50, 99])
    end = ended - times[-1]
    logs = [1000 * seconds for seconds in json.loads(logged.read_text())[STALLED_AT:]]
    steps = f"{len(took)} | {middle:.1f} | {most:.1f} | {max(took):.1f}"
    return f"| {kind} | {steps} | {np.median(logs):.2f} | {max(logs):.2f} | {end:.1f} |"


def times_of(spool: Path) -> list[float]:
    """Return when each step was recorded."""
    records = []
    with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
        records = [json.loads(line) for line in spool.read_text().splitlines()]
    return [record["time"] for record in records if "train/loss" in record]


if __name__ == "__main__":
    main()
