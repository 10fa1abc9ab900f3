"""How many requests a second does an MLflow server take from trials, and how fast is an archive?

    python benchmarks/cluster_rates.py --mlflow http://HOST:5000 [--writers 8] [--seconds 60]
    python benchmarks/cluster_rates.py --archive s3://BUCKET/PATH [--gib 2]

Each writer is a process with an MLflow run of its own, and sends what its spool has as the mirror
of a trial does, but without its pauses: as soon as one request is answered, two records of a
training are waiting for the next. An archive gets a checkpoint of eight shards of random numbers,
and gives it back onto an empty disk. Passwords come from the environment, as in a training.
"""

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from dpot_scale.checkpoints.archive import Archive
from dpot_scale.checkpoints.checkpoint import Marker, checkpoint_name, examine
from dpot_scale.config.places import MARKER
from dpot_scale.config.run import CheckpointConfig
from dpot_scale.files import write_whole
from dpot_scale.tracking.mlflow_client import client
from dpot_scale.tracking.names import (
    DATA_WAIT_FRACTION,
    GRADIENT_NORM,
    LEARNING_RATE,
    LOSS,
    MFU,
    MODEL_TFLOPS_PER_SECOND,
    PEAK_GIB,
    STEP_SECONDS,
    TRAIN_FLOPS,
    WINDOWS,
    WINDOWS_PER_SECOND,
)
from dpot_scale.tracking.points import Points
from dpot_scale.tracking.spool import SPOOL, STEP, TIME, open_spool

# What a training on GPUs records at a time.
METRICS = (
    LOSS, GRADIENT_NORM, LEARNING_RATE, WINDOWS_PER_SECOND, STEP_SECONDS, DATA_WAIT_FRACTION,
    MODEL_TFLOPS_PER_SECOND, MFU, PEAK_GIB, WINDOWS, TRAIN_FLOPS,
)  # fmt: skip
RECORDS = 2  # in a request: what steps of L leave in the two seconds between two of a mirror
RUN = "cluster_rates"  # the name of an experiment, and of a run in an archive
SHARDS = 8


def main() -> None:
    """Print a row per place."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--mlflow", help="address of a server")
    parser.add_argument("--writers", type=int, nargs="+", default=[8])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--archive", nargs="+", default=[], help="URLs")
    parser.add_argument("--gib", type=float, default=2, help="size of the checkpoint")
    args = parser.parse_args()
    if args.mlflow:
        print("| writers | requests/s | metrics/s | median ms | 99 % | longest |")
        print("|--:|--:|--:|--:|--:|--:|")
    for writers in args.writers if args.mlflow else []:
        print(rates(args.mlflow, writers, args.seconds), flush=True)
    if args.archive:
        print("| archive | GB | copied s | MB/s | fetched s | MB/s |")
        print("|---|--:|--:|--:|--:|--:|")
    for url in args.archive:
        print(copying(url, args.gib), flush=True)


def rates(address: str, writers: int, seconds: float) -> str:
    """Let so many processes send for so long; return a row."""
    mlflow = client(address)
    found = mlflow.get_experiment_by_name(RUN)
    experiment = found.experiment_id if found else mlflow.create_experiment(RUN)
    work = [(address, mlflow.create_run(experiment).info.run_id, seconds) for _ in range(writers)]
    context = multiprocessing.get_context("spawn")
    together = context.Barrier(writers)
    with context.Pool(writers, initializer=_meet_at, initargs=(together,)) as pool:
        took = sorted(one for of_writer in pool.map(_write, work, 1) for one in of_writer)
    rate = len(took) / seconds
    late = took[int(0.99 * len(took))]
    return (
        f"| {writers} | {rate:.0f} | {rate * RECORDS * len(METRICS):,.0f} "
        f"| {1e3 * median(took):.0f} | {1e3 * late:.0f} | {1e3 * took[-1]:.0f} |"
    )


def _meet_at(barrier: object) -> None:
    """Keep where the writers wait for each other, so that they begin together."""
    globals()["BARRIER"] = barrier


def _write(work: tuple[str, str, float]) -> Sequence[float]:
    """Send records to a run; return the seconds of each request."""
    address, run_id, seconds = work
    took: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        spool = open_spool(Path(folder) / SPOOL)
        points = Points(client(address), run_id, Path(folder) / SPOOL)
        step = 0
        ends = float("inf")
        while time.perf_counter() < ends:
            for _ in range(RECORDS):
                step += 1
                values = dict.fromkeys(METRICS, step + 0.123456789)
                spool.append({STEP: step, TIME: time.time(), **values})
            begun = time.perf_counter()
            points.send(lambda: None)
            if step > RECORDS:
                took.append(time.perf_counter() - begun)
            else:  # the first asks for what the run has, once for each metric
                globals()["BARRIER"].wait()
                ends = time.perf_counter() + seconds
        spool.close()
    return took


def copying(url: str, gib: float) -> str:
    """Copy a checkpoint to an archive and back; return a row."""
    with tempfile.TemporaryDirectory() as folder:
        here, there = Path(folder) / "checkpoints", Path(folder) / "fetched" / "checkpoints"
        size = make_checkpoint(here / checkpoint_name(1), int(gib * 2**30) // SHARDS)
        archive = Archive(url, RUN, RUN)
        copied = timed(lambda: archive.sync(here, CheckpointConfig()))
        fetched = timed(lambda: archive.fetch(there))
    return (
        f"| {url.partition(':')[0]} | {size / 1e9:.1f} | {copied:.1f} | {size / 1e6 / copied:.0f} "
        f"| {fetched:.1f} | {size / 1e6 / fetched:.0f} |"
    )


def make_checkpoint(folder: Path, shard_bytes: int) -> int:
    """Make a committed checkpoint of random shards; return its bytes."""
    folder.mkdir(parents=True)
    names = [f"shard_{rank:05d}.safetensors" for rank in range(SHARDS)]
    for name in names:
        (folder / name).write_bytes(os.urandom(shard_bytes))
    files = {name: examine(folder / name) for name in names}
    marker = Marker(step=1, world_size=SHARDS, identity=RUN, time=time.time(), files=files)
    write_whole(folder / MARKER, marker.model_dump_json())
    return SHARDS * shard_bytes


def timed(work: Callable[[], object]) -> float:
    """Return how long a call takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
