"""How fast do windows reach the model, does memory grow, and does training wait for them?

Speed: the same trajectories are written in the format of the public implementation of DPOT (a
checkout of it is given by --reference) and in ours. Both loaders run in turn, each with one reader
beside the consumer, on a warm page cache and one thread of torch each. A window counts when its
batch lies in memory, resized to 128 x 128 and padded to 4 channels. Before, both must give equal
numbers.

Memory: what this process holds while it takes 100,000 windows of all datasets.

Waiting: the share of a real training that waits for data, of DPOT-Ti at 128 x 128.

    python benchmarks/data_loading.py --reference PATH [--sets swe_pdb dr_pdb] [--only speed]
"""

import argparse
import contextlib
import importlib
import itertools
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import psutil
import torch
from numpy.typing import NDArray

from dpot_scale.config.data import DataConfig
from dpot_scale.config.load import dump
from dpot_scale.config.run import (
    BatchConfig,
    EngineConfig,
    EvaluationConfig,
    ObjectiveConfig,
    RunConfig,
    TrackingConfig,
)
from dpot_scale.config.strategy import read_strategy
from dpot_scale.data.catalog import CATALOG
from dpot_scale.data.info import DatasetInfo
from dpot_scale.data.store.dataset import DatasetStore, open_store
from dpot_scale.data.store.writer import StoreWriter
from dpot_scale.data.stream.assembly import Assembler, Window
from dpot_scale.data.stream.mixture import Cut, open_mixture
from dpot_scale.data.stream.reader import BatchStream, Share, training_windows
from dpot_scale.models.dpot.config import DPOTConfig
from dpot_scale.tracking.spool import SPOOL, read_metrics

# One of each layout; the three other compressible sets are like the one here.
SETS = (
    "ns2d_fno_1e-5",
    "ns2d_fno_1e-4",
    "ns2d_fno_1e-3",
    "ns2d_pdb_M1_eta1e-1_zeta1e-1",
    "swe_pdb",
    "dr_pdb",
    "ns2d_pda",
    "ns2d_cond_pda",
    "cfdbench",
)
TARGETS = {name: 10 if name in {"swe_pdb", "dr_pdb", "ns2d_cond_pda"} else 4 for name in SETS}
# How the public implementation stores them: all trajectories in one file, or double precision.
ONE_FILE = {"ns2d_fno_1e-5", "ns2d_fno_1e-4", "ns2d_fno_1e-3", "cfdbench"}
DOUBLES = {"ns2d_pda", "ns2d_cond_pda", "cfdbench"}

MODEL = DPOTConfig(size="Ti")  # 128 x 128, 4 channels, 10 frames in, 1 out
FRAMES, BATCH = MODEL.history + MODEL.horizon, 16
TRAJECTORIES = 24
REPETITIONS = 10_000  # of each trajectory in an epoch of theirs, which then never ends
CPU = torch.device("cpu")

Array = NDArray[Any]
TheirDataset = torch.utils.data.Dataset[tuple[torch.Tensor, ...]]


def main() -> None:
    """Print the table of speeds, then memory, then waiting."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--reference", type=Path, help="folder of utils/griddataset.py")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--only", choices=("speed", "memory", "waiting"))
    parser.add_argument("--seconds", type=float, default=2.0, help="of one repeat of one loader")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--windows", type=int, default=100_000, help="of the memory part")
    args = parser.parse_args()
    if args.only in {None, "speed"} and args.reference is None:
        parser.error("the comparison of speeds needs --reference PATH")
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, h5py {h5py.__version__}, batches of {BATCH}")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        stores = {name: write_ours(root / "ours", name) for name in args.sets}
        if args.only in {None, "speed"}:
            sys.path.insert(0, str(args.reference.absolute()))
            print("\n| dataset | ours, windows/s | reference, windows/s | ratio | target |")
            print("|---|--:|--:|--:|--:|")
            for name in args.sets:
                print(compare(root, stores[name], args.seconds, args.repeats), flush=True)
        if args.only in {None, "memory"}:
            print_memory(stores, args.windows)
        if args.only in {None, "waiting"}:
            print_waiting(root, args.sets)


def compare(root: Path, store: DatasetStore, seconds: float, repeats: int) -> str:
    """Return a row of the table of speeds."""
    name = store.info.name
    theirs = reference_dataset(root / "theirs", name)
    check_equal(theirs, store)
    ours_rates, their_rates = [], []
    for repeat in range(repeats):
        ours_rates.append(our_speed({name: store}, seconds))
        their_rates.append(their_speed(theirs, seconds, seed=repeat))
    shutil.rmtree(root / "theirs" / name)
    pairs = [ours / theirs for ours, theirs in zip(ours_rates, their_rates, strict=True)]
    return (
        f"| {name} | {max(ours_rates):.0f} | {max(their_rates):.0f} "
        f"| {max(ours_rates) / max(their_rates):.1f} (pairs: {statistics.median(pairs):.1f}) "
        f"| {TARGETS[name]} |"
    )


def our_speed(stores: Mapping[str, DatasetStore], seconds: float) -> float:
    """Return the windows per second of our loader, after a second that warms up."""
    stream = our_stream(stores)
    try:
        return windows_per_second(stream.start(0), seconds)
    finally:
        stream.close()


def their_speed(dataset: TheirDataset, seconds: float, seed: int) -> float:
    """Return the same of the public implementation, with one worker process."""
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_size=BATCH,
        shuffle=True,
        num_workers=1,
        generator=torch.Generator().manual_seed(seed),
    )
    return windows_per_second(iter(loader), seconds)


def windows_per_second(batches: Iterator[object], seconds: float) -> float:
    """Return how many windows arrive in a second, after one second that warms up."""
    warm = time.perf_counter() + 1.0
    while time.perf_counter() < warm:
        next(batches)
    start, taken = time.perf_counter(), 0
    while time.perf_counter() < start + seconds:
        next(batches)
        taken += BATCH
    return taken / (time.perf_counter() - start)


def our_stream(stores: Mapping[str, DatasetStore]) -> BatchStream:
    """Return an endless stream over some datasets, equally often."""
    data = DataConfig(weights=dict.fromkeys(stores, 1.0))
    return BatchStream(
        stores,
        open_mixture(training_windows(stores, FRAMES), data, seed=0),
        Share(BatchConfig(global_batch=BATCH, micro_batch=BATCH)),
        Assembler(MODEL, data, CPU),
        FRAMES,
    )


def check_equal(dataset: TheirDataset, store: DatasetStore) -> None:
    """Refuse to time two loaders that do not give the same windows."""
    assembler = Assembler(MODEL, DataConfig(weights={store.info.name: 1.0}), CPU)
    for trajectory in range(3):
        np.random.seed(trajectory)  # noqa: NPY002 (theirs draws its start so)
        inputs, target, _, _ = dataset[trajectory * REPETITIONS]
        np.random.seed(trajectory)  # noqa: NPY002
        start = np.random.randint(store.num_frames("train") - FRAMES + 1)  # noqa: NPY002
        window = Window(store, "train", Cut(trajectory, start, stride=1))
        found = assembler.batch([window], assembler.empty(1, FRAMES))
        expected = torch.cat([inputs, target], dim=2).permute(2, 3, 0, 1)
        torch.testing.assert_close(found.frames_BTCxy[0], expected, rtol=1e-5, atol=1e-6)


def print_memory(stores: Mapping[str, DatasetStore], windows: int) -> None:
    """Print the resident memory of this process along a long stream of all datasets."""
    print("\n| windows taken | resident, MiB |\n|--:|--:|")
    stream, process = our_stream(stores), psutil.Process()
    batches = stream.start(0)
    tenth = windows // 10
    for taken in itertools.count(BATCH, BATCH):
        next(batches)
        if taken == BATCH or taken % tenth < BATCH:
            print(f"| {taken:,} | {process.memory_info().rss / 2**20:.0f} |", flush=True)
        if taken >= windows:
            break
    stream.close()


def print_waiting(root: Path, names: Sequence[str]) -> None:
    """Print the share of time that a short training of DPOT-Ti waits for data."""
    config = RunConfig(
        name="waiting",
        output=root / "runs",
        windows=8 * 50,
        model=MODEL,
        data=DataConfig(root=root / "ours", weights=dict.fromkeys(names, 1.0)),
        objective=ObjectiveConfig(noise=5e-4),
        batch=BatchConfig(global_batch=8, micro_batch=8),
        engine=EngineConfig(deepspeed=read_strategy("zero1_bf16")),
        evaluation=EvaluationConfig(trajectories=1, rollout_frames=1),
        tracking=TrackingConfig(log_every=10),
    )
    (root / "run.yaml").write_text(dump(config), encoding="utf-8")
    command = [sys.executable, "-m", "dpot_scale.train", "--config", str(root / "run.yaml")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    metrics = read_metrics(config.directory / SPOOL)
    steps = list(metrics["perf/data_wait_fraction"])[1:]  # the first ones warm up
    waited = statistics.mean(metrics["perf/data_wait_fraction"][step] for step in steps)
    seconds = statistics.mean(metrics["perf/step_seconds"][step] for step in steps)
    print(f"\nDPOT-Ti, batch of 8, bf16: {seconds:.3f} s a step, data_wait_fraction {waited:.4f}")


def trajectories(name: str) -> Iterator[Array]:
    """Yield random trajectories (T, C, x, y) of the published shape; a mask does not change."""
    entry = CATALOG[name]
    rng = np.random.default_rng(list(CATALOG).index(name))
    for _ in range(TRAJECTORIES):
        shape = (entry.frames, len(entry.channels), entry.grid, entry.grid)
        fields = rng.random(shape, dtype=np.float32)
        for i, channel in enumerate(entry.channels):
            if channel == "mask":
                fields[:, i] = fields[0, i] > 0.5
        yield fields


def write_ours(root: Path, name: str) -> DatasetStore:
    """Write a dataset as `prepare` does."""
    entry = CATALOG[name]
    info = DatasetInfo(
        name=name,
        equation=entry.equation,
        channels=entry.channels,
        scored=tuple(channel != "mask" for channel in entry.channels),
        fluid_mask="mask" if "mask" in entry.channels else "",
        spatial_axes=("x", "y"),
        grid=(entry.grid, entry.grid),
        domain_length=(1.0, 1.0),
        frame_interval=1.0,
        boundary="periodic",
        origin="generated",
        source="random numbers",
    )
    with StoreWriter(root, info) as writer:
        for trajectory in trajectories(name):
            writer.append("train", trajectory[None])
        writer.append("test", trajectory[None])
    return open_store(root, name)


def reference_dataset(root: Path, name: str) -> TheirDataset:
    """Write a dataset as the public implementation does, and open it with its loader."""
    folder = root / name
    folder.mkdir(parents=True)
    as_theirs = (
        trajectory.transpose(2, 3, 0, 1).astype(np.float64 if name in DOUBLES else np.float32)
        for trajectory in trajectories(name)
    )
    path = folder
    if name in ONE_FILE:
        path = folder / "train.hdf5"
        with h5py.File(path, "w") as file:
            fields = np.stack(list(as_theirs))
            file["data"] = fields[..., 0] if fields.shape[-1] == 1 else fields
    else:
        for i, trajectory in enumerate(as_theirs):
            with h5py.File(folder / f"data_{i}.hdf5", "w") as file:
                file["data"] = trajectory
    with contextlib.chdir(root):  # their import writes a table into the current folder
        module = importlib.import_module("utils.griddataset")
    module.DATASET_DICT[name]["train_path"] = str(path)
    return module.MixedTemporalDataset(
        [name],
        [TRAJECTORIES],
        res=MODEL.grid,
        t_in=MODEL.history,
        t_ar=MODEL.horizon,
        n_channels=MODEL.channels,
        data_weights=[REPETITIONS],
    )


if __name__ == "__main__":
    main()
